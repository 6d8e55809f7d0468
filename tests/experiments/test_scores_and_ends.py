"""Runs that end early, and scores of clients, as a user sees them."""

from pathlib import Path

import numpy as np
import pytest

from fl.server import Server
from results.store import RunDirectory
from tests.experiments.command import QUICK, Here, read
from tests.fl.training.test_client_evaluation import SCORED, told
from tests.fl.training.test_stopping import EARLY, PRIVATE


def test_a_run_ends_early_and_says_so(here: Here, tmp_path: Path) -> None:
    ended = here("run", *QUICK, *EARLY, "rounds=9", "out=run")
    assert ended.status == 0
    assert "server.patience=1 ends the run before round 3" in ended.err
    assert read(tmp_path / "run", "status")["status"] == "stopped_early"
    assert read(tmp_path / "run", "summary")["rounds"] == 2
    again = here("run", *QUICK, *EARLY, "rounds=9", "out=run")
    assert "finished earlier" in again.out
    assert "stopped_early" in here("table", "run").out


def test_epsilon_is_that_of_all_planned_rounds(here: Here, tmp_path: Path) -> None:
    assert here("run", *QUICK, *EARLY, *PRIVATE, "rounds=5", "out=early").status == 0
    assert here("run", *QUICK, *PRIVATE, "rounds=5", "out=whole").status == 0
    assert here("run", *QUICK, *PRIVATE, "rounds=2", "out=short").status == 0
    epsilon = {name: read(tmp_path / name, "summary")["epsilon"] for name in ("early", "whole", "short")}
    assert read(tmp_path / "early", "summary")["rounds"] == 2
    assert epsilon["early"] == epsilon["whole"] > epsilon["short"]
    assert here("audit-ledger", "early").status == 0
    card = read(tmp_path / "early", "summary")["threat_card"]
    assert any("epsilon is that of all planned rounds" in sentence for sentence in card)
    assert any(f"Run as planned, epsilon is {epsilon['early']:.3g}" in sentence for sentence in card)


def test_their_distribution_is_in_the_table(here: Here, tmp_path: Path) -> None:
    assert here("run", *QUICK, *SCORED[:3], "out=run").status == 0
    rows = told(tmp_path / "run" / "checkpoints", 2)
    accuracies = [scores["accuracy"] for scores in rows.values()]
    summary = read(tmp_path / "run", "summary")
    assert summary["client_accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["client_accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary["client_accuracy_lowest"] == min(accuracies)
    table = here("table", "run").out
    for heading in ("clients' own accuracy (%)", "std over clients (%)", "lowest client (%)"):
        assert heading in table
    assert any("Clients report their accuracy and loss" in sentence for sentence in summary["threat_card"])
    assert here("run", *QUICK, "out=without").status == 0
    assert "lowest client" not in here("table", "without").out


@pytest.mark.parametrize("early", [EARLY, ("server.evaluate_every=1",)], ids=["early end", "budget"])
def test_a_crash_after_a_charge_leaves_the_rows_no_lower_than_the_ledger(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: tuple[str, ...]
) -> None:
    """The process ends before round 2 is saved; it is charged, and at an early end all that is planned."""
    budget = ("epsilon_budget=6.5",) if early == EARLY else ("epsilon_budget=5.3",)
    command = ("run", *QUICK, *early, *PRIVATE, *budget, "rounds=9", "out=run", "runtime.client_evaluation=true")
    command += ("runtime.client_diagnostics=true",)
    save = Server._save

    def crash(server: Server) -> None:
        if server.round == 2:
            raise RuntimeError("the power is gone")
        save(server)

    with monkeypatch.context() as broken:
        broken.setattr(Server, "_save", crash)
        assert here(*command).status == 1
    ended = here(*command)
    assert ended.status == 0, ended
    assert here("audit-ledger", "run").status == 0, here("audit-ledger", "run").out
    rows = RunDirectory(tmp_path / "run").rows().filter(metric="epsilon_record", where="server")
    assert rows["value"].max() == read(tmp_path / "run", "summary")["epsilon"]
    assert not rows.is_duplicated().any()
