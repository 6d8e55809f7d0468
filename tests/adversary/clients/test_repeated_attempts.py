"""A server that asks again: it forgets its ledger, repeats a round, and averages the noise of the answers away.

The bar: over 1,000 attempts at one round no client is charged beyond its own budget, and no answer comes beyond it.
"""

import shutil
from contextlib import suppress

import numpy as np
import pytest

from fl.keys import ledgers
from fl.keys.folders import LEDGERS_VARIABLE
from fl.ledger import LedgerFile
from fl.node import participate
from fl.runtimes import inprocess
from fl.server import Errand, Server
from privacy.errors import PrivacyRefusal, ProtocolError, RunRefused, TooFewContributors
from tests.adversary.clients.attempts import (
    LOCAL,
    MOST,
    RETRIES,
    answers,
    epsilon_of,
    request,
    restarted,
    simulated,
    work_of,
)
from tests.composed import attempt_of, server_of, workspace_of

ATTEMPTS = 1000


# ---- in process


def test_no_client_answers_beyond_its_budget(ledger_folder):
    work = work_of(*LOCAL)
    assert len(answers(work, simulated(work), ATTEMPTS)) == MOST
    held = LedgerFile(ledger_folder, name="client-0.jsonl")
    assert held.head[0] == held.ledger.participations(0) == MOST


def test_an_attempt_that_is_repeated_is_charged_each_time(ledger_folder):
    work = work_of(*LOCAL)
    assert len(answers(work, simulated(work), 2 * MOST, same=True)) == MOST


def test_with_many_retries_the_average_tells_the_update(ledger_folder):
    """The control, and what the attack is worth under the default: the error of the average over the update's norm."""
    errors = {}
    for name, overrides in {"default": (), "many": ("retries=400",)}.items():
        work = work_of(*LOCAL, *overrides)
        restarted()
        told = answers(work, simulated(work), 400)
        ledgers_of = ledger_folder.parent / name
        ledger_folder.rename(ledgers_of)
        sigma = work.plan.backend.mechanisms[0].noise_multiplier
        errors[name] = np.linalg.norm(np.mean(told, axis=0)) / (2 * sigma * np.sqrt(len(told[0])))
    assert errors["default"] == pytest.approx(1 / np.sqrt(MOST), rel=0.3)
    assert errors["many"] < 0.1, "the noise is averaged away"


def test_a_restart_undoes_no_charge(ledger_folder):
    work = work_of(*LOCAL)
    found = 0
    for _ in range(MOST + 3):
        restarted()
        found += len(answers(work, simulated(work), 1))
    assert found == MOST


def test_a_run_that_starts_afresh_has_new_ledgers(ledger_folder):
    """With `force=true` the folder goes, and the process knows the ledgers that were in it."""
    work = work_of(*LOCAL)
    assert len(answers(work, simulated(work), MOST + 1)) == MOST
    shutil.rmtree(ledger_folder)
    assert len(answers(work, simulated(work), MOST + 1)) == MOST
    assert LedgerFile(ledger_folder, name="client-0.jsonl").head[0] == MOST


def test_several_processes_share_one_ledger(ledger_folder):
    """Two views of one file, each of which charges in turn, as two workers do that serve the same client."""
    work = work_of(*LOCAL)
    first = ledgers.simulated("client/0", work.plan)
    views = [LedgerFile(ledger_folder, name=first.name, durable=False) for _ in range(2)]
    for number in range(6):
        file = views[number % 2]
        file.refresh()
        ledger_folder.mkdir(exist_ok=True)
        file.charge(1, str(number), {0: work.plan.backend.own_charges(0)})
    views[0].refresh()
    assert [file.ledger.participations(0) for file in views] == [6, 6]
    assert views[0].head == views[1].head == LedgerFile(ledger_folder, name=first.name).head


@pytest.mark.parametrize(
    ("overrides", "keeps"),
    [
        (LOCAL, True),
        (("mechanism=dp_sgd", "training.weighting=uniform"), True),
        (("mechanism=distributed_dp", "delta=1e-2", "server.min_contributors=3"), True),
        (("mechanism=client_dp", "delta=1e-2"), False),
        (("mechanism=dp_ftrl", "delta=1e-2"), False),
        ((), False),
    ],
)
def test_clients_keep_account_where_they_add_the_noise(ledger_folder, overrides, keeps):
    work = work_of(*overrides)
    for number in range(MOST):
        participate(request(work, str(number)), simulated(work))
    assert ledger_folder.exists() == keeps
    if keeps:
        with pytest.raises(PrivacyRefusal, match=f"client/0 has contributed {MOST} times, of {MOST} that its budget"):
            participate(request(work, "more"), simulated(work))
    else:
        participate(request(work, "more"), simulated(work))


@pytest.mark.parametrize("mechanism", ["local_dp", "client_dp", "none"])
def test_a_client_answers_in_rounds_of_its_own_alone(ledger_folder, mechanism):
    work = work_of(f"mechanism={mechanism}", "delta=1e-2", "training.weighting=uniform", "cohort=2", "rounds=5")
    for number in range(1, 6):
        if 0 in work.plan.cohort(number):
            participate(request(work, "a", number=number), simulated(work))
            continue
        with pytest.raises(
            ProtocolError, match=f"client/0 has nothing to contribute to round {number}: it is not in the cohort"
        ):
            participate(request(work, "a", number=number), simulated(work))
    for number in (-1, 6):
        with pytest.raises(ProtocolError, match=f"client/0 has nothing to contribute to round {number}: there are 5"):
            participate(request(work, "a", number=number), simulated(work))
    took_part = work.plan.participations[0]
    assert 0 < took_part < 5
    if mechanism == "local_dp":
        assert LedgerFile(ledger_folder, name="client-0.jsonl").head[0] == took_part


@pytest.mark.parametrize("together", [1, 2])
def test_the_charge_is_on_disk_before_the_client_trains(ledger_folder, monkeypatch, together):
    work = work_of(*LOCAL, f"runtime.together={together}")
    assert work.together.choice.size == together

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl.workspace.train", killed)
    monkeypatch.setattr("fl.training.together.stacked.Stacked.train", killed)
    with pytest.raises(KeyboardInterrupt):
        participate(request(work, "a"), simulated(work))
    assert LedgerFile(ledger_folder, name="client-0.jsonl").ledger.participations(0) == 1


def test_a_simulation_without_a_folder_for_ledgers_answers_nothing(monkeypatch):
    monkeypatch.delenv(LEDGERS_VARIABLE, raising=False)
    work = work_of(*LOCAL)
    with pytest.raises(RunRefused, match="client/0 has nowhere to keep its ledger"):
        participate(request(work, "a"), simulated(work))


# ---- the budget of epsilon


def test_a_budget_of_epsilon_is_the_clients_own_too(ledger_folder):
    sigma = work_of(*LOCAL).plan.backend.mechanisms[0].noise_multiplier
    budget = (epsilon_of(3, sigma) + epsilon_of(4, sigma)) / 2
    work = work_of(*LOCAL, f"epsilon_budget={budget}")
    for number in range(3):
        participate(request(work, str(number)), simulated(work))
    told = f"client/0 would spend epsilon {epsilon_of(4, sigma):.4g} for a client, and its budget is {budget:g}"
    with pytest.raises(PrivacyRefusal, match=told.replace("+", r"\+")):
        participate(request(work, "more"), simulated(work))


# ---- a whole run, whose server is malicious or honest


def test_a_malicious_server_of_a_whole_run_gets_no_further_sum(tmp_path):
    """Every client refuses in the same attempt, so that the round is refused in one line that says why."""
    work = workspace_of(*LOCAL)
    server = server_of(work, tmp_path)
    totals = 0
    told = ""
    for number in range(MOST + 3):
        try:
            server._sum(attempt_of(work, name=str(number)), [f"client/{client}" for client in range(4)])
            totals += 1
        except TooFewContributors as error:
            told = str(error)
    assert totals == MOST
    assert told.startswith("0 contributors are left of 4, 1 are needed; client/0 dropped out: client/0 has contributed")
    assert "\n" not in told


def test_an_honest_run_goes_on_after_as_many_crashes_as_retries(tmp_path):
    """Each crash comes after the clients have answered; one crash more than retries is refused, and says so."""
    work = workspace_of(*LOCAL)

    class Crashed(Exception):
        pass

    def crash(*_: object) -> None:
        raise Crashed

    for _ in range(RETRIES):
        server = server_of(work, tmp_path)
        server.step = crash
        with pytest.raises(Crashed):
            server.run()
    server_of(work, tmp_path).run()
    assert LedgerFile(tmp_path).ledger.participations(0) == MOST
    files = sorted((tmp_path / ledgers.SIMULATED).glob("*.jsonl"))
    assert len(files) == 4
    for file in files:
        assert LedgerFile(file.parent, name=file.name).head[0] == MOST


@pytest.mark.slow
def test_workers_share_the_ledgers_of_a_run(tmp_path):
    work = workspace_of(*LOCAL, "runtime.workers=2")
    totals = 0
    with ledgers.kept_in(tmp_path), inprocess.grid_of(work) as grid:
        server = Server(work, grid, inprocess.locate(grid, work.plan), Errand(tmp_path))
        for number in range(ATTEMPTS):
            with suppress(TooFewContributors):
                server._sum(attempt_of(work, name=str(number)), ["client/0"])
                totals += 1
    assert totals == MOST
    assert LedgerFile(tmp_path / ledgers.SIMULATED, name="client-0.jsonl").head[0] == MOST
