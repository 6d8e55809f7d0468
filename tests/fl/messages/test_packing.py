"""Records as Flower carries them, and malformed ones."""

import io
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.transport import ARRAYS, SCALARS, as_array, pack, unpack
from privacy.errors import MalformedContribution
from tests.fl.messages.wire import npy

KINDS = [
    "float32",
    "float64",
    "float16",
    "int8",
    "uint8",
    "int32",
    "int64",
    "uint64",
    "bool",
    "complex64",
    ">i4",
    "<U3",
]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
arrays = st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(np.dtype(kind), shapes))
scalars = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.just("") | st.binary() | st.just(b"")
records = st.dictionaries(st.text(max_size=5), arrays | arrays.map(np.transpose) | scalars, max_size=4)


def through_flowers_wire(content: RecordDict) -> RecordDict:
    """Serialise and parse a message as between a SuperNode and a SuperLink."""
    objects = {number: part.deflate() for number, part in get_all_nested_objects(content).items()}
    return inflate_object_from_contents(content.object_id, objects)


def same(one, two) -> bool:
    if isinstance(one, np.ndarray):
        return (
            one.dtype == two.dtype and one.shape == two.shape and np.ascontiguousarray(one).tobytes() == two.tobytes()
        )
    return type(one) is type(two) and (one == two or (one != one and two != two))


@settings(deadline=None)
@given(records)
def test_records_come_back_as_they_were(sent):
    packed = pack(sent)
    for content in (packed, through_flowers_wire(packed)):
        received = unpack(content)
        assert received.keys() == sent.keys()
        assert all(same(sent[name], received[name]) for name in sent)


def test_names_do_not_collide_across_kinds():
    sent = {"arrays": 1, "scalars": "x", "model": np.zeros(2), "envelope": b"y"}
    assert set(unpack(pack(sent))) == set(sent)
    assert set(pack(sent)) == {ARRAYS, SCALARS}


@pytest.mark.parametrize(
    "value", [np.arange(6, dtype=np.float32), np.zeros((2, 3)), np.zeros((3, 2), "f4").T, np.zeros(0)]
)
def test_an_array_is_what_flower_and_numpy_make_of_it(value):
    ours = as_array(value)
    flowers = Array(np.ascontiguousarray(value))
    assert (ours.dtype, ours.shape, ours.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    assert ours.data == flowers.data == npy(np.ascontiguousarray(value))


def received_as(data: bytes, stype: str = "numpy.ndarray") -> RecordDict:
    return RecordDict({ARRAYS: ArrayRecord({"x": Array("float32", (6,), stype, data)})})


WHOLE = npy(np.arange(6, dtype=np.float32))


@pytest.mark.parametrize("length", range(0, len(WHOLE), 3))
def test_a_truncated_array_is_malformed(length):
    with pytest.raises(MalformedContribution, match="the array x cannot be read"):
        unpack(received_as(WHOLE[:length]))


def test_whatever_bytes_come_nothing_but_an_array_or_a_refusal_comes_out():
    generator = np.random.default_rng(1)
    refused = 0
    archive = io.BytesIO()
    np.savez(archive, x=np.zeros(3))
    for base in (WHOLE, archive.getvalue(), npy(np.zeros((2, 3), "f8,i4")), npy(np.array([None]), allow_pickle=True)):
        for _ in range(400):
            damaged = bytearray(base)
            for position in generator.integers(0, min(len(base), 140), generator.integers(0, 4)):
                damaged[position] = generator.integers(0, 256)
            try:
                (value,) = unpack(received_as(bytes(damaged))).values()
            except MalformedContribution:
                refused += 1
            else:
                assert type(value) is np.ndarray
                assert not value.dtype.hasobject
    assert refused > 1000


class Trap:
    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize("more", [b"\0", npy(np.arange(3.0)), b"x" * 10**6], ids=len)
def test_what_stands_behind_an_array_is_refused(more):
    """Two arrays one after the other, or one that was padded, are not the first one."""
    with pytest.raises(MalformedContribution, match=r"cannot be read: .* bytes are not those of \(3,\) values"):
        unpack(received_as(npy(np.arange(3.0)) + more))


@pytest.mark.parametrize("data", [npy(np.array([Trap()], object), allow_pickle=True), pickle.dumps(Trap())])
def test_objects_are_never_unpickled(data):
    with pytest.raises(MalformedContribution):
        unpack(received_as(data))
    assert not Trap.sprung


@pytest.mark.parametrize("stype", ["", "pickle", "numpy.ndarray "])
def test_an_unknown_serialisation_is_malformed(stype):
    with pytest.raises(MalformedContribution):
        unpack(received_as(WHOLE, stype))


@pytest.mark.parametrize(
    "content", [{ARRAYS: ConfigRecord({"x": 1})}, {SCALARS: ArrayRecord()}, {}, {"other": MetricRecord()}]
)
def test_records_of_another_kind_are_nothing(content):
    assert unpack(RecordDict(content)) == {}


def test_lists_are_no_records():
    assert unpack(RecordDict({SCALARS: ConfigRecord({"x": [1, 2], "y": 1})})) == {"y": 1}
