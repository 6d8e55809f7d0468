"""Signatures and tags hold for what was signed alone."""

from dataclasses import asdict, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy.errors import BadSignature, ProtocolError, UnknownSender
from privacy.sealing import check_mac, mac
from tests.privacy.sealing.people import ALICE, EVE, HEADER, PEOPLE, ROSTER, flipped, headers, other_headers

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
