import time
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.config.schema import FedveilConfig
from fl.faults.inject import drop_out, kind_of, scale_of, scaled_clients
from fl.faults.options import FaultsConfig
from fl.faults.server import FaultyTransport, Noting, Wire
from fl.metering import Meter
from fl.runtimes.inprocess import InProcessGrid
from fl.server import Errand
from fl.workspace import Workspace
from privacy.errors import ConfigError, RuntimeFailure
from tests.composed import MASKED, canonical, server_of


@pytest.mark.parametrize("count", [0, 2, 10])
def test_so_many_clients_cheat_and_the_seed_says_who(count):
    chosen = scaled_clients(count, 10, 1)
    assert len(chosen) == count
    assert chosen <= set(range(10))
    assert chosen == scaled_clients.__wrapped__(count, 10, 1)
    assert count in (0, 10) or {scaled_clients(count, 10, seed) for seed in range(20)} != {chosen}


def test_who_cheats_multiplies_and_nobody_else_does():
    faults = FaultsConfig(scaled_clients=3, scale=-7.0)
    factors = [scale_of(client, faults, 10, 5) for client in range(10)]
    assert sorted(factors) == [-7.0] * 3 + [1.0] * 7


def test_the_rate_is_that_of_each_client_and_round():
    faults = FaultsConfig(dropout_rate=0.3)

    def gone(number, client, seed=1):
        try:
            drop_out(client, number, "collect", faults, seed)
        except RuntimeFailure:
            return True
        return False

    drawn = [[gone(number, client) for client in range(50)] for number in range(1, 41)]
    assert abs(np.mean(drawn) - 0.3) < 0.05
    assert drawn[0] != drawn[1]
    assert drawn[0] == [gone(1, client) for client in range(50)] != [gone(1, client, seed=2) for client in range(50)]
    assert not any(gone(0, client) for client in range(50)), "at set-up"


SECAGG = ("secure_sum=secagg", "clients=10", "secure_sum.server=curious", "faults.dropout_rate=0.15", "seed=2")


@pytest.mark.parametrize("stage", [None, "advertise", "share_keys", "mask", "confirm", "unmask"])
def test_who_falls_silent_at_a_stage_is_told_and_the_round_goes_on(tmp_path, stage):
    """Masks are in the sum from the third stage on, so clients lost later still count."""
    one = [] if stage is None else [f"faults.dropout_stage={stage}"]
    work = Workspace(canonical(*SECAGG, *one))
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    lost = rows.filter(rows["metric"] == "dropped")
    assert set(lost["stage"]) == {stage or "advertise"}
    survivors = rows.filter(rows["metric"] == "survivors")["value"].sum()
    assert survivors == 20 - (0 if stage in ("confirm", "unmask") else len(lost))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("faults.dropout_stage=mask",), "faults.dropout_stage=mask: belongs to faults.dropout_rate"),
        (
            ("faults.dropout_stage=mask", "faults.dropout_rate=0.1"),
            "faults.dropout_stage=mask: secure_sum=plain asks clients at collect",
        ),
        (
            ("faults.kind=flipped", "faults.stage=open", "secure_sum=secagg"),
            "faults.stage=open: secure_sum=secagg asks clients at advertise, share_keys, mask, confirm, unmask",
        ),
        (
            ("faults.kind=not_finite", "mechanism=distributed_dp", "delta=1e-2"),
            "faults.kind=not_finite: distributed_dp+plain sums residues, where this fault cannot occur: choose late, "
            "duplicated, flipped, truncated, oversized, replayed, zero",
        ),
    ],
)
def test_a_stage_that_drops_nobody_is_refused(overrides, message):
    with pytest.raises(ConfigError) as refusal:
        Workspace(canonical(*overrides))
    assert str(refusal.value) == message


def test_whom_a_fault_strikes_depends_on_neither_its_kind_nor_a_lower_rate():
    def struck(kind, rate, seed=1):
        faults = FaultsConfig(kind=kind, rate=rate)
        asked = [(client, number) for client in range(50) for number in range(41)]
        drawn = {one for one in asked if kind_of(*one, faults, seed)}
        assert not any(number == 0 for _, number in drawn), "at set-up"
        return drawn

    few = struck("flipped", 0.1)
    more = struck("flipped", 0.3)
    assert few == struck("late", 0.1) < more
    assert few != struck("flipped", 0.1, seed=2)
    assert abs(len(few) / 2000 - 0.1) < 0.03
    assert abs(len(more) / 2000 - 0.3) < 0.05
    assert not struck("flipped", 0.0)


class Replies:
    """An engine that delivers the given replies, one for each poll."""

    def __init__(self, *numbers):
        self.left = [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=number)) for number in numbers]

    def pull_messages(self, awaited):
        return [self.left.pop(0)] if awaited and self.left else []


def arrivals(wire, *numbers, limit_s=5.0):
    """The numbers of the arriving replies, in order, and the elapsed time."""
    engine = Replies(*numbers)
    transport = FaultyTransport(engine, {}, Meter(), None, 0.0, Noting(FedveilConfig()))
    transport.wire = wire
    waiting = dict.fromkeys(numbers, "client/0")
    came = []
    start = time.monotonic()
    for reply in transport._arrivals(waiting, limit_s):
        came.append(reply.metadata.reply_to_message_id)
        waiting.pop(came[-1], None)
    return came, time.monotonic() - start


def test_what_is_late_holds_up_nobody_else_and_comes_when_it_does():
    came, took_s = arrivals(Wire({"1": "late", "2": "late"}, 0.3), "1", "2", "3", "4")
    assert came == ["3", "4", "1", "2"]
    assert took_s >= 0.3
    came, took_s = arrivals(Wire({"2": "late"}, 60.0), "1", "2", "3", limit_s=0.3)
    assert came == ["1", "3"]
    assert took_s >= 0.3, "it is waited for until the end"


def test_what_comes_twice_does_and_other_kinds_are_not_the_wires():
    assert arrivals(Wire({"2": "duplicated", "3": "flipped"}, 60.0), "1", "2", "3")[0] == ["1", "2", "2", "3"]


def test_a_nodes_memory_outlasts_a_round_in_what_it_keeps_to_replay_alone(tmp_path):
    for kind, kept in (("flipped", 0), ("replayed", 4)):
        work = Workspace(canonical(f"faults.kind={kind}", "faults.rate=0.5", *MASKED))
        grid = InProcessGrid(work.plan.hash, 4)
        server_of(work, tmp_path / kind, grid).run()
        grid.push_messages([Message(RecordDict(), 2, "train", group_id="another round")])
        assert len(grid._states) == kept
        assert all(name.startswith("kept/") for state in grid._states.values() for name in state)
