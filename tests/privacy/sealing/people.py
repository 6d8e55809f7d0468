"""Three people who know each other's keys, headers of their messages, and public keys that are none."""

import hmac
import struct
from dataclasses import asdict, replace

from hypothesis import strategies as st

from privacy.randomness import SeededRandomness
from privacy.sealing import Header, Identity, Roster

RANDOMNESS = SeededRandomness("sealing")
PEOPLE = {name: Identity.generate(RANDOMNESS) for name in ("client/0", "client/1", "keyholder")}
ALICE, BOB, EVE = PEOPLE.values()
ROSTER = Roster({name: person.public for name, person in PEOPLE.items()})
HEADER = Header("update", "ab" * 32, 3, "0123456789abcdef", "collect", "client/0", "client/1", b"model")
P = 2**255 - 19

texts = st.text(st.characters(exclude_categories=()), max_size=4)
headers = st.builds(Header, texts, texts, st.integers(0), texts, texts, texts, texts, st.binary(max_size=4))


def other_headers() -> list[Header]:
    """Headers with one field changed each, to a value that the roster knows."""
    changed = {"sender": "keyholder", "receiver": "keyholder", "round": 4, "given": b"another"}
    return [replace(HEADER, **{name: changed.get(name, str(value)[:-1])}) for name, value in asdict(HEADER).items()]


def flipped(data: bytes) -> list[bytes]:
    """The data with each bit flipped, one at a time."""
    number = int.from_bytes(data, "big")
    return [(number ^ 1 << bit).to_bytes(len(data), "big") for bit in range(8 * len(data))]


def framed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def hkdf(secret: bytes, info: bytes, salt: bytes = bytes(32), length: int = 32) -> bytes:
    """RFC 5869 by its definition, two blocks at most."""
    extracted = hmac.digest(salt, secret, "sha256")
    first = hmac.digest(extracted, info + b"\1", "sha256")
    return (first + hmac.digest(extracted, first + info + b"\2", "sha256"))[:length]


def number(value: int) -> bytes:
    return value.to_bytes(32, "little")


# Of order 8; the others are of order 1, 2 and 4. The list of libsodium (ed25519_ref10.c, x25519_ref10.c).
MONTGOMERY_8 = [
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
]
EDWARDS_8 = [
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]
LOW_U = [number(u) for u in (0, 1, P - 1)] + [bytes.fromhex(u) for u in MONTGOMERY_8]
LOW_Y = [number(y) for y in (0, 1, P - 1)] + [bytes.fromhex(y) for y in EDWARDS_8]
SIGNED_LOW_Y = LOW_Y + [y[:-1] + bytes([y[-1] | 0x80]) for y in LOW_Y]
TWICE = [number(P + 9), ALICE.public.exchange[:-1] + bytes([ALICE.public.exchange[-1] | 0x80])]  # another way to write
NO_KEY = [b"", bytes(31), bytes(33), b"\xff" * 32]
