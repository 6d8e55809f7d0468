"""Killed roles: the run names the lost role, keeps its rows, and resumes to the same weights."""

import signal
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import ConfigError, FedveilError
from tests.composed import workspace_of
from tests.experiments.command import QUICK, Ended, fedveil, read
from tests.fl.faults.runs import WITH_PARTIES, ended, run

ROLES = {"keyholder": WITH_PARTIES["ckks keyholder"], "party/1": WITH_PARTIES["crypten"]}


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_killed_is_named_and_the_run_goes_on(role: str, tmp_path: Path) -> None:
    sums = ROLES[role]
    faults = (f"faults.killed={role}", "faults.killed_round=2")
    with pytest.raises(FedveilError, match=role):
        run(tmp_path / "run", *sums, *faults)
    broken = ended(workspace_of(*sums), tmp_path / "run")
    assert broken.round == 1
    assert broken.where("up_bytes", 1), "the rows of the round before are there"
    again = run(tmp_path / "run", *sums, *faults)
    undisturbed = run(tmp_path / "other", *sums)
    assert again.round == undisturbed.round == 3
    assert np.allclose(again.weights_D, undisturbed.weights_D, rtol=0, atol=again.work.tolerance * 30)


@pytest.mark.slow
def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    command = ("run", *QUICK, "rounds=3", "faults=killed", "out=run")
    first: Ended = fedveil(*command, folder=tmp_path)
    assert first.status == -signal.SIGKILL
    assert "server dies on purpose in round 2" in first.err
    assert read(tmp_path / "run", "status")["status"] == "running"
    assert fedveil(*command, folder=tmp_path).status == 0
    whole = fedveil("run", *QUICK, "rounds=3", "out=whole", folder=tmp_path)
    assert whole.status == 0
    hashes = [read(tmp_path / name, "summary")["weights_sha256"] for name in ("run", "whole")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("faults.killed=keyholder", "faults.killed_round=1"), "allowed under secure_sum=plain are server"),
        (("faults.killed=server", "faults.killed_round=3"), "must be from 1 to rounds=2"),
        (("faults.killed=server",), "belongs to faults.killed"),
        (("faults.killed_round=1",), "belongs to faults.killed"),
    ],
)
def test_what_kills_nobody_is_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        workspace_of(*overrides)
