import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from fl.rounds import drive
from fl.runtimes.inprocess import InProcessGrid
from fl.transport import ARRAYS, ENVELOPE
from privacy.errors import (
    DuplicateSender,
    MalformedContribution,
    NonFiniteContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
)
from privacy.secure_sums.contract import Exchange
from privacy.secure_sums.plain import PlainSum
from tests.composed import MASKED, PROBE, attempt_of, transport_of, workspace_of
from tests.fl.grids import Tampered, only, with_error
from tests.fl.known_sums import EVERYBODY, LENGTH, exact_sum

ASK_ALL = {address: {} for address in EVERYBODY}


def aggregate(work, grid=None, abort=False, deadline_s=None):
    """One secure sum over all clients; returns the total, the rows, and the missing clients with reasons."""
    transport = transport_of(work, grid or InProcessGrid(work.plan.hash, 4), deadline_s)
    meter = transport._meter
    flow = work.plan.backend.secure_sum.server(list(EVERYBODY), work.spec)
    total = drive(flow, transport, meter, attempt_of(work), work.initial_D.numpy(), abort)
    return total, {(r.where, r.stage, r.metric): r.value for r in meter.take()}, dict(transport.dropped)


@pytest.mark.parametrize("secure_sum", [(), MASKED], ids=["plain", "masked"])
def test_the_total_is_the_weighted_sum_over_the_survivors(secure_sum):
    work = workspace_of(*PROBE, *secure_sum, "data.partition=dirichlet", "+mechanism.probe.faults={client/2: crash}")
    total, _, dropped = aggregate(work)
    assert total.survivors == ("client/0", "client/1", "client/3")
    assert (
        np.abs(total.update_D - exact_sum(work, total.survivors)[:-1]).max()
        < 4 * work.plan.backend.secure_sum.tolerance(work.spec) + 1e-12
    )
    sizes = [len(part) for part in work.plan.partitions]
    assert len(set(sizes)) > 1
    weights = sum(size / max(sizes) for client, size in enumerate(sizes) if client != 2)
    assert total.weight == pytest.approx(weights, abs=1e-6)
    assert set(dropped) == {"client/2"}


def test_who_leaves_between_the_stages_is_no_survivor():
    work = workspace_of(*PROBE, *MASKED, "+secure_sum.leave_before_unmask=[client/1]")
    total, rows, dropped = aggregate(work)
    assert total.survivors == ("client/0", "client/2", "client/3")
    assert np.abs(total.update_D - exact_sum(work, total.survivors)[:-1]).max() < 1e-6
    assert dropped == {"client/1": "gone before unmask"}
    assert rows["client/1", "unmask", "dropped"] == 1
    assert ("client/1", "mask", "dropped") not in rows


@pytest.mark.parametrize(
    ("fault", "reason"), [("nan", "holds NaN"), ("inf", "infinity"), ("long", "must be float32 (650,)")]
)
def test_a_client_refuses_to_send_what_it_should_not(fault, reason):
    work = workspace_of(*PROBE, f"+mechanism.probe.faults={{client/1: '{fault}'}}")
    total, rows, dropped = aggregate(work)
    assert total.survivors == ("client/0", "client/2", "client/3")
    assert reason in dropped["client/1"]
    assert ("client/1", "collect", "up_bytes") not in rows, "something left"


def said_instead(reply: Message, vector: np.ndarray) -> list[Message]:
    """The reply of a client that really sends this, so with a matching checksum."""
    del reply.content[ENVELOPE]
    reply.content[ARRAYS] = ArrayRecord({"vector": Array(vector)})
    return [reply]


def poisoned(value: float):
    def change(reply: Message) -> list[Message]:
        vector = reply.content[ARRAYS]["vector"].numpy()
        vector[3] = value
        return said_instead(reply, vector)

    return change


def damaged(reply: Message) -> list[Message]:
    array = reply.content[ARRAYS]["vector"]
    reply.content[ARRAYS] = ArrayRecord({"vector": Array(array.dtype, array.shape, array.stype, array.data[:-1])})
    return [reply]


BAD = [(poisoned(math.nan), NonFiniteContribution), (damaged, MalformedContribution)]


def test_a_flipped_bit_anywhere_in_an_unsigned_reply_is_noticed():
    """Were it not, most would be taken for another float32."""
    work = workspace_of(*PROBE)
    draw = np.random.default_rng(1)

    def flipped(reply: Message) -> list[Message]:
        array = reply.content[ARRAYS]["vector"]
        data = bytearray(array.data)
        data[draw.integers(len(data))] ^= 1 << draw.integers(8)
        reply.content[ARRAYS] = ArrayRecord({"vector": Array(array.dtype, array.shape, array.stype, bytes(data))})
        return [reply]

    for _ in range(50):
        total, rows, _ = aggregate(work, Tampered(work, only("client/1", flipped)))
        assert total.survivors == ("client/0", "client/2", "client/3")
        assert rows["client/1", "collect", "rejected"] == 1


@pytest.mark.parametrize(("change", "error"), BAD)
def test_an_invalid_reply_is_left_out_and_counted(change, error):
    work = workspace_of(*PROBE)
    total, rows, dropped = aggregate(work, Tampered(work, only("client/1", change)))
    assert total.survivors == ("client/0", "client/2", "client/3")
    assert np.abs(total.update_D - exact_sum(work, total.survivors)[:-1]).max() < 1e-12
    assert rows["client/1", "collect", "rejected"] == 1
    assert ("client/1", "collect", "dropped") not in rows
    assert set(dropped) == {"client/1"}


@pytest.mark.parametrize(("change", "error"), BAD)
def test_an_invalid_reply_ends_the_run_where_that_is_asked(change, error):
    work = workspace_of(*PROBE)
    with pytest.raises(error, match=r"^client/1: "):
        aggregate(work, Tampered(work, only("client/1", change)), abort=True)


def test_a_drop_out_ends_no_run_that_asks_to_end_on_invalid_replies():
    work = workspace_of(*PROBE)
    grid = Tampered(work, only("client/1", lambda reply: [with_error(reply, 1, "gone")]))
    assert aggregate(work, grid, abort=True)[0].survivors == ("client/0", "client/2", "client/3")


def test_too_few_say_why_the_first_is_missing():
    work = workspace_of(
        *PROBE, "server.min_contributors=3", "+mechanism.probe.faults={client/1: crash, client/2: 'nan'}"
    )
    with pytest.raises(
        TooFewContributors, match="2 contributors are left of 4, 3 are needed; client/1 dropped out: crash"
    ):
        aggregate(work)


def test_too_few_at_the_deadline_say_so():
    work = workspace_of(*PROBE, "server.min_contributors=4")
    grid = Tampered(work, only("client/3", lambda _: []))
    with pytest.raises(TooFewContributors, match=r"client/3 dropped out: no answer within server\.deadline_s=0\.5"):
        aggregate(work, grid, deadline_s=0.5)


def test_of_those_who_are_missing_one_is_named_that_was_asked_last():
    work = workspace_of(
        *PROBE,
        *MASKED,
        "server.min_contributors=3",
        "+mechanism.probe.faults={client/0: crash}",
        "+secure_sum.leave_before_unmask=[client/2]",
    )
    with pytest.raises(TooFewContributors, match=r"2 contributors .*; client/2 dropped out: gone before unmask$"):
        aggregate(work)


def test_a_refusal_of_a_protocol_says_why_somebody_is_missing():
    work = workspace_of(*PROBE, "+mechanism.probe.faults={client/1: crash}")
    transport = transport_of(work, InProcessGrid(work.plan.hash, 4))

    def flow():
        yield Exchange("collect", ASK_ALL, lambda *_: None, True)
        raise PrivacyRefusal("without client/1 there is no sum")

    with pytest.raises(PrivacyRefusal, match=r"^without client/1 there is no sum; client/1 dropped out: crashed"):
        drive(flow(), transport, transport._meter, attempt_of(work), work.initial_D.numpy())


def test_nobody_was_asked():
    work = workspace_of(*PROBE)
    transport = transport_of(work, InProcessGrid(work.plan.hash, 4))
    flow = PlainSum().server([], work.spec)
    with pytest.raises(TooFewContributors, match=r"^0 contributors are left of 4, 1 are needed$"):
        drive(flow, transport, transport._meter, attempt_of(work))


def test_the_servers_time_is_told_by_stage():
    _, rows, _ = aggregate(workspace_of(*PROBE, *MASKED))
    for stage in ("protocol", "mask", "unmask"):
        assert rows["server", stage, "compute"] > 0
    assert rows["transport", "mask", "wall"] > rows["server", "mask", "compute"]


def test_replies_are_handed_on_as_they_come():
    work = workspace_of(*PROBE)
    grid = Tampered(work, lambda _, reply: [reply])
    seen = []

    def flow():
        yield Exchange("collect", ASK_ALL, lambda address, _: seen.append((address, len(grid.ran))), True)

    transport = transport_of(work, grid)
    drive(flow(), transport, transport._meter, attempt_of(work), work.initial_D.numpy())
    assert seen == [(address, number) for number, address in enumerate(EVERYBODY, 1)]


class Backwards(Tampered):
    """A grid that delivers the replies in reverse order."""

    def pull_messages(self, message_ids):
        replies = []
        while arrived := super().pull_messages(message_ids):
            replies += arrived
        return replies[::-1]


def test_the_order_of_arrival_changes_no_bit():
    """Values so far apart that float64 rounds their sum differently in another order."""
    work = workspace_of(*PROBE)
    sums = []

    def spread(address: str, reply: Message) -> list[Message]:
        vector = np.zeros(LENGTH + 1, np.float32)
        vector[0] = {"client/0": 2.0**60, "client/2": -(2.0**60)}.get(address, 1.0)
        vector[-1] = 1.0
        return said_instead(reply, vector)

    for grid in (Tampered, Backwards):
        sums.append(aggregate(work, grid(work, spread))[0].update_D[0])
    assert sums[0] == sums[1] == 1.0
    assert ((1.0 - 2.0**60) + 1.0) + 2.0**60 == 0.0


def test_a_flow_learns_who_answered_validly_in_the_order_of_its_outbox():
    work = workspace_of(*PROBE, "+mechanism.probe.faults={client/2: crash}")
    learnt = []

    def receive(address, _):
        if address == "client/0":
            raise ProtocolError("not him")

    def flow():
        learnt.append((yield Exchange("collect", {address: {} for address in EVERYBODY[::-1]}, receive, True)))
        learnt.append((yield Exchange("collect", {}, receive, True)))

    transport = transport_of(work, InProcessGrid(work.plan.hash, 4))
    assert drive(flow(), transport, transport._meter, attempt_of(work), work.initial_D.numpy()) is None
    assert learnt == [["client/3", "client/1"], []]


def test_a_defect_in_a_protocol_is_no_drop_out():
    work = workspace_of(*PROBE)

    def flow():
        yield Exchange("collect", ASK_ALL, lambda *_: {}["missing"], True)

    transport = transport_of(work, InProcessGrid(work.plan.hash, 4))
    with pytest.raises(KeyError, match="missing"):
        drive(flow(), transport, transport._meter, attempt_of(work), work.initial_D.numpy())


def test_a_setup_without_messages_sends_none():
    work = workspace_of(*PROBE)
    grid = Tampered(work, lambda _, reply: [reply])
    transport = transport_of(work, grid)
    assert (
        drive(work.plan.backend.secure_sum.setup(EVERYBODY, work.spec), transport, transport._meter, attempt_of(work))
        is None
    )
    assert grid.ran == []


def test_an_error_of_a_duplicate_keeps_its_kind():
    exchange = Exchange("collect", {"client/0": {}}, lambda *_: None)
    exchange.deliver("client/0", {})
    with pytest.raises(DuplicateSender, match="client/0"):
        exchange.deliver("client/0", {})
