import hashlib
import hmac
import json
import pickle
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given, settings
from hypothesis import strategies as st
from randomgen import ChaCha
from scipy.stats import chisquare

from privacy.errors import BadSignature, ConfigError, ProtocolError, UnknownSender
from privacy.randomness import OsRandomness, SeededRandomness
from privacy.sealing import BOX_BYTES, Header, Identity, PublicKeys, Roster, check_mac, mac, open_box, seal, uniform

RANDOMNESS = SeededRandomness("sealing")
PEOPLE = {name: Identity.generate(RANDOMNESS) for name in ("client/0", "client/1", "keyholder")}
ALICE, BOB, EVE = PEOPLE.values()
ROSTER = Roster({name: person.public for name, person in PEOPLE.items()})
HEADER = Header("update", "ab" * 32, 3, "0123456789abcdef", "collect", "client/0", "client/1")
P = 2**255 - 19

texts = st.text(st.characters(exclude_categories=()), max_size=4)
headers = st.builds(Header, texts, texts, st.integers(0), texts, texts, texts, texts)


def other_headers() -> list[Header]:
    """Headers with one field changed each, to a value that the roster knows."""
    changed = {"sender": "keyholder", "receiver": "keyholder", "round": 4}
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


# ---- the primitives are those of the RFCs


@pytest.mark.parametrize(
    ("seed", "public"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
    ],
)
def test_signing_keys_are_those_of_rfc_8032(seed, public):
    """Section 7.1, tests 1 and 2."""
    assert Identity(bytes.fromhex(seed), bytes(32)).public.signing.hex() == public


def test_shared_keys_are_those_of_rfc_7748():
    """Section 6.1, and HKDF of its secret."""
    alice = Identity(bytes(32), bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = Identity(bytes(32), bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    secret = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    pair = sorted((alice.public.exchange, bob.public.exchange))
    assert bob.public.exchange.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    expected = hkdf(secret, framed(b"fedveil shared key 1", HEADER.encode(), b"salt", *pair))
    assert alice.shared(bob.public, HEADER, b"salt") == bob.shared(alice.public, HEADER, b"salt") == expected


def test_the_oracle_of_hkdf_is_rfc_5869():
    """Appendix A.1."""
    info = bytes(range(0xF0, 0xFA))
    salt = bytes(range(13))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf(b"\x0b" * 22, info, salt, 42).hex() == expected


def test_masks_are_the_stream_of_rfc_8439():
    """Appendix A.1, test vectors 1 and 2: two blocks of the zero key."""
    expected = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    for bits in (8, 16, 32, 64):
        words = uniform(bytes(32), 1024 // bits, 1 << bits)
        assert words.astype(f"<u{bits // 8}").tobytes().hex() == expected


def test_a_box_is_what_it_says():
    """Taken apart with the library's own pieces and a header that is encoded by hand."""
    box = seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS)
    exchange = X25519PrivateKey.from_private_bytes(BOB.to_bytes()[32:]).exchange
    secrets = b"".join(exchange(X25519PublicKey.from_public_bytes(k)) for k in (box[:32], ALICE.public.exchange))
    fields = (b"update", b"ab" * 32, b"3", b"0123456789abcdef", b"collect", b"client/0", b"client/1")
    header = framed(*fields)
    key = hkdf(secrets, framed(b"fedveil box 1", header, box[:32], ALICE.public.exchange, BOB.public.exchange))
    assert ChaCha20Poly1305(key).decrypt(bytes(12), box[32:], header) == b"secret"


def test_a_signature_is_what_it_says():
    signed = framed(b"fedveil signature 1", HEADER.encode(), hashlib.sha256(b"payload").digest())
    Ed25519PublicKey.from_public_bytes(ALICE.public.signing).verify(ALICE.sign(HEADER, b"payload"), signed)


def test_a_tag_is_the_hmac_of_its_parts():
    """RFC 2104 by its definition."""
    key = bytes(range(32))
    message = framed(b"one", b"", b"two")
    inner, outer = (bytes(byte ^ pad for byte in key + bytes(32)) for pad in (0x36, 0x5C))
    expected = hashlib.sha256(outer + hashlib.sha256(inner + message).digest()).digest()
    assert mac(key, [b"one", b"", b"two"]) == expected


# ---- headers


@settings(deadline=None)
@given(headers, headers)
@example(replace(HEADER, stage="a", sender="bc"), replace(HEADER, stage="ab", sender="c"))
@example(replace(HEADER, stage="\ud800\udc00"), replace(HEADER, stage="\U00010000"))
@example(replace(HEADER, stage='","'), replace(HEADER, stage='"', sender=',"' + HEADER.sender))
def test_headers_are_told_apart(one, other):
    assert (one.encode() == other.encode()) == (one == other)


@settings(deadline=None)
@given(headers, st.sampled_from(list(asdict(HEADER))), st.data())
def test_every_field_of_a_header_counts(header, name, data):
    value = data.draw(st.integers(0) if name == "round" else texts)
    changed = replace(header, **{name: value})
    assert (changed.encode() == header.encode()) == (getattr(header, name) == value)


# ---- identities


def test_an_identity_comes_back_from_its_bytes():
    again = Identity.from_bytes(ALICE.to_bytes())
    assert again.public == ALICE.public
    assert open_box(Identity.from_bytes(BOB.to_bytes()), ROSTER, HEADER, seal(again, ROSTER, HEADER, b"x", RANDOMNESS))


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65), bytes(32)])
def test_other_bytes_are_no_identity(data):
    with pytest.raises(ConfigError, match=f"^key={len(data)} bytes"):
        Identity.from_bytes(data)


def test_identities_are_made_of_fresh_keys():
    made = [Identity.generate(OsRandomness()).public for _ in range(20)]
    assert len({key for public in made for key in (public.signing, public.exchange)}) == 40


def test_private_keys_show_in_no_text():
    with pytest.raises(ConfigError) as short:
        Identity.from_bytes(ALICE.to_bytes()[:-1])
    texts = [repr(ALICE), str(ALICE), f"{[ALICE]} {ROSTER!r}", repr(ALICE.public), str(short.value), repr(short.value)]
    for seed in (ALICE.to_bytes()[:32], ALICE.to_bytes()[32:]):
        shown = (seed.hex(), repr(seed)[2:-1], str(list(seed))[1:-1], str(int.from_bytes(seed, "little")))
        assert not [text for text in texts for form in shown if form in text]
    with pytest.raises(TypeError):
        pickle.dumps(ALICE)


# ---- the roster


def test_a_roster_knows_its_own():
    assert [ROSTER[name] for name in PEOPLE] == [person.public for person in PEOPLE.values()]
    with pytest.raises(UnknownSender, match=r"^client/9 is not on the roster$"):
        ROSTER["client/9"]


@settings(deadline=None)
@given(st.permutations(list(PEOPLE)))
def test_a_roster_is_written_in_one_way(order):
    written = Roster({name: PEOPLE[name].public for name in order}).to_bytes()
    assert written == ROSTER.to_bytes() == Roster.from_bytes(written).to_bytes()
    assert Roster.from_bytes(written).digest == ROSTER.digest == hashlib.sha256(written).digest()


@pytest.mark.parametrize("address", PEOPLE)
def test_every_key_of_a_roster_is_in_its_digest(address):
    members = {name: person.public for name, person in PEOPLE.items()}
    fresh = Identity.generate(RANDOMNESS).public
    for name in ("signing", "exchange"):
        public = replace(members[address], **{name: getattr(fresh, name)})
        assert Roster({**members, address: public}).digest != ROSTER.digest


@pytest.mark.parametrize("name", ["signing", "exchange"])
def test_two_roles_may_not_share_a_key(name):
    public = replace(BOB.public, **{name: getattr(ALICE.public, name)})
    with pytest.raises(ConfigError, match=r"^roster=client/1: has a key of client/0"):
        Roster({"client/0": ALICE.public, "client/1": public})


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


@pytest.mark.parametrize("key", LOW_U + TWICE + NO_KEY, ids=bytes.hex)
def test_an_exchange_key_must_be_one(key):
    with pytest.raises(ConfigError, match=r"^roster=client/0: has an invalid public key"):
        Roster({"client/0": replace(ALICE.public, exchange=key)})


@pytest.mark.parametrize("key", SIGNED_LOW_Y + NO_KEY, ids=bytes.hex)
def test_a_signing_key_must_be_one(key):
    with pytest.raises(ConfigError, match=r"^roster=client/0: has an invalid public key"):
        Roster({"client/0": replace(ALICE.public, signing=key)})


def test_what_the_roster_refuses_would_do_harm():
    """Under the signing key of order 1 one signature holds for everything; keys of order 8 have one secret for all."""
    forged = number(1) + bytes(32)
    for message in (b"one", b"two"):
        Ed25519PublicKey.from_public_bytes(number(1)).verify(forged, message)
    exchange = X25519PrivateKey.from_private_bytes(BOB.to_bytes()[32:]).exchange
    assert exchange(X25519PublicKey.from_public_bytes(number(P + 9))) == BOB.public.exchange
    for key in LOW_U:
        with pytest.raises(BadSignature):
            BOB.shared(PublicKeys(ALICE.public.signing, key), HEADER, b"")


def test_half_of_all_numbers_are_on_no_curve():
    """An honest key always passes; a random number does by half."""
    honest = {f"client/{i}": Identity.generate(RANDOMNESS).public for i in range(100)}
    assert Roster(honest)["client/99"]
    refused = 0
    for index, public in enumerate(honest.values()):
        key = number(int.from_bytes(RANDOMNESS.key(), "little") % P)
        try:
            Roster({"a": replace(public, signing=key) if index % 2 else replace(public, exchange=key)})
        except ConfigError:
            refused += 1
    assert 25 < refused < 75  # beyond five standard deviations


def mutate(data: bytes, draw: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    kind = draw.integers(6)
    start, end = sorted(draw.integers(0, len(data), 2).tolist())
    if kind == 0:
        damaged[start] ^= 1 << int(draw.integers(8))
    elif kind == 1:
        del damaged[start:end]
    elif kind == 2:
        damaged[start:end] = draw.bytes(end - start)
    elif kind == 3:
        damaged[start] = b' "[]{},:0f\\'[draw.integers(11)]
    elif kind == 4:
        damaged[start:start] = data[start:end]
    else:
        damaged = bytearray(draw.bytes(int(draw.integers(200))))
    return bytes(damaged)


def test_a_damaged_roster_is_refused_or_another():
    """2,000 cases; a digit of a key may make another key, which has another digest."""
    draw = SeededRandomness("roster fuzz").generator()
    refused = 0
    for _ in range(2000):
        damaged = mutate(ROSTER.to_bytes(), draw)
        try:
            assert Roster.from_bytes(damaged).to_bytes() == damaged
        except ConfigError:
            refused += 1
    assert refused > 1500


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"ab"',
        b"[" * 200_000,
        b'{"client/0":' * 200_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b'{"client/0":null}',
        b'{"client/0":["",""]}',
        b'{"client/0":[1,2]}',
        b'{"client/0":["ab","cd","ef"]}',
        ROSTER.to_bytes() + b"\n",
        ROSTER.to_bytes().replace(b":", b": "),
        ROSTER.to_bytes().replace(b'"client/0"', b'"client\\u002f0"'),
        ROSTER.to_bytes().replace(b'"client/1"', b'"client/0"'),
        json.dumps({"client/0": [k.hex().upper() for k in (ALICE.public.signing, ALICE.public.exchange)]}).encode(),
    ],
    ids=range(17),
)
def test_other_bytes_are_no_roster(data):
    with pytest.raises(ConfigError, match=r"^roster="):
        Roster.from_bytes(data)


# ---- signatures


@settings(deadline=None)
@given(st.binary(max_size=200), headers)
def test_a_signature_holds_for_what_was_signed(payload, header):
    header = replace(header, sender="client/0")
    ROSTER.verify(header, payload, ALICE.sign(header, payload))


def test_a_signature_with_any_bit_changed_fails():
    signature = ALICE.sign(HEADER, b"payload")
    for bad in [*flipped(signature), signature[:-1], signature + b"\0", b"", bytes(64), None, 7, "x" * 64]:
        with pytest.raises(BadSignature, match=r"^client/0 did not sign this$"):
            ROSTER.verify(HEADER, b"payload", bad)
    for payload in [*flipped(b"payload"), b"", b"payloa", b"payload\0"]:
        with pytest.raises(BadSignature):
            ROSTER.verify(HEADER, payload, signature)


@pytest.mark.parametrize("header", other_headers(), ids=list(asdict(HEADER)))
def test_a_signature_fails_under_another_header(header):
    with pytest.raises(BadSignature):
        ROSTER.verify(header, b"payload", ALICE.sign(HEADER, b"payload"))


@settings(deadline=None)
@given(headers)
def test_a_signature_fails_under_any_header_of_anybody(header):
    with pytest.raises(ProtocolError) as caught:
        ROSTER.verify(header, b"payload", ALICE.sign(HEADER, b"payload"))
    assert type(caught.value) is (BadSignature if header.sender in PEOPLE else UnknownSender)


def test_nobody_signs_for_another():
    with pytest.raises(BadSignature):
        ROSTER.verify(HEADER, b"payload", EVE.sign(HEADER, b"payload"))
    with pytest.raises(UnknownSender):
        ROSTER.verify(replace(HEADER, sender="client/7"), b"payload", EVE.sign(HEADER, b"payload"))


# ---- boxes


@settings(deadline=None)
@given(st.binary(max_size=200), headers)
def test_a_box_opens_for_its_receiver(plaintext, header):
    header = replace(header, sender="client/0", receiver="client/1")
    box = seal(ALICE, ROSTER, header, plaintext, RANDOMNESS)
    assert len(box) == len(plaintext) + BOX_BYTES
    assert open_box(BOB, ROSTER, header, box) == plaintext


def test_a_box_with_any_bit_changed_fails():
    box = seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS)
    for bad in [*flipped(box), box[:-1], box + b"\0", box[:BOX_BYTES], *(low + box[32:] for low in LOW_U)]:
        with pytest.raises(BadSignature):
            open_box(BOB, ROSTER, HEADER, bad)
    for bad in [box[: BOX_BYTES - 1], b"", None, 7, "x" * 60]:
        with pytest.raises(BadSignature, match=r"^no box from client/0$"):
            open_box(BOB, ROSTER, HEADER, bad)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_what_nobody_sealed_fails(box):
    with pytest.raises(BadSignature):
        open_box(BOB, ROSTER, HEADER, box)


@pytest.mark.parametrize("header", other_headers(), ids=list(asdict(HEADER)))
@pytest.mark.parametrize("receiver", [BOB, EVE], ids=["receiver", "another"])
def test_a_box_fails_under_another_header(header, receiver):
    with pytest.raises(BadSignature):
        open_box(receiver, ROSTER, header, seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS))


@settings(deadline=None)
@given(headers)
def test_a_box_fails_under_any_header_of_anybody(header):
    with pytest.raises(ProtocolError) as caught:
        open_box(BOB, ROSTER, header, seal(ALICE, ROSTER, HEADER, b"secret", SeededRandomness("one box")))
    known = {header.sender, header.receiver} <= PEOPLE.keys()
    assert type(caught.value) is (BadSignature if known else UnknownSender)


def test_nobody_else_opens_a_box_or_seals_for_another():
    with pytest.raises(BadSignature):
        open_box(EVE, ROSTER, HEADER, seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS))
    with pytest.raises(BadSignature):
        open_box(BOB, ROSTER, HEADER, seal(EVE, ROSTER, HEADER, b"secret", RANDOMNESS))
    with pytest.raises(UnknownSender):
        seal(ALICE, ROSTER, replace(HEADER, receiver="client/7"), b"secret", RANDOMNESS)


def test_the_senders_keys_open_no_old_box():
    """Otherwise the thief of a client's key file could read all its past messages."""
    box = seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS)
    swapped = replace(HEADER, sender="client/1", receiver="client/0")
    for header in (HEADER, swapped):
        with pytest.raises(BadSignature):
            open_box(ALICE, ROSTER, header, box)


def test_no_two_boxes_are_alike():
    boxes = [seal(ALICE, ROSTER, HEADER, bytes(32), RANDOMNESS) for _ in range(50)]
    assert len({box[:32] for box in boxes}) == len({box[32:64] for box in boxes}) == 50


# ---- pairwise keys


@settings(deadline=None)
@given(headers, st.binary(max_size=40))
def test_both_ends_share_a_key_that_is_bound_to_header_and_salt(header, salt):
    key = ALICE.shared(BOB.public, header, salt)
    assert key == BOB.shared(ALICE.public, header, salt)
    others = [ALICE.shared(BOB.public, header, salt + b"\0"), EVE.shared(BOB.public, header, salt)]
    others += [ALICE.shared(BOB.public, replace(header, attempt=header.attempt + "x"), salt)]
    assert len({key, *others}) == 4


def test_every_field_of_a_header_changes_the_key():
    keys = [ALICE.shared(BOB.public, header, b"") for header in [HEADER, *other_headers()]]
    assert len(set(keys)) == len(keys) == 8


# ---- tags

parts = st.lists(st.binary(max_size=5), max_size=4)


@settings(deadline=None)
@given(parts, parts, st.binary(min_size=32, max_size=32))
@example([b"a", b"b"], [b"ab"], bytes(32))
@example([], [b""], bytes(32))
def test_a_tag_holds_for_its_parts_alone(one, other, key):
    check_mac(key, one, mac(key, one), "client/0")
    assert (mac(key, one) == mac(key, other)) == (one == other)


def test_a_tag_with_any_bit_changed_fails():
    key = bytes(range(32))
    tag = mac(bytes(range(32)), [b"one", b"two"])
    for bad in [*flipped(tag), tag[:-1], tag + b"\0", b"", None, 7, "é" * 32]:
        with pytest.raises(BadSignature, match=r"^client/0 did not authenticate this$"):
            check_mac(key, [b"one", b"two"], bad, "client/0")
    for other in flipped(key)[::17]:
        with pytest.raises(BadSignature):
            check_mac(other, [b"one", b"two"], tag, "client/0")


# ---- masks

MODULI = [2, 3, 255, 256, 257, 1000, 2**16, 2**16 + 1, 2**32, 2**32 + 1, 2**40 - 87, 2**54 - 33, 2**61 + 1, 2**64]


def slow(key: bytes, count: int, modulus: int) -> list[int]:
    """The slow reference with big integers, over the stream of another implementation of ChaCha20."""
    bits = (modulus - 1).bit_length()
    size = min(size for size in (1, 2, 4, 8) if size * 8 >= bits)
    stream = ChaCha(key=int.from_bytes(key, "little")).random_raw(4 * count + 64).astype("<u8").tobytes()
    words = [int.from_bytes(stream[at : at + size], "little") % 2**bits for at in range(0, len(stream), size)]
    return [word for word in words if word < modulus][:count]


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 500),
    st.sampled_from(MODULI) | st.integers(2, 2**64) | st.integers(2, 600),
)
def test_masks_are_those_of_big_integers(key, count, modulus):
    values = uniform(key, count, modulus)
    assert values.dtype == np.uint64
    assert values.shape == (count,)
    assert values.tolist() == slow(key, count, modulus)


@pytest.mark.parametrize("modulus", [2**16, 2**24, 2**40 - 87, 2**40 + 1, 2**61 + 1])
def test_masks_of_many_blocks_are_those_of_big_integers(modulus):
    # blocks are of 32,768 words
    key = RANDOMNESS.key()
    count = 100_000
    values = uniform(key, count, modulus)
    assert values.tolist() == slow(key, count, modulus)
    assert np.array_equal(uniform(key, 40_000, modulus), values[:40_000])


@pytest.mark.parametrize("modulus", MODULI)
def test_masks_are_uniform(modulus):
    values = uniform(SeededRandomness("uniform", modulus).key(), 200_000, modulus)
    bins = min(modulus, 250)
    edges = [-(-index * modulus // bins) for index in range(bins)]  # the least value of each bin
    counts = np.bincount(np.searchsorted(np.array(edges, np.uint64), values, "right") - 1, minlength=bins)
    widths = np.diff([*edges, modulus]).astype(float)
    assert int(values.max()) < modulus
    assert chisquare(counts, widths / widths.sum() * len(values)).pvalue > 1e-6


def test_both_ends_take_the_same_mask_off():
    modulus = 2**40 - 87
    secret = np.arange(1000, dtype=np.uint64)
    key = ALICE.shared(BOB.public, HEADER, b"salt")
    masked = (secret + uniform(key, 1000, modulus)) % modulus
    assert not np.array_equal(masked, secret)
    opened = (masked + modulus - uniform(BOB.shared(ALICE.public, HEADER, b"salt"), 1000, modulus)) % modulus
    assert np.array_equal(opened, secret)
