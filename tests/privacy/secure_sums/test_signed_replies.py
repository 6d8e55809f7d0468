"""Signatures over records: no other records have the same hash; foreign and older signatures are refused."""

import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import assume, given

from privacy.errors import BadSignature, ConfigError, MalformedContribution, UnknownSender
from privacy.secure_sums.signed_replies import SIGNATURE, fingerprint, require_everybody, signed, verified
from tests.privacy.sealing.people import PEOPLE, ROSTER
from tests.privacy.secure_sums.records import ATTEMPT, HEADER, party, records, same


@given(records, records)
def test_other_records_have_another_hash(one, other):
    assert (fingerprint(one) == fingerprint(other)) == same(one, other)


ONE = np.array([1, 2, 3, 4], np.uint8)
NEAR = [
    ({}, {"": b""}),
    ({"a": b""}, {"b": b""}),
    ({"a": b"b"}, {"ab": b""}),
    ({"a": b"x", "b": b"y"}, {"a": b"xb", "": b"y"}),
    ({"a": b"x", "b": b"y"}, {"a": b"y", "b": b"x"}),
    ({"a": b"bbytes"}, {"a": b"", "b": b""}),
    ({"a": b"1"}, {"a": "1"}),
    ({"a": 1}, {"a": "1"}),
    ({"a": 1}, {"a": True}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": 0.0}, {"a": -0.0}),
    ({"a": b"\1\2\3\4"}, {"a": ONE}),
    ({"a": ONE}, {"a": ONE.view(np.int8)}),
    ({"a": ONE}, {"a": ONE.view("<u4")}),
    ({"a": ONE.view("<u4")}, {"a": ONE.view(">u4")}),
    ({"a": ONE}, {"a": ONE.reshape(2, 2)}),
    ({"a": ONE[:1]}, {"a": ONE[:1].reshape(())}),
    ({"a": np.zeros((0, 2))}, {"a": np.zeros((2, 0))}),
    ({"a": np.array([1.0])}, {"a": 1.0}),
    ({"a": b"\1" * 2**16}, {"a": b"\1" * (2**16 + 1)}),
]


@pytest.mark.parametrize(("one", "other"), NEAR)
def test_records_that_are_alike_are_told_apart(one, other):
    assert fingerprint(one) != fingerprint(other)


@given(records)
def test_neither_the_order_of_records_nor_that_of_memory_counts(found):
    backwards = {
        name: np.array(value, order="F") if isinstance(value, np.ndarray) else value
        for name, value in reversed(found.items())
    }
    assert fingerprint(backwards) == fingerprint(found)
    strided = np.arange(12, dtype=np.int16)[::2]
    assert fingerprint({"a": strided}) == fingerprint({"a": strided.copy()})


def test_a_large_value_is_hashed_where_it_is():
    large = {"vector": np.zeros(4_000_000, np.float32), "message": bytes(16_000_000)}
    tracemalloc.start()
    try:
        fingerprint(large)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [np.array(["text"]), np.array([None]), np.zeros(1, "f4,f4"), np.zeros(1, "M8[s]"), np.zeros(1, "V4"), None, [1.0]],
)
def test_what_no_protocol_sends_is_refused(value):
    with pytest.raises(MalformedContribution, match=r"^a is an? .* nobody signs$"):
        fingerprint({"a": value})


@given(records)
def test_what_was_signed_is_verified_and_comes_back(found):
    assume(SIGNATURE not in found)
    sent = signed(found, party(), "collect")
    assert set(sent) == {*found, SIGNATURE}
    assert len(sent[SIGNATURE]) == 64
    assert same(verified(sent, ROSTER, HEADER), found)


VECTOR = {"message": bytes(range(40)), "tag": b"\0" * 8, "count": 3, "vector": np.arange(4.0), "text": "a,b"}


def flipped(value: object) -> list[object]:
    """The value with each of its bits changed, one at a time."""
    if isinstance(value, np.ndarray):
        return [np.frombuffer(one, value.dtype).reshape(value.shape) for one in flipped(value.tobytes())]
    if isinstance(value, bytes):
        bits = int.from_bytes(value, "big")
        return [(bits ^ 1 << bit).to_bytes(len(value), "big") for bit in range(8 * len(value))]
    if isinstance(value, str):
        return [one.decode("latin-1") for one in flipped(value.encode("latin-1"))]
    return [value ^ 1 << bit for bit in range(63)]


@pytest.mark.parametrize("name", [*VECTOR, SIGNATURE])
def test_every_bit_of_every_record_counts(name):
    sent = signed(VECTOR, party(), "collect")
    for value in flipped(sent[name]):
        with pytest.raises(BadSignature, match=r"^client/0 did not sign this$"):
            verified({**sent, name: value}, ROSTER, HEADER)


@pytest.mark.parametrize("change", ["drop", "add", "rename", "unsigned", "not bytes"])
def test_records_may_not_come_go_or_be_renamed(change):
    sent = dict(signed(VECTOR, party(), "collect"))
    if change == "drop":
        del sent["count"]
    elif change == "add":
        sent["another"] = b""
    elif change == "rename":
        sent["counts"] = sent.pop("count")
    elif change == "unsigned":
        del sent[SIGNATURE]
    else:
        sent[SIGNATURE] = np.frombuffer(sent[SIGNATURE], np.uint8)
    with pytest.raises(BadSignature, match=r"^client/0 did not sign this$"):
        verified(sent, ROSTER, HEADER)


@pytest.mark.parametrize("field", ["run", "round", "attempt", "stage", "sender", "receiver", "purpose"])
def test_a_signature_means_nothing_anywhere_else(field):
    others = {"round": 2, "sender": "client/1", "stage": "open", "attempt": ATTEMPT[::-1], "run": "cd" * 32}
    elsewhere = replace(HEADER, **{field: others.get(field, "other")})
    assert asdict(elsewhere) != asdict(HEADER)
    sent = signed(VECTOR, party(), "collect")
    with pytest.raises(BadSignature):
        verified(sent, ROSTER, elsewhere)


def test_a_stranger_is_not_on_the_roster():
    sent = signed(VECTOR, party(), "collect")
    with pytest.raises(UnknownSender, match="client/7 is not on the roster"):
        verified(sent, ROSTER, replace(HEADER, sender="client/7"))


def test_who_is_missing_on_a_roster_is_named():
    require_everybody(ROSTER, list(PEOPLE))
    with pytest.raises(ConfigError, match=rf"^roster={ROSTER.digest.hex()}: client/2 is not on it"):
        require_everybody(ROSTER, ["client/0", "client/2", "client/3"])
