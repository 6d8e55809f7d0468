"""The transport: clients asked, clients left out with reasons, and counted bytes."""

import logging
import math
import struct
import time

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from fl.runtimes.inprocess import FIRST_CLIENT_NODE, InProcessGrid
from fl.transport import ADDRESS, ENVELOPE, FAILURE, METRICS, MODEL, pack, unpack
from privacy.errors import ConfigError, RuntimeFailure
from privacy.secure_sums.contract import Exchange
from tests.composed import MASKED, attempt_of, transport_of, workspace_of
from tests.fl.grids import Tampered, only, untouched, with_content, with_error
from tests.fl.messages.wire import npy


class Asked:
    """An exchange with every client, its outcome, and the rows that the transport wrote."""

    def __init__(self, work, grid, stage="collect", deadline_s=None, clients=4, timeout_s=None, **outbox) -> None:
        self.transport = transport_of(work, grid, deadline_s)
        asked = {f"client/{i}": outbox for i in range(clients)}
        exchange = Exchange(stage, asked, lambda *_: None, stage != "unmask", timeout_s)
        self.replies = list(self.transport.replies(exchange, attempt_of(work), work.initial_D.numpy()))
        self.addresses = [address for address, _ in self.replies]
        self.dropped = self.transport.dropped
        self.rows = {(row.where, row.stage, row.metric): row.value for row in self.transport._meter.take()}


@pytest.fixture(scope="module")
def work():
    return workspace_of()


def test_all_answer_in_order(work):
    asked = Asked(work, InProcessGrid(work.plan.hash, 4))
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
    asked = Asked(work, InProcessGrid(work.plan.hash, 4))
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
        ConfigError, match=f"^approved-config={'0' * 64}: this node refuses the configuration {work.plan.hash}"
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


@pytest.mark.parametrize(
    ("deadline_s", "timeout_s", "limit"),
    [
        (None, 0.5, "secure_sum.timeout_s=0.5"),
        (60.0, 0.5, "secure_sum.timeout_s=0.5"),
        (0.5, 60.0, "server.deadline_s=0.5"),
    ],
)
def test_the_sooner_of_the_deadline_and_the_protocols_own_ends_a_stage(work, deadline_s, timeout_s, limit):
    grid = Tampered(work, only("client/2", lambda _: []))
    asked = Asked(work, grid, deadline_s=deadline_s, timeout_s=timeout_s)
    assert asked.dropped == {"client/2": f"no answer within {limit}"}


def test_who_did_not_answer_comes_before_who_failed(work):
    """The others may have failed for want of it."""
    silent = only("client/2", lambda _: [])
    failed = only("client/0", lambda reply: [with_error(reply, 4, "alone")])
    grid = Tampered(work, lambda address, reply: [r for s in silent(address, reply) for r in failed(address, s)])
    assert list(Asked(work, grid, timeout_s=0.5).dropped) == ["client/2", "client/0"]


def test_somebody_answers_even_under_a_deadline_that_is_too_short(work):
    assert Asked(work, InProcessGrid(work.plan.hash, 4), deadline_s=1e-9).addresses in ([], ["client/0"])


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

    asked = Asked(work, Refusing(work.plan.hash, 4))
    assert asked.addresses == ["client/1", "client/2", "client/3"]
    assert set(asked.dropped) == {"client/0"}
    Refusing.taken = None
    with pytest.raises(RuntimeFailure, match="did not take the messages"):
        Asked(work, Refusing(work.plan.hash, 4))


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
            "run": work.plan.hash,
            "config": work.plan.canonical,
        }
        for i in range(4)
    ]
    assert [message.metadata.dst_node_id for message in grid.pushed] == [FIRST_CLIENT_NODE + i for i in range(4)]


def test_bytes_are_counted_by_stage_and_address_against_numpys_files():
    work = workspace_of(*MASKED)
    grid = InProcessGrid(work.plan.hash, 4)
    mask = Asked(work, grid, "mask")
    unmask = Asked(work, grid, "unmask", there=4)
    length = work.initial_D.numel() + 1
    for client in (f"client/{i}" for i in range(4)):
        assert mask.rows[client, "mask", "up_bytes"] == len(npy(np.zeros(length, np.uint64))) + len("masked")
        assert mask.rows[client, "mask", "down_bytes"] == len(npy(np.zeros(length - 1, np.float32))) + len("model")
        assert unmask.rows[client, "unmask", "up_bytes"] == 16 + len("seed")
        assert unmask.rows[client, "unmask", "down_bytes"] == 8 + len("there")
        envelope = mask.rows[client, "mask", "envelope_bytes"]
        assert 0 < envelope - len(work.plan.canonical) - len(work.plan.hash) < 100


def test_an_empty_string_and_an_empty_blob_can_be_sent_and_counted(work):
    asked = Asked(work, InProcessGrid(work.plan.hash, 4), text="", blob=b"", number=0)
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


def test_scalars_go_up_as_they_do_in_flowers_own_message(work):
    """A reply with an array, a blob and scalars; Flower's framing is at most 40 bytes a value."""
    records = {"vector": np.arange(100.0), "blob": bytes(300), "note": "größer" * 100, "count": 3, "share": -0.5}
    asked = Asked(work, Tampered(work, lambda _, reply: [with_content(reply, pack(records))]))
    counted = asked.rows["client/1", "collect", "up_bytes"]
    serialised = len(recorddict_to_proto(pack(records)).SerializeToString())
    assert serialised - 40 * len(records) <= counted <= serialised
    without = {name: value for name, value in records.items() if name in ("vector", "blob")}
    fewer = Asked(work, Tampered(work, lambda _, reply: [with_content(reply, pack(without))]))
    assert counted - fewer.rows["client/1", "collect", "up_bytes"] == sum(
        (len("note") + len(("größer" * 100).encode()), len("count") + 8, len("share") + 8)
    )
