"""A server that asks again: it forgets its ledger, repeats a round, and averages the noise of the answers away.

The bar: over 1,000 attempts at one round no client is charged beyond its own budget, and no answer comes beyond it.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fl.keys import ledgers
from fl.keys.folders import LEDGERS_VARIABLE
from fl.ledger import NAME, LedgerFile
from fl.node import APPROVED, KEYS, PARTITION, participate
from fl.runtimes import inprocess
from fl.runtimes.deployment import nodes_of
from fl.server import Errand, Server
from fl.threats import threat_card
from fl.transport import ADDRESS, ENVELOPE, MODEL, STATE, as_array, pack, unpack
from fl.workspace import Workspace, workspace
from privacy.errors import ConfigError, FedveilError, PrivacyRefusal, ProtocolError, RunRefused, TooFewContributors
from privacy.secure_sums.contract import Participant
from privacy.secure_sums.mpc import protocol
from tests.composed import attempt_of, canonical, plan_of, server_of, workspace_of
from tests.experiments.command import fedveil

ATTEMPTS = 1000
DELTA = 1e-3
LOCAL = ("mechanism=local_dp", "mechanism.local_dp.epsilon_per_round=8", f"delta={DELTA}", "accountant=rdp")
PLANNED = 2  # rounds of the small configuration, in each of which every client takes part
RETRIES = 3  # the default
MOST = PLANNED + RETRIES


def work_of(*overrides: str) -> Workspace:
    """The workspace in which a node of this process acts on the configuration."""
    return workspace(canonical(*overrides))


def request(work: Workspace, attempt: str, client: int = 0, number: int = 1) -> RecordDict:
    """A message that asks a client for its contribution, as the server's transport writes it."""
    content = pack({})
    content[ADDRESS] = ConfigRecord({"address": f"client/{client}"})
    envelope = {"run": work.plan.hash, "round": number, "attempt": attempt, "stage": "collect"}
    content[ENVELOPE] = ConfigRecord({**envelope, "config": work.plan.canonical})
    content[MODEL] = ArrayRecord({MODEL: as_array(work.initial_D.numpy())})
    content[STATE] = ConfigRecord(dict(work.plan.backend.initial_state()))
    return content


def simulated(work: Workspace) -> Context:
    return Context(1, 2, {APPROVED: work.plan.hash}, RecordDict(), {})


def deployed(work: Workspace, folder: Path, **own: float) -> Context:
    """The context of a client's own SuperNode."""
    config = {APPROVED: work.plan.hash, PARTITION: 0, KEYS: str(folder), **own}
    return Context(1, 2, config, RecordDict(), {})


def answers(work: Workspace, context: Context, attempts: int, same: bool = False) -> list[np.ndarray]:
    """The answers of a client in many attempts at round 1, or many times in one of them; refusals are left out."""
    found = []
    for number in range(attempts):
        with suppress(PrivacyRefusal):
            content = request(work, "same" if same else f"{number}")
            found.append(np.array(unpack(participate(content, context))["vector"])[:-1])
    return found


@pytest.fixture
def ledger_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a simulation's ledgers."""
    monkeypatch.setenv(LEDGERS_VARIABLE, str(tmp_path / "ledgers"))
    return tmp_path / "ledgers"


def restarted() -> None:
    """Forget what a process knows of ledgers, as a new one does."""
    ledgers._opened.cache_clear()


def epsilon_of(times: int, sigma: float) -> float:
    return float(RdpAccountant().compose(GaussianDpEvent(sigma), times).get_epsilon(DELTA))


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


def test_the_charge_is_on_disk_before_the_client_trains(ledger_folder, monkeypatch):
    work = work_of(*LOCAL)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl.training.local.train", killed)
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


# ---- a deployment's own folder


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


# ---- parties


PARTY_DP = ("privacy=party_dp", "delta=1e-2")


def test_a_party_counts_the_contributions_of_each_client(ledger_folder):
    plan = work_of(*PARTY_DP).plan
    assert plan.backend.keeps_account("party/0")
    assert not plan.backend.keeps_account("keyholder")
    own = ledgers.simulated("party/0", plan)
    for number in range(MOST):
        own.pay(1, str(number), ["client/1", "client/2"])
    with pytest.raises(PrivacyRefusal, match=f"client/2 has contributed {MOST} times, of {MOST}"):
        own.pay(1, "more", ["client/0", "client/2"])
    own.pay(1, "others", ["client/0", "client/3"])


def test_a_party_that_refuses_tells_the_others_before_it_adds_noise(monkeypatch):
    """A refusal becomes the party's complaint in the agreement, which comes before anything is computed."""
    work = work_of(*PARTY_DP)
    told = []

    def agree(held: object, complaint: FedveilError | None, *_: object) -> None:
        told.append(str(complaint))
        raise complaint or AssertionError

    def refuse(clients: object) -> None:
        raise PrivacyRefusal(f"no more of {clients}")

    monkeypatch.setattr(protocol, "agree", agree)
    monkeypatch.setattr(protocol.Taken, "take", lambda self, *_: self.manifests.update({"client/1": b""}))
    me = Participant(
        address="party/0", run="", round=1, attempt="a", spec=work.spec, memory={}, randomness=None, pay=refuse
    )
    with pytest.raises(PrivacyRefusal, match="no more of"):
        work.plan.backend.secure_sum.respond("reveal", {}, me, lambda: None)
    assert told == ["no more of ('client/1',)"]


# ---- the card


@pytest.mark.parametrize(
    ("overrides", "enforced"),
    [
        (LOCAL, True),
        (("mechanism=dp_sgd", "training.weighting=uniform", "accountant=rdp"), True),
        ((*PARTY_DP, "accountant=rdp"), True),
        (
            ("mechanism=distributed_dp", "delta=1e-2", "secure_sum=secagg", "clients=6", "server.min_contributors=5"),
            True,
        ),
        (
            (
                "mechanism=distributed_dp",
                "delta=1e-2",
                "secure_sum=secagg",
                "secure_sum.server=curious",
                "clients=6",
                "server.min_contributors=5",
            ),
            False,
        ),
        (("mechanism=distributed_dp", "delta=1e-2", "server.min_contributors=3"), False),
        (("mechanism=client_dp", "delta=1e-2"), False),
        (("mechanism=dp_ftrl", "delta=1e-2"), False),
    ],
)
def test_the_card_says_who_enforces_epsilon(overrides, enforced):
    card = threat_card(workspace_of(*overrides, *(() if "accountant=rdp" in overrides else ("accountant=rdp",))))
    by_client = [line for line in card if line.startswith("Whatever the server asks, epsilon is at most ")]
    by_server = [line for line in card if "That holds for a server that follows the protocol" in line]
    assert (len(by_client), len(by_server)) == ((1, 0) if enforced else (0, 1))


def test_the_largest_epsilon_on_the_card_is_that_of_the_budget():
    work = workspace_of(*LOCAL, "retries=5")
    sigma = work.plan.backend.mechanisms[0].noise_multiplier
    [line] = [line for line in threat_card(work) if line.startswith("Whatever the server asks")]
    assert f"epsilon is at most {epsilon_of(PLANNED + 5, sigma):.3g} for a client, enforced by the client" in line
    capped = workspace_of(*LOCAL, f"epsilon_budget={epsilon_of(3, sigma)}")
    [line] = [line for line in threat_card(capped) if line.startswith("Whatever the server asks")]
    assert f"epsilon is at most {epsilon_of(3, sigma):.3g} for a client" in line


def test_retries_where_nobody_counts_them_are_refused():
    with pytest.raises(ConfigError, match="retries=5: no client keeps account of its noise under this mechanism"):
        workspace_of("mechanism=client_dp", "delta=1e-2", "retries=5")
    with pytest.raises(ConfigError, match="retries=-1: must be at least 0"):
        workspace_of(*LOCAL, "retries=-1")
