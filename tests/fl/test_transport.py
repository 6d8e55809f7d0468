import io
import logging
import math
import pickle
import struct
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.runtimes.inprocess import FIRST_CLIENT_NODE, InProcessGrid
from fl.transport import ADDRESS, ARRAYS, ENVELOPE, FAILURE, METRICS, MODEL, SCALARS, as_array, pack, unpack
from privacy.errors import ConfigError, MalformedContribution, RuntimeFailure
from privacy.secure_sum import Exchange
from tests.composed import MASKED, attempt_of, transport_of, workspace_of
from tests.fl.grids import Tampered, only, untouched, with_content, with_error

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
    """Taken apart and put together again as between a SuperNode and a SuperLink."""
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
    ours, flowers = as_array(value), Array(np.ascontiguousarray(value))
    assert (ours.dtype, ours.shape, ours.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    assert ours.data == flowers.data == npy(np.ascontiguousarray(value))


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


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


class Asked:
    """An exchange with every client, its outcome, and what the transport noted meanwhile."""

    def __init__(self, work, grid, stage="collect", deadline_s=None, clients=4, **outbox) -> None:
        self.transport = transport_of(work, grid, deadline_s)
        exchange = Exchange(stage, {f"client/{i}": outbox for i in range(clients)}, lambda *_: None, stage != "unmask")
        self.replies = list(self.transport.replies(exchange, attempt_of(work), work.initial_D.numpy()))
        self.addresses = [address for address, _ in self.replies]
        self.dropped = self.transport.dropped
        self.rows = {(row.where, row.stage, row.metric): row.value for row in self.transport._meter.take()}


@pytest.fixture(scope="module")
def work():
    return workspace_of()


def test_all_answer_in_order(work):
    asked = Asked(work, InProcessGrid(work.hash, 4))
    assert asked.addresses == [f"client/{i}" for i in range(4)]
    assert asked.dropped == {}
    assert unpack(asked.replies[0][1])["vector"].shape == (651,)


@pytest.mark.parametrize(
    ("code", "reason", "told"), [(4, "the node went away", "the node went away"), (7, None, "Flower error 7")]
)
def test_an_error_of_flower_drops_the_client_with_its_reason(work, code, reason, told):
    grid = Tampered(work, only("client/2", lambda reply: [with_error(reply, code, reason)]))
    asked = Asked(work, grid)
    assert asked.addresses == ["client/0", "client/1", "client/3"]
    assert asked.dropped == {"client/2": told}
    assert asked.rows["client/2", "collect", "dropped"] == 1


def test_a_client_that_fails_is_dropped_with_its_reason(caplog):
    work = workspace_of(
        "+mechanism.probe._target_=tests.outside.probe.Probe", "+mechanism.probe.faults={client/1: crash}"
    )
    asked = Asked(work, InProcessGrid(work.hash, 4))
    assert asked.addresses == ["client/0", "client/2", "client/3"]
    assert asked.dropped == {"client/1": "crashed on purpose"}
    assert ("client/1", "collect", "up_bytes") not in asked.rows


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({FAILURE: ConfigRecord()}),
        RecordDict({FAILURE: ConfigRecord({"type": 3, "message": [1, 2]})}),
        RecordDict({FAILURE: ConfigRecord({"type": "ConfigErr", "message": "x"})}),
    ],
)
def test_a_failure_in_bad_form_drops_its_sender_alone(work, content):
    asked = Asked(work, Tampered(work, only("client/0", lambda reply: [with_content(reply, content)])))
    assert asked.addresses == ["client/1", "client/2", "client/3"]
    assert set(asked.dropped) == {"client/0"}


@pytest.mark.parametrize(
    "metrics",
    [
        ArrayRecord(),
        MetricRecord({"train.wall": 1.0}),
        ConfigRecord({"train.wall": 1.0}),
        ConfigRecord({"names": "train.wall"}),
        ConfigRecord({"names": "train.wall", "values": "1.0"}),
        ConfigRecord({"names": "train.wall", "values": b""}),
        ConfigRecord({"names": "train.wall", "values": bytes(7)}),
        ConfigRecord({"names": "train.wall,train.cpu", "values": bytes(8)}),
        ConfigRecord({"names": "train.wall", "values": bytes(16)}),
        ConfigRecord({"names": "train.wall", "values": struct.pack("<d", math.nan)}),
        ConfigRecord({"names": "train.wall", "values": struct.pack("<d", math.inf)}),
        ConfigRecord({"names": ["train.wall"], "values": [1.0]}),
    ],
)
def test_a_report_in_bad_form_is_left_out_and_its_sender_is_not(work, metrics):
    def change(reply: Message):
        reply.content[METRICS] = metrics
        return [reply]

    asked = Asked(work, Tampered(work, only("client/0", change)))
    assert len(asked.addresses) == 4
    assert ("client/0", "train", "wall") not in asked.rows
    assert ("client/1", "train", "wall") in asked.rows


def test_a_configuration_error_at_a_client_is_the_users(work):
    other = InProcessGrid("0" * 64, 4)  # nodes that approved another configuration
    with pytest.raises(
        ConfigError, match=f"^approved-config={'0' * 64}: this node refuses the configuration {work.hash}"
    ):
        Asked(work, other)


def test_who_has_not_answered_at_the_deadline_has_dropped_out(work):
    def slowly(_: str, reply: Message) -> list[Message]:
        time.sleep(0.2)
        return [reply]

    asked = Asked(work, Tampered(work, slowly), deadline_s=0.3)
    assert asked.addresses == ["client/0", "client/1"]
    assert asked.dropped == dict.fromkeys(["client/2", "client/3"], "no answer within server.deadline_s=0.3")
    assert asked.rows["client/3", "collect", "dropped"] == 1


def test_somebody_answers_even_under_a_deadline_that_is_too_short(work):
    assert Asked(work, InProcessGrid(work.hash, 4), deadline_s=1e-9).addresses in ([], ["client/0"])


def test_a_silent_client_does_not_hold_up_the_others_beyond_the_deadline(work):
    grid = Tampered(work, only("client/1", lambda _: []))
    started = time.monotonic()
    asked = Asked(work, grid, deadline_s=1.0)
    assert asked.addresses == ["client/0", "client/2", "client/3"]
    assert set(asked.dropped) == {"client/1"}
    assert 1.0 <= time.monotonic() - started < 5


def test_messages_of_the_exchange_before_are_forgotten(work):
    grid = Tampered(work, untouched)
    transport = transport_of(work, grid)
    first = Exchange("collect", {f"client/{i}": {} for i in range(4)}, lambda *_: None, True)
    replies = transport.replies(first, attempt_of(work), work.initial_D.numpy())
    assert next(replies)[0] == "client/0"
    replies.close()
    second = Exchange("collect", {"client/3": {}}, lambda *_: None, True)
    assert [a for a, _ in transport.replies(second, attempt_of(work, 2), work.initial_D.numpy())] == ["client/3"]
    assert grid.ran == [("client/0", "collect"), ("client/3", "collect")]


def test_a_reply_that_comes_twice_counts_once(work):
    asked = Asked(work, Tampered(work, lambda _, reply: [reply, reply]))
    assert asked.addresses == [f"client/{i}" for i in range(4)]


def test_a_reply_to_nothing_is_ignored(work):
    def change(reply: Message) -> list[Message]:
        reply.metadata.__dict__["_reply_to_message_id"] = "forged"
        return [reply]

    asked = Asked(work, Tampered(work, only("client/1", change)), deadline_s=0.5)
    assert asked.addresses == ["client/0", "client/2", "client/3"]


def test_messages_that_an_engine_does_not_take(work):
    class Refusing(InProcessGrid):
        taken = ("", "", "")

        def push_messages(self, messages):
            numbers = super().push_messages(messages)
            return [] if self.taken is None else [*self.taken[:1], *numbers[1:]]

    asked = Asked(work, Refusing(work.hash, 4))
    assert asked.addresses == ["client/1", "client/2", "client/3"]
    assert set(asked.dropped) == {"client/0"}
    Refusing.taken = None
    with pytest.raises(RuntimeFailure, match="did not take the messages"):
        Asked(work, Refusing(work.hash, 4))


def test_one_drop_out_is_told_a_run(work, caplog):
    grid = Tampered(work, lambda _, reply: [with_error(reply, 1, "gone")])
    with caplog.at_level(logging.WARNING, "fedveil"):
        assert len(Asked(work, grid).dropped) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "round 0: client/0 is left out at stage collect: gone"
    ]


def test_the_model_travels_with_the_stage_that_collects_alone():
    work = workspace_of(*MASKED)
    grid = Tampered(work, untouched)
    Asked(work, grid, "mask")
    assert all(np.array_equal(m.content[MODEL][MODEL].numpy(), work.initial_D.numpy()) for m in grid.pushed)
    Asked(work, grid, "unmask", there=4)
    assert all(MODEL not in message.content for message in grid.pushed)


def test_the_envelope_says_what_is_asked(work):
    grid = Tampered(work, untouched)
    Asked(work, grid)
    assert [dict(message.content[ENVELOPE]) | dict(message.content[ADDRESS]) for message in grid.pushed] == [
        {
            "address": f"client/{i}",
            "stage": "collect",
            "round": 1,
            "attempt": "first",
            "run": work.hash,
            "config": work.canonical,
        }
        for i in range(4)
    ]
    assert [message.metadata.dst_node_id for message in grid.pushed] == [FIRST_CLIENT_NODE + i for i in range(4)]


def test_bytes_are_counted_by_stage_and_address_against_numpys_files():
    work = workspace_of(*MASKED)
    grid = InProcessGrid(work.hash, 4)
    mask, unmask = Asked(work, grid, "mask"), Asked(work, grid, "unmask", there=4)
    length = work.initial_D.numel() + 1
    for client in (f"client/{i}" for i in range(4)):
        assert mask.rows[client, "mask", "up_bytes"] == len(npy(np.zeros(length, np.uint64))) + len("masked")
        assert mask.rows[client, "mask", "down_bytes"] == len(npy(np.zeros(length - 1, np.float32))) + len("model")
        assert unmask.rows[client, "unmask", "up_bytes"] == 16 + len("seed")
        assert unmask.rows[client, "unmask", "down_bytes"] == 8 + len("there")
        envelope = mask.rows[client, "mask", "envelope_bytes"]
        assert 0 < envelope - len(work.canonical) - len(work.hash) < 100


def test_an_empty_string_and_an_empty_blob_can_be_sent_and_counted(work):
    asked = Asked(work, InProcessGrid(work.hash, 4), text="", blob=b"", number=0)
    assert len(asked.addresses) == 4
    model_bytes = len(npy(work.initial_D.numpy())) + len("model")
    assert asked.rows["client/0", "collect", "down_bytes"] == model_bytes + len("text") + len("blob") + 8 + len(
        "number"
    )


def test_the_time_of_a_stage_is_that_of_its_exchange(work):
    def slowly(_: str, reply: Message) -> list[Message]:
        time.sleep(0.05)
        return [reply]

    wall_s = Asked(work, Tampered(work, slowly)).rows["transport", "collect", "wall"]
    assert 0.2 <= wall_s < 5
    assert not math.isnan(wall_s)
