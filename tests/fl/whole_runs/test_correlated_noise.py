"""Correlated noise in an interrupted run: the cost of a repeated round, and the contents of the checkpoint."""

import stat

import torch

from fl.checkpoint import Checkpoints
from fl.ledger import LedgerFile
from tests.composed import run, server_of, workspace_of
from tests.fl.faults.stopping import stopped_in
from tests.fl.whole_runs.spending import DELTA, epsilon_of
from tests.scenery.paths import some

BANDS = 3
FTRL = ("mechanism=dp_ftrl", "clients=10", "cohort=2", "rounds=6", "noise=seeded", f"delta={DELTA}", "accountant=rdp")
FTRL += (f"mechanism.dp_ftrl.bands={BANDS}",)


def times_paid(folder) -> dict[int, float]:
    return LedgerFile(folder).ledger.epsilons("client", DELTA, "rdp")


def test_everyone_in_the_window_pays_for_a_round_that_runs_again(tmp_path):
    work = workspace_of(*FTRL)
    stopped_in(4, work, tmp_path)
    server_of(work, tmp_path).run()
    owed = dict.fromkeys(range(10), 0)
    for number, cohort in enumerate(work.plan.schedule, 1):
        for client in cohort:
            owed[client] += 1 + (number in (2, 3, 4))  # round 4 was tried twice; its row holds rounds 2 to 4
    expected = {client: epsilon_of(times) for client, times in owed.items() if times}
    found = times_paid(tmp_path)
    assert found.keys() == expected.keys()
    assert all(abs(found[client] - expected[client]) < 1e-9 for client in found)


def test_a_first_try_charges_nobody_else(tmp_path):
    run(tmp_path, *FTRL)
    assert set(times_paid(tmp_path).values()) <= {epsilon_of(1), epsilon_of(2)}


def test_a_run_that_was_stopped_remembers_its_noise(tmp_path):
    """With seeded noise it ends where it would have, which takes the noise of the rounds before the stop."""
    work = workspace_of(*FTRL)
    stopped_in(4, work, tmp_path / "stopped")
    server_of(work, tmp_path / "stopped").run()
    state = Checkpoints(tmp_path / "stopped", 2).latest()
    assert state is not None
    assert torch.equal(state.weights_D, run(tmp_path / "whole", *FTRL).weights_D)
    assert state.secrets["dp_ftrl.noise"].shape == (BANDS - 1, len(state.weights_D))


def test_a_checkpoint_is_for_its_owner_alone(tmp_path):
    """A reader of the noise of earlier rounds could subtract it from the released models."""
    run(tmp_path, *FTRL)
    for path in some(tmp_path.glob("*.ckpt")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
