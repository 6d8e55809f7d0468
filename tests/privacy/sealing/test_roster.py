"""The roster: one way to write it, and the keys and bytes that it refuses."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import BadSignature, ConfigError, UnknownSender
from privacy.randomness import SeededRandomness
from privacy.sealing import Identity, PublicKeys, Roster
from tests.privacy.sealing.people import (
    ALICE,
    BOB,
    HEADER,
    LOW_U,
    NO_KEY,
    PEOPLE,
    RANDOMNESS,
    ROSTER,
    SIGNED_LOW_Y,
    TWICE,
    P,
    number,
)


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
