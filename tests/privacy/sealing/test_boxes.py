"""Sealed boxes and pairwise keys: for their two ends and their header alone."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import BadSignature, ProtocolError, UnknownSender
from privacy.randomness import SeededRandomness
from privacy.sealing import BOX_BYTES, open_box, seal
from tests.privacy.sealing.people import (
    ALICE,
    BOB,
    EVE,
    HEADER,
    LOW_U,
    PEOPLE,
    RANDOMNESS,
    ROSTER,
    flipped,
    headers,
    other_headers,
)

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
    assert len(set(keys)) == len(keys) == 9
