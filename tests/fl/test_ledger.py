"""The ledger of a run: on disk before anything is sent, kept over crashes, and what ends a run that has spent all."""

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fl.checkpoint import Checkpoints
from fl.ledger import NAME, LedgerFile
from fl.runtimes.inprocess import InProcessGrid
from privacy.accounting import Charge, poisson_steps
from privacy.errors import RunRefused
from results.rows import read_rows
from tests.composed import CONFIGS, run, server_of, workspace_of
from tests.experiments.command import Here, read, refused

DELTA = 1e-3
CLIENT_DP = ("mechanism=client_dp", "noise=seeded", f"delta={DELTA}", "accountant=rdp")
ONE, OTHER = (Charge("client_dp", "client", "zero_out", GaussianDpEvent(sigma)) for sigma in (1.0, 2.5))
RECORDS = Charge("dp_sgd", "record", "add_remove", poisson_steps(1.1, 0.1, 36))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def charged(folder: Path) -> list[tuple[int, list[int]]]:
    """Round and clients of each line."""
    return [(line["round"], sorted(line["charges"][0]["clients"])) for line in lines(folder)]


def epsilon_of(times: int, sigma: float = 1.0) -> float:
    """By dp-accounting, driven by hand."""
    return float(RdpAccountant().compose(GaussianDpEvent(sigma), times).get_epsilon(DELTA)) if times else 0.0


# ---- the file


@given(
    st.lists(
        st.dictionaries(st.integers(0, 4), st.lists(st.sampled_from([ONE, OTHER, RECORDS]), max_size=3)), max_size=5
    )
)
@settings(deadline=None, max_examples=30)
def test_what_one_process_wrote_another_reads(tmp_path_factory, attempts):
    folder = tmp_path_factory.mktemp("ledger")
    written, by_hand = LedgerFile(folder), Counter()
    for number, charges in enumerate(attempts, 1):
        written.charge(number, f"attempt {number}", {client: iter(owed) for client, owed in charges.items()})
        by_hand.update((client, charge) for client, owed in charges.items() for charge in owed)
    for ledger in (written.ledger, LedgerFile(folder).ledger):
        paid = {(client, charge): n for client, all_ in ledger._paid.items() for charge, n in all_.items()}
        assert paid == by_hand


def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path):
    """Torn anywhere, its end of line included: it was never synced, so nothing was sent for it."""
    LedgerFile(tmp_path).charge(1, "a", {0: [ONE]})
    whole = (tmp_path / NAME).read_bytes()
    LedgerFile(tmp_path).charge(2, "b", {0: [ONE]})
    line = (tmp_path / NAME).read_bytes()[len(whole) :]
    for kept in (1, len(line) // 2, len(line) - 1):
        (tmp_path / NAME).write_bytes(whole + line[:kept])
        again = LedgerFile(tmp_path)
        assert again.ledger.worst(DELTA, "rdp")["client"] == pytest.approx(epsilon_of(1))
        again.charge(2, "c", {0: [ONE]})
        assert [(one["round"], one["attempt"]) for one in lines(tmp_path)] == [(1, "a"), (2, "c")]
        assert LedgerFile(tmp_path).ledger.worst(DELTA, "rdp")["client"] == pytest.approx(epsilon_of(2))


def damaged_at(folder: Path, damage: bytes) -> Path:
    file = LedgerFile(folder)
    for number in (1, 2, 3):
        file.charge(number, str(number), {0: [ONE]})
    first, _, third, _ = (folder / NAME).read_bytes().split(b"\n")
    (folder / NAME).write_bytes(b"\n".join([first, damage, third, b""]))
    return folder


@pytest.mark.parametrize("damage", [b"", b'{"round": 2, "att', b"\x00" * 40, b"\xff\xfe{}"])
def test_a_damaged_line_is_refused(tmp_path, damage):
    folder = damaged_at(tmp_path, damage)
    before = (folder / NAME).read_bytes()
    with pytest.raises(RunRefused, match=r"ledger.jsonl is damaged in line 2: what this run has spent is unknown$"):
        LedgerFile(folder)
    assert (folder / NAME).read_bytes() == before


@pytest.mark.parametrize("damage", [b"{}", b"2", b'{"charges": [{"charge": {}, "clients": [0]}]}'])
def test_a_line_that_is_json_of_another_form_is_damaged_too(tmp_path, damage):
    with pytest.raises(RunRefused, match="damaged in line 2"):
        LedgerFile(damaged_at(tmp_path, damage))


# ---- a run


class Looking(InProcessGrid):
    """Reads the ledger's file when messages are about to leave, as another process would; may fail then."""

    def __init__(self, work, folder, fail_in=0, synced=()):
        super().__init__(work.hash, work.config.clients)
        self.folder, self.fail_in, self.synced, self.seen = folder, fail_in, synced, []

    def push_messages(self, messages):
        messages = list(messages)
        number, attempt = (messages[0].content["envelope"][key] for key in ("round", "attempt"))
        worst, inode = LedgerFile(self.folder).ledger.worst(DELTA, "rdp"), (self.folder / NAME).stat().st_ino
        self.seen.append((number, attempt, lines(self.folder), worst, self.synced.count(inode)))
        if number == self.fail_in:
            raise OSError("the network is gone")
        return super().push_messages(messages)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were synced, in order; they are synced all the same."""
    inodes, fsync = [], os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        inodes.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noting)
    return inodes


def test_the_charge_is_on_disk_before_anything_is_sent(tmp_path, synced):
    work = workspace_of(*CLIENT_DP, "rounds=3")
    grid = Looking(work, tmp_path, synced=synced)
    server_of(work, tmp_path, grid).run()
    assert len(grid.seen) == 3
    for number, attempt, on_disk, worst, times in grid.seen:
        assert (on_disk[-1]["round"], on_disk[-1]["attempt"]) == (number, attempt)
        assert len(on_disk) == number == times
        assert worst == {"client": pytest.approx(epsilon_of(number))}


def test_the_folder_is_synced_when_the_file_is_new(tmp_path, synced):
    LedgerFile(tmp_path).charge(1, "a", {0: [ONE]})
    assert tmp_path.stat().st_ino in synced


def test_a_round_that_runs_again_is_charged_again(tmp_path):
    overrides = (*CLIENT_DP, "rounds=3", "cohort=3")
    undisturbed = run(tmp_path / "undisturbed", *overrides)
    work, folder = workspace_of(*overrides), tmp_path / "stopped"
    for _ in range(2):
        with pytest.raises(OSError, match="the network is gone"):
            server_of(work, folder, Looking(work, folder, fail_in=2)).run()
    resumed = run(folder, *overrides)
    assert resumed.weights_D.equal(undisturbed.weights_D)
    assert charged(folder) == [(number, work.cohort(number)) for number in (1, 2, 2, 2, 3)]
    assert len({line["attempt"] for line in lines(folder)}) == 5
    times = Counter(client for _, clients in charged(folder) for client in clients)
    epsilons = LedgerFile(folder).ledger.epsilons("client", DELTA, "rdp")
    assert epsilons == {client: pytest.approx(epsilon_of(n)) for client, n in times.items()}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.composed import server_of, workspace_of
from fl.runtimes.inprocess import InProcessGrid

class Deadly(InProcessGrid):
    def push_messages(self, messages):
        messages = list(messages)
        if messages[0].content["envelope"]["round"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().push_messages(messages)

work = workspace_of(*sys.argv[2:])
server_of(work, Path(sys.argv[1]), Deadly(work.hash, work.config.clients)).run()
"""


def test_a_killed_round_was_paid_for(tmp_path):
    overrides = (*CLIENT_DP, "rounds=2")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, *overrides], cwd=CONFIGS.parent, check=False)
    assert killed.returncode == -signal.SIGKILL
    everybody = [0, 1, 2, 3]
    assert charged(tmp_path) == [(1, everybody), (2, everybody)]
    run(tmp_path, *overrides)
    assert charged(tmp_path) == [(1, everybody), (2, everybody), (2, everybody)]
    assert LedgerFile(tmp_path).ledger.worst(DELTA, "rdp")["client"] == pytest.approx(epsilon_of(3))


def test_a_participation_is_charged_once_also_to_who_drops_out(tmp_path):
    """What local_dp costs, client by client, as the cohorts were drawn."""
    probe = ("+mechanism.probe._target_=tests.outside.probe.Probe", "+mechanism.probe.faults={client/1:crash}")
    overrides = ("mechanism=local_dp", f"delta={DELTA}", "accountant=rdp", *probe, "clients=6", "cohort=2", "rounds=6")
    work = workspace_of(*overrides)
    run(tmp_path, *overrides)
    assert charged(tmp_path) == [(number, work.cohort(number)) for number in range(1, 7)]
    assert all(len(line["charges"]) == 1 for line in lines(tmp_path))
    times = Counter(client for number in range(1, 7) for client in work.cohort(number))
    assert 1 in times
    assert len(set(times.values())) > 1
    epsilons = LedgerFile(tmp_path).ledger.epsilons("client", DELTA, "rdp")
    sigma = work.backend.mechanisms[0].noise_multiplier
    assert epsilons == {client: pytest.approx(epsilon_of(n, sigma)) for client, n in times.items()}


def test_without_a_promise_nothing_is_written(tmp_path):
    run(tmp_path)
    assert not (tmp_path / NAME).exists()


# ---- the budget, and what a summary says


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(capsys)


BUDGET = (epsilon_of(3) + epsilon_of(4)) / 2
SPENDING = (*CLIENT_DP, "rounds=9", "server.evaluate_every=0", f"epsilon_budget={BUDGET}")


def test_a_run_ends_before_the_round_that_would_pass_its_budget(here, tmp_path):
    ended = here.run(*SPENDING, "out=run")
    assert ended.status == 0, ended
    assert "3 rounds" in ended.out
    assert f"epsilon_budget={BUDGET:g} ends the run before round 4" in ended.err
    folder, summary = tmp_path / "run", read(tmp_path / "run", "summary")
    assert read(folder, "status")["status"] == "budget_exhausted"
    assert summary["rounds"] == summary["evaluated_round"] == 3
    assert summary["epsilon"] == pytest.approx(epsilon_of(3))
    assert summary["epsilon"] <= BUDGET
    scores = read_rows(folder / "rows.parquet").filter(pl.col("metric") == "accuracy")
    assert scores["round"].to_list() == [3], "evaluated once, at the end that the budget set"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = here.run(*SPENDING, "out=run")
    assert again.status == 0
    assert "finished earlier" in again.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_budget_that_is_never_reached_ends_nothing(here, tmp_path):
    assert here.run(*CLIENT_DP, "rounds=3", f"epsilon_budget={epsilon_of(3) * 1.001}", "out=run").status == 0
    assert read(tmp_path / "run", "status")["status"] == "finished"
    assert read(tmp_path / "run", "summary")["rounds"] == 3


def test_the_budget_follows_the_client_that_took_part_most_often(tmp_path):
    overrides = (*CLIENT_DP, "clients=6", "cohort=2", "rounds=12", f"epsilon_budget={BUDGET}")
    work, times, expected = workspace_of(*overrides), Counter(), 0
    for number in range(1, 13):
        times.update(work.cohort(number))
        if max(times.values()) > 3:
            break
        expected = number
    assert 3 < expected < 12
    assert run(tmp_path, *overrides).round == expected


def test_a_budget_below_the_first_round_is_refused(here):
    line = refused(here.run(*CLIENT_DP, "epsilon_budget=0.5", "out=run"))
    assert line == "epsilon_budget=0.5: the first round costs more; raise it, or the noise"


def test_a_crash_that_spends_the_budget_leaves_an_accuracy(tmp_path):
    """Round 3 was paid for and died: what is left does not pay it again, and round 2 is the last."""
    work = workspace_of(*SPENDING)
    server = server_of(work, tmp_path, Looking(work, tmp_path, fail_in=3))
    with pytest.raises(OSError, match="the network is gone"):
        server.run()
    server_of(work, tmp_path, Looking(work, tmp_path, fail_in=4)).run()
    assert charged(tmp_path)[-1][0] == 3, "nothing was paid beyond"
    scores = Checkpoints(tmp_path, 2).rows().filter(pl.col("metric") == "accuracy")
    assert scores["round"].to_list() == [2]


SAID = ("epsilon_unit", "delta", "accountant", "noise", "holds_against")


def summary_of(here: Here, *overrides: str) -> dict:
    ended = here.run(*overrides, "out=run")
    assert ended.status == 0, ended
    return read(Path("run"), "summary")


def test_a_summary_says_what_client_dp_gives(here):
    summary = summary_of(here, "mechanism=client_dp", "clients=6", "cohort=2", "rounds=4", f"delta={DELTA}")
    times = Counter(client for number, clients in charged(Path("run/checkpoints")) for client in clients)
    assert sum(times.values()) == 8
    assert len(set(times.values())) > 1
    # PRV, the default, adds its error to what is exact
    exact = {n: exact_gaussian_epsilon(n**-0.5, DELTA) for n in times.values()}
    spread = sorted(exact[n] for n in times.values())
    assert summary["epsilon"] == summary["epsilon_client"] == pytest.approx(spread[-1], abs=0.03)
    assert summary["epsilon_client_median"] == pytest.approx(spread[len(spread) // 2], abs=0.03)
    assert [summary[key] for key in SAID] == ["client", DELTA, "prv", "os", "outsider"]


def exact_gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, at sensitivity 1."""
    return float(
        brentq(
            lambda e: (
                norm.cdf(1 / (2 * sigma) - e * sigma) - math.exp(e) * norm.cdf(-1 / (2 * sigma) - e * sigma) - delta
            ),
            0.0,
            100.0,
        )
    )


def test_a_summary_says_what_local_dp_gives(here):
    """One round at epsilon_per_round=8 is epsilon 8; over 2 rounds the noise is worth half its variance."""
    options = ("mechanism=local_dp", f"delta={DELTA}", "noise=seeded", "accountant=pld")
    summary = summary_of(here, *options, "rounds=1")
    assert summary["epsilon"] == summary["epsilon_client_median"] == pytest.approx(8.0, rel=1e-3)
    assert [summary[key] for key in SAID] == ["client", DELTA, "pld", "seeded", "outsider and server"]


def test_a_summary_says_what_dp_sgd_gives(here):
    """359 or 360 examples in batches of 32 make 12 steps a round, each with a rate of 1/12."""
    summary = summary_of(here, "mechanism=dp_sgd", "mechanism.dp_sgd.noise_multiplier=0.9", "accountant=rdp")
    step = PoissonSampledDpEvent(1 / 12, GaussianDpEvent(0.9))
    expected = RdpAccountant().compose(step, 24).get_epsilon(1e-5)
    assert summary["epsilon"] == summary["epsilon_record"] == pytest.approx(expected)
    assert "epsilon_client" not in summary
    assert [summary[key] for key in SAID] == ["record", 1e-5, "rdp", "os", "outsider and server"]


def test_a_summary_promises_nothing_for_plain(here):
    summary = summary_of(here)
    assert summary["epsilon"] is None
    assert not {key for key in summary if key.startswith(("epsilon_", "delta", "holds", "accountant"))}


BOTH = ("mechanism=client_dp", "+mechanism.dp_sgd._target_=privacy.dp_sgd.DpSgd", "accountant=rdp")


def test_two_units_hold_against_their_own(here):
    """The clients' epsilon is client_dp's, whose noise the server itself adds: it promises nothing against it."""
    summary = summary_of(here, *BOTH, "+mechanism.dp_sgd.noise_multiplier=1.0", f"delta={1e-5}")
    assert summary["epsilon_record"] < math.inf
    assert summary["epsilon"] == summary["epsilon_client"] != summary["epsilon_record"]
    assert summary["epsilon_unit"] == "client"
    assert summary["holds_against"] == "outsider"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("training.weighting=examples",), "training.weighting=examples: {} needs training.weighting=uniform"),
        (("delta=0.25",), "delta=0.25: must be below 1/clients = 0.25"),
        (("delta=1.0",), "delta=1.0: must lie between 0 and 1"),
        (("noise=none",), "noise=none: allowed are os, seeded"),
        (("accountant=gdp",), "accountant=gdp: allowed are prv, rdp, pld"),
        (("epsilon_budget=0",), "epsilon_budget=0.0: must be a finite number above 0"),
        (("mechanism.{}.clip=-1.0",), "mechanism.{}.clip=-1.0: must be a finite number above 0"),
    ],
)
@pytest.mark.parametrize("name", ["client_dp", "local_dp"])
def test_what_breaks_a_promise_is_refused_in_one_line(here, name, overrides, line):
    assert refused(here.run(f"mechanism={name}", *(o.format(name) for o in overrides), "out=run")) == line.format(name)
    assert not Path("run").exists()


def test_local_dp_works_with_the_accountant_that_is_the_default_or_is_refused_before_it_trains(here):
    ended = here.run("mechanism=local_dp", f"delta={DELTA}", "out=run")
    if ended.status:
        assert "accountant=prv" in refused(ended)
        assert not Path("run").exists(), "it was refused after it had trained"
    else:
        assert read(Path("run"), "summary")["epsilon"] > 8.0


def test_relations_that_cannot_be_added_are_refused_before_anything_trains(here):
    extra = ("+mechanism.local_dp._target_=privacy.client_dp.LocalDp", "+mechanism.local_dp.noise_multiplier=1.0")
    line = refused(here.run("mechanism=client_dp", *extra, f"delta={DELTA}", "accountant=rdp", "out=run"))
    assert "relation" in line
    assert not Path("run").exists(), "it was refused after it had trained"
