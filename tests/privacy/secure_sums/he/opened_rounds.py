"""Rounds of opened sums that record all messages, and forgeries that a server could make of them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import (
    PrivacyRefusal,
    ProtocolError,
)
from privacy.secure_sums.contract import Exchange, Participant, Records, SecureSum
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.he.key_delivery import CHECK, SECRET
from privacy.secure_sums.he.protocol import _mask_key, _mask_seed
from privacy.secure_sums.he.ring import ring
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.vectors import Vector, VectorSpec
from privacy.testing.contract import vectors
from privacy.testing.harness import MemoryStore, Round, identity_of, spec_of
from tests.privacy.secure_sums.he.setups import generator

HOLDERS = ["keyholder", "clients"]
SUMS = [PadSum, BfvSum, CkksSum]
BOUND = 4.0
COUNT = 4
LENGTH = 30
ALL = [f"client/{client}" for client in range(COUNT)]
WINDOW = 16


@dataclass
class Recorded(Round):
    """A round that keeps every message, and treats refusals as answers."""

    passed: list[tuple[str, Address, Records, Records]] = field(default_factory=list)
    refusals: dict[Address, Exception] = field(default_factory=dict)

    def respond(self, exchange: Exchange, address: Address) -> Records:
        try:
            records = super().respond(exchange, address)
        except PrivacyRefusal as error:
            self.refusals[address] = error
            raise ProtocolError("a reply that holds an error") from error
        self.passed.append((exchange.stage, address, exchange.outbox[address], records))
        return records

    def at(self, stage: str) -> Iterator[tuple[Address, Records, Records]]:
        return ((address, sent, reply) for passed, address, sent, reply in self.passed if passed == stage)

    @property
    def opener(self) -> Address:
        return next(self.at("open"))[0]

    @property
    def request(self) -> Records:
        """The request that the opener got."""
        return next(self.at("open"))[1]


def recorded(secure_sum: SecureSum, count: int = COUNT, length: int = LENGTH, minimum: int = 2) -> Recorded:
    round_ = Recorded(secure_sum, spec_of(length, count, minimum), vectors(count, length))
    round_.run()
    return round_


def at_opener(round_: Recorded, **changes: object) -> Participant:
    """The opener before its first answer."""
    me = round_.party(round_.opener)
    store = MemoryStore()
    store.values = {
        name: value
        for name, value in round_.stores[me.address].values.items()
        if not name.startswith(("opened-", "set-"))
    }
    return replace(me, credentials=replace(me.credentials, store=store), **changes)


def opened(round_: Recorded, request: Records, me: Participant | None = None) -> Vector:
    answer = round_.secure_sum.respond("open", request, me or at_opener(round_), lambda: pytest.fail("trained"))
    return answer["opened"]


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def flips(data: bytes, count: int = 300) -> Iterator[bytes]:
    draw = generator("flips")
    return (flipped(data, int(bit)) for bit in draw.integers(0, 8 * len(data), count))


def uploads(round_: Recorded) -> dict[Address, tuple[bytes, bytes]]:
    """Each message with the part that the server adds to the tags for it."""
    replies = {address: reply for address, _, reply in round_.at("collect")}
    return {
        address: (r["message"], hashlib.sha256(r["message"]).digest() + r["salt"] + r["tag"])
        for address, r in replies.items()
    }


def forged(round_: Recorded, summed: list[Address], named: list[Address]) -> Records:
    """A request for the sum of some clients that names other clients."""
    sent = uploads(round_)
    adder = round_.secure_sum.scheme(round_.spec).adder()
    for address in summed:
        adder.add(sent[address][0])
    tags = b"".join(sent[address][1] for address in named)
    return {"sum": adder.message(), "contributors": ",".join(named), "tags": tags, "given": round_.given}


def collected(round_: Recorded, address: Address, opener: Address) -> Records:
    vector = round_.vectors[address]
    return round_.secure_sum.respond(
        "collect", {"opener": opener}, replace(round_.party(address), memory={}), lambda: vector
    )


def mask_key_of(round_: Recorded, address: Address, salt: bytes) -> bytes:
    me = round_.party(address)
    return _mask_key(me, me.credentials, address, round_.opener, salt)


def masks_of(round_: Recorded, address: Address, salt: bytes) -> np.ndarray:
    return round_.secure_sum.scheme(round_.spec).draw_mask(_mask_seed(mask_key_of(round_, address, salt)))


def windows(secret: bytes) -> set[bytes]:
    return {secret[start : start + WINDOW] for start in range(len(secret) - WINDOW + 1)}


def on_the_wire(round_: Recorded) -> set[bytes]:
    """All 16-byte windows of the messages to and from the server."""
    seen: set[bytes] = set()
    for _, _, sent, reply in round_.passed:
        for value in (*sent.values(), *reply.values()):
            data = value if isinstance(value, bytes) else value.tobytes() if isinstance(value, np.ndarray) else b""
            seen |= windows(data or str(value).encode())
    return seen


def plaintexts(spec: VectorSpec, vector_D: Vector) -> dict[str, bytes]:
    """Plausible encodings of an update in plaintext."""
    scheme = FixedPoint.of(spec, 16, "test")
    fixed = scheme.encode(vector_D)
    bits = scheme.sum_bits
    signed = fixed.astype(np.int64) - 32767
    dense = sum(int(value) << (bits * place) for place, value in enumerate(fixed))
    return {
        "float32": vector_D.tobytes(),
        "float64": vector_D.astype(np.float64).tobytes(),
        "in units of its bound": (vector_D / BOUND).astype(np.float64).tobytes(),
        "int64": signed.tobytes(),
        "uint64": fixed.tobytes(),
        "uint32": fixed.astype(np.uint32).tobytes(),
        "uint16": fixed.astype(np.uint16).tobytes(),
        "int16": signed.astype(np.int16).tobytes(),
        "packed": dense.to_bytes(-(-bits * len(fixed) // 8), "little"),
    }


def secrets_of(round_: Recorded) -> dict[str, bytes]:
    secrets = {f"identity of {name}": identity_of(name).to_bytes() for name in [*ALL, *round_.secure_sum.parties.roles]}
    for address, vector in round_.vectors.items():
        secrets |= {f"{address} as {how}": data for how, data in plaintexts(round_.spec, vector).items()}
    for address, _, reply in round_.at("collect"):
        key = mask_key_of(round_, address, reply["salt"])
        secrets |= {f"mask key of {address}": key, f"mask seed of {address}": _mask_seed(key)}
        secrets[f"mask of {address}"] = masks_of(round_, address, reply["salt"]).tobytes()[:4096]
    parameters = round_.secure_sum.scheme(round_.spec).parameters
    if parameters is not None:
        file = round_.stores[round_.opener].values[SECRET]
        secrets["secret key"] = file[64:]  # behind headers that public keys have too
        secrets |= secrets_of_the_check(round_)
        secrets["residues of the secret key"] = ring(parameters).secret_key.parse(file).residues_PKN.tobytes()
    return secrets


def secrets_of_the_check(round_: Recorded) -> dict[str, bytes]:
    """The keys of the linear check, and the digest of each client."""
    me = round_.party(round_.opener)
    key = round_.secure_sum._keys.attempt_key(me, me.own)
    check = round_.secure_sum.scheme(round_.spec).check
    digests = {a: check.digest(reply["message"], key).tobytes() for a, _, reply in round_.at("collect")}
    found = {f"digest of {address}": digest for address, digest in digests.items()}
    return {"key of the check": me.own.store.get(CHECK), "key of the check in this attempt": key, **found}


def numbers(**changed: object) -> dict[str, object]:
    return {"poly_modulus_degree": 4096, "coeff_modulus_bits": [54, 50], **changed}
