"""The ledger that a client of a deployment keeps in its own folder, over restarts and damage."""

import shutil

import pytest

from fl.keys import ledgers
from fl.ledger import NAME, LedgerFile
from fl.node import KEYS, participate
from fl.runtimes.deployment import nodes_of
from privacy.errors import ConfigError, PrivacyRefusal, RunRefused
from tests.adversary.clients.attempts import (
    LOCAL,
    MOST,
    PLANNED,
    RETRIES,
    answers,
    deployed,
    epsilon_of,
    request,
    restarted,
    work_of,
)
from tests.composed import plan_of
from tests.experiments.command import fedveil

ATTEMPTS = 1000


def test_a_node_of_a_deployment_keeps_its_ledger_in_its_folder(tmp_path):
    """Also under the plain sum, which needs no keys; every message comes to a new process. Then 1,000 more to one."""
    work = work_of(*LOCAL)
    for number in range(MOST):
        restarted()
        participate(request(work, str(number)), deployed(work, tmp_path / "own"))
    restarted()
    with pytest.raises(PrivacyRefusal, match=f"has contributed {MOST} times"):
        participate(request(work, "more"), deployed(work, tmp_path / "own"))
    assert answers(work, deployed(work, tmp_path / "own"), ATTEMPTS) == []
    assert LedgerFile(tmp_path / "own" / "runs" / work.plan.hash).head[0] == MOST


def test_a_node_without_a_folder_is_refused(tmp_path):
    work = work_of(*LOCAL)
    context = deployed(work, tmp_path)
    del context.node_config[KEYS]
    with pytest.raises(ConfigError, match=r"keys=None: mechanism=local_dp needs the folder of client/0's ledger"):
        participate(request(work, "a"), context)


def test_a_deployment_on_loopback_names_a_folder_for_each_client(tmp_path):
    named = nodes_of(plan_of(*LOCAL), tmp_path)
    assert [node.config["keys"] for node in named] == [str(tmp_path / f"client-{client}") for client in range(3)]
    assert all("keys" not in node.config for node in nodes_of(plan_of("mechanism=client_dp"), tmp_path))


def test_a_node_may_be_stricter(tmp_path):
    work = work_of(*LOCAL)
    sigma = work.plan.backend.mechanisms[0].noise_multiplier
    for name, own, answered in (
        ("fewer", {"retries": 0}, PLANNED),
        ("epsilon", {"epsilon-budget": epsilon_of(1, sigma) * 1.01}, 1),
    ):
        context = deployed(work, tmp_path / name, **own)
        for number in range(answered):
            participate(request(work, str(number)), context)
        with pytest.raises(PrivacyRefusal):
            participate(request(work, "more"), context)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"retries": RETRIES + 1}, "retries=4: a node allows from 0 to the configuration's 3"),
        ({"retries": -1}, "retries=-1: a node allows"),
        ({"retries": "none"}, "retries=none: a node allows"),
        ({"epsilon-budget": 0.0}, "epsilon-budget=0.0: a node allows a number above 0"),
        ({"epsilon-budget": "much"}, "epsilon-budget=much: a node allows"),
    ],
)
def test_a_node_may_not_be_laxer(tmp_path, own, said):
    work = work_of(*LOCAL)
    with pytest.raises(ConfigError, match=said):
        participate(request(work, "a"), deployed(work, tmp_path, **own))


@pytest.mark.deployment
@pytest.mark.timeout(600)
def test_clients_of_a_deployment_remember_a_server_that_does_not(tmp_path):
    """Every process starts anew, and the server has lost its ledger and its checkpoints."""
    sizes = ("model=logistic", "clients=2", "rounds=1", "device=cpu", "training.weighting=uniform", "retries=0")
    command = ("run", *sizes, *LOCAL, "runtime=deployment", "runtime.supernodes=2", "out=run")
    first = fedveil(*command, folder=tmp_path)
    assert first.status == 0, first
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for name in ("status.json", "summary.json", "rows.parquet"):
        (tmp_path / "run" / name).unlink()
    again = fedveil(*command, folder=tmp_path)
    assert again.status in (1, 2)
    assert "has contributed 1 times, of 1 that its budget allows (1 planned, retries=0)" in again.err.splitlines()[-1]
    assert len(list((tmp_path / "run" / "keys").rglob(NAME))) == 2


@pytest.mark.parametrize("damage", ["cut", "deleted", "older"])
def test_an_own_ledger_that_lost_charges_is_noticed(tmp_path, damage):
    work = work_of(*LOCAL)
    context = deployed(work, tmp_path)
    file = tmp_path / "runs" / work.plan.hash / NAME
    for number in range(3):
        participate(request(work, str(number)), context)
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(b"".join(lines[: 1 if damage == "older" else 2]))
    restarted()
    with pytest.raises(RunRefused, match=r"has lost charges: it has \d lines, and had 3"):
        participate(request(work, "more"), context)


def test_a_damaged_end_of_an_own_ledger_is_refused(tmp_path):
    work = work_of(*LOCAL)
    context = deployed(work, tmp_path)
    participate(request(work, "0"), context)
    (tmp_path / "runs" / work.plan.hash / ledgers.HEAD).write_bytes(b"{}")
    with pytest.raises(RunRefused, match="ledger-head is damaged"):
        participate(request(work, "more"), context)


def test_a_crash_between_ledger_and_store_loses_nothing(tmp_path, monkeypatch):
    work = work_of(*LOCAL)
    context = deployed(work, tmp_path)
    participate(request(work, "0"), context)
    with monkeypatch.context() as patched:
        patched.setattr("fl.keys.folders.FileStore.put", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            participate(request(work, "1"), context)
    restarted()
    assert len(answers(work, context, MOST)) == MOST - 2
