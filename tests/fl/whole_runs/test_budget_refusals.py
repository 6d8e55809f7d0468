"""A budget that not even the first round keeps to: refused before anybody is asked anything, keys included."""

import pytest

from fl.checkpoint import Checkpoints
from privacy.errors import PrivacyRefusal
from tests.composed import server_of, workspace_of
from tests.fl.grids import Tampered, untouched
from tests.fl.whole_runs.spending import CLIENT_DP, epsilon_of

MORE = r"epsilon_budget=\S+: the first round {}cost.* more; raise it, or the noise"


@pytest.mark.parametrize("sum_", [(), ("secure_sum=bfv", "secure_sum.keys=clients")])
def test_a_first_round_over_the_budget_is_refused_before_anything_is_sent(tmp_path, monkeypatch, sum_):
    work = workspace_of(*CLIENT_DP, *sum_, f"epsilon_budget={epsilon_of(1) * 0.99}")
    grid = Tampered(work, untouched)
    monkeypatch.setattr("fl.server._roster", lambda *_: None)
    server = server_of(work, tmp_path, grid)
    with pytest.raises(PrivacyRefusal, match=MORE.format("")):
        server.run()
    assert not grid.pushed
    assert not server.ledger.ledger
    assert Checkpoints(tmp_path, 2).latest() is None


def test_earlier_tries_count(tmp_path):
    """A budget for one try at round 1, of which one was made before and its keys never came."""
    work = workspace_of(*CLIENT_DP, f"epsilon_budget={(epsilon_of(1) + epsilon_of(2)) / 2}")
    first = server_of(work, tmp_path)
    first.charge(first._attempt(1), work.plan.cohort(1))
    grid = Tampered(work, untouched)
    with pytest.raises(PrivacyRefusal, match=MORE.format("and earlier tries at it ")):
        server_of(work, tmp_path, grid).run()
    assert not grid.pushed
