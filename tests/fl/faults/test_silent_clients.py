"""Clients that are gone or late are left out of the sum, under every secure sum."""

import pytest

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.server import Errand
from fl.workspace import Workspace
from privacy.errors import TooFewContributors
from tests.composed import canonical
from tests.fl.faults.runs import ALL, BASE, CLIENTS, OF, ROUNDS, SUMS, assert_right, contributions, ended, left_of, run

# ---- clients that are gone, or late


@pytest.mark.parametrize("name", ALL)
def test_clients_that_fall_silent_are_left_out(tmp_path, name):
    found = run(tmp_path, *OF[name], "faults.dropout_rate=0.2")
    assert_right(found, left_of(found, "dropout"))


@pytest.mark.parametrize("stage", ["confirm", "unmask"])
def test_whoever_masked_is_in_the_sum_though_it_dies_before_the_unmasking(tmp_path, stage):
    found = run(tmp_path, *SUMS["secagg"], "faults.dropout_rate=0.4", f"faults.dropout_stage={stage}")
    assert sum(len(found.struck("dropout", number)) for number in range(1, ROUNDS + 1)) > 2
    assert_right(found, {number: contributions(found.work, number) for number in range(1, ROUNDS + 1)})


LATE = ("faults.kind=late", "faults.rate=0.2", "server.deadline_s=1")


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "pad")), "secagg"])
def test_stragglers_are_left_out_at_the_deadline_and_counted_before_it(tmp_path, name):
    late = run(tmp_path / "late", *OF[name], *LATE, "faults.delay_s=2")
    assert_right(late, left_of(late, "late"))
    lost = {(row["round"], row["where"]) for row in late.rows.filter(metric="dropped").iter_rows(named=True)}
    assert lost == {(number, who) for number in range(1, ROUNDS + 1) for who in late.struck("late", number)}
    slow = run(tmp_path / "slow", *OF[name], *LATE, "faults.delay_s=0.05")
    assert_right(slow, {number: contributions(slow.work, number) for number in range(1, ROUNDS + 1)})
    assert slow.struck("late", 1) == late.struck("late", 1) != set()
    assert slow.rows.filter(metric="dropped").is_empty()


# ---- updates and weights


@pytest.mark.parametrize("name", [one for one in ALL if one != "plain"])
def test_a_single_client_that_is_left_is_not_opened(tmp_path, name):
    """Under secure aggregation, where half may drop out, fewer than half are not opened either."""
    work = Workspace(canonical(*BASE, *OF[name], "faults.dropout_rate=0.93", "server.min_share=0.2"))
    needed = 5 if name == "secagg" else 2
    with pytest.raises(TooFewContributors, match=rf"contributors are left of 10, {needed} are needed; .* on purpose"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    last = rows["round"].max()
    assert set(rows["round"]) == set(range(last + 1))
    assert len(rows.filter(round=last, metric="fault_dropout")) > CLIENTS - needed
    assert ended(work, tmp_path).round == last - 1
