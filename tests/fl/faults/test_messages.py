"""Messages that go wrong on their way cost their client its place, or end the run."""

import pytest

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.server import Errand
from fl.workspace import Workspace
from privacy.errors import PrivacyRefusal
from tests.composed import canonical
from tests.fl.faults.runs import ALL, BASE, COLLECTED, OF, ROUNDS, SUMS, assert_right, contributions, left_of, run

MESSAGES = ["flipped", "truncated", "oversized", "replayed"]


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("name", ALL)
def test_messages_that_go_wrong_cost_their_client_its_place(tmp_path, name, kind):
    """From the first stage on, or in the upload itself; all others are summed up."""
    found = run(tmp_path / "any", *OF[name], f"faults.kind={kind}", "faults.rate=0.2")
    assert_right(found, left_of(found, kind))
    for number in range(1, ROUNDS + 1):
        assert found.where("rejected", number) == found.struck(kind, number)
    assert found.struck(kind, 1) == set() if kind == "replayed" else found.struck(kind, 1)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_masked_vector_that_goes_wrong_is_left_out_and_its_mask_taken_off(tmp_path, kind):
    found = run(tmp_path, *SUMS["secagg"], f"faults.kind={kind}", "faults.rate=0.2", "faults.stage=mask")
    assert_right(found, left_of(found, kind))
    assert set(found.rows.filter(metric="rejected")["stage"]) == {"mask"}


@pytest.mark.parametrize("name", ALL)
def test_messages_that_come_twice_count_once(tmp_path, name):
    found = run(tmp_path, *OF[name], "faults.kind=duplicated", "faults.rate=0.5")
    assert any(found.struck("duplicated", number) for number in range(1, ROUNDS + 1))
    assert_right(found, {number: contributions(found.work, number) for number in range(1, ROUNDS + 1)})
    up = found.rows.filter(metric="up_bytes", stage=COLLECTED.get(name, "collect"))
    assert up["value"].max() < 1.1 * up["value"].min(), "some were counted twice"


def test_an_opened_sum_that_is_damaged_ends_the_run_and_keeps_its_rows(tmp_path):
    """Nobody can replace the opener."""
    work = Workspace(canonical(*BASE, *SUMS["pad"], "faults.kind=flipped", "faults.rate=0.5", "faults.stage=open"))
    with pytest.raises(PrivacyRefusal, match=r"client/0 did not open the sum; client/0 dropped out: client/0 did not"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    last = rows["round"].max()
    assert set(rows["round"]) == set(range(last + 1))
    assert set(rows.filter(round=last, metric="fault_flipped")["where"]) == {"client/0"}
