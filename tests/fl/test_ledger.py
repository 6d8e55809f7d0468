"""The ledger of a run: on disk before any message, kept over crashes, and the end of a run with a spent budget."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from dp_accounting import GaussianDpEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.hydra.error_lines import CONFIGS
from fl.checkpoint import Checkpoints
from fl.ledger import NAME, LedgerFile
from fl.runtimes.inprocess import InProcessGrid
from privacy.accounting.charges import Charge, poisson_steps
from privacy.errors import RunRefused
from tests.composed import run, server_of, workspace_of
from tests.fl.whole_runs.spending import BUDGET, CLIENT_DP, DELTA, SPENDING, charged, epsilon_of, lines

ONE, OTHER = (Charge("client_dp", "client", "zero_out", GaussianDpEvent(sigma)) for sigma in (1.0, 2.5))
RECORDS = Charge("dp_sgd", "record", "add_remove", poisson_steps(1.1, 0.1, 36))


# ---- the file


@given(
    st.lists(
        st.dictionaries(st.integers(0, 4), st.lists(st.sampled_from([ONE, OTHER, RECORDS]), max_size=3)), max_size=5
    )
)
@settings(deadline=None, max_examples=30)
def test_what_one_process_wrote_another_reads(tmp_path_factory, attempts):
    folder = tmp_path_factory.mktemp("ledger")
    written = LedgerFile(folder)
    by_hand = Counter()
    for number, charges in enumerate(attempts, 1):
        written.charge(number, f"attempt {number}", {client: iter(owed) for client, owed in charges.items()})
        by_hand.update((client, charge) for client, owed in charges.items() for charge in owed)
    for ledger in (written.ledger, LedgerFile(folder).ledger):
        paid = {(client, charge): n for client, all_ in ledger._paid.items() for charge, n in all_.items()}
        assert paid == by_hand


def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path):
    """The line is torn anywhere, its line end included: it was never synced, so no message was sent for it."""
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


def of_three(folder: Path) -> list[bytes]:
    """The lines of three attempts with different charges."""
    file = LedgerFile(folder)
    for number, owed in enumerate(([ONE], [OTHER], [ONE, RECORDS]), 1):
        file.charge(number, str(number), {0: owed})
    *whole, rest = (folder / NAME).read_bytes().split(b"\n")
    assert (len(whole), rest) == (3, b"")
    return whole


def test_each_line_ends_with_a_digest_of_itself_and_of_the_digest_before(tmp_path):
    before = b""
    for line in of_three(tmp_path):
        entry = json.loads(line)
        digest = entry.pop("digest").encode()
        assert list(entry) == ["attempt", "charges", "round"]
        assert digest == hashlib.sha256(before + json.dumps(entry).encode()).hexdigest()[:16].encode()
        before = digest


def refusal(folder: Path, content: bytes) -> str:
    """The reason for the refusal of a ledger with this content; the file stays unchanged."""
    (folder / NAME).write_bytes(content)
    with pytest.raises(RunRefused) as refused:
        LedgerFile(folder)
    assert (folder / NAME).read_bytes() == content
    return str(refused.value)


def test_a_bit_that_flips_is_noticed(tmp_path):
    """The bit is in any byte, line ends included, except the last byte, where the line would be torn."""
    content = b"\n".join([*of_three(tmp_path), b""])
    ends = [position for position, byte in enumerate(content[:-1]) if byte == ord("\n")]
    for position in (*range(0, len(content) - 1, 3), *ends):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        line = 1 + content[:position].count(b"\n")
        told = f"{tmp_path / NAME} is damaged in line {line}: the charges of this run are unknown"
        assert refusal(tmp_path, bytes(damaged)) == told


@pytest.mark.parametrize(
    ("order", "line"), [((0, 2), 2), ((1, 2), 1), ((0, 2, 1), 2), ((0, 0, 1, 2), 2), ((0, 1, 2, 1), 4)]
)
def test_a_line_that_is_missing_moved_or_repeated_is_noticed(tmp_path, order, line):
    whole = of_three(tmp_path)
    content = b"\n".join([*(whole[number] for number in order), b""])
    assert f"is damaged in line {line}:" in refusal(tmp_path, content)


@pytest.mark.parametrize("damage", [b"", b"{}", b"2", b'{"round": 2, "att', b"\x00" * 40, b"\xff\xfe{}"])
def test_a_damaged_line_is_refused(tmp_path, damage):
    first, _, third = of_three(tmp_path)
    assert "is damaged in line 2:" in refusal(tmp_path, b"\n".join([first, damage, third, b""]))


@pytest.mark.parametrize(
    "form", [{}, {"charges": 2}, {"charges": [{"charge": {}, "clients": [0]}]}, {"charges": [{"clients": [0]}]}]
)
def test_a_line_of_another_form_is_refused_though_its_digest_is_right(tmp_path, form):
    entry = json.dumps(form | {"round": 1})
    digest = hashlib.sha256(entry.encode()).hexdigest()[:16]
    line = f'{entry[:-1]}, "digest": "{digest}"}}\n'
    assert "is damaged in line 1:" in refusal(tmp_path, line.encode())


# ---- a run


class Looking(InProcessGrid):
    """A grid that reads the ledger's file before messages leave, as another process would; it may then fail."""

    def __init__(self, work, folder, fail_in=0, synced=()):
        super().__init__(work.plan.hash, work.plan.config.clients)
        self.folder = folder
        self.fail_in = fail_in
        self.synced = synced
        self.seen = []

    def push_messages(self, messages):
        messages = list(messages)
        number, attempt = (messages[0].content["envelope"][key] for key in ("round", "attempt"))
        worst = LedgerFile(self.folder).ledger.worst(DELTA, "rdp")
        inode = (self.folder / NAME).stat().st_ino
        self.seen.append((number, attempt, lines(self.folder), worst, self.synced.count(inode)))
        if number == self.fail_in:
            raise OSError("the network is gone")
        return super().push_messages(messages)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of synced files, in order; the files are really synced."""
    inodes = []
    fsync = os.fsync

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
    work = workspace_of(*overrides)
    folder = tmp_path / "stopped"
    for _ in range(2):
        with pytest.raises(OSError, match="the network is gone"):
            server_of(work, folder, Looking(work, folder, fail_in=2)).run()
    resumed = run(folder, *overrides)
    assert resumed.weights_D.equal(undisturbed.weights_D)
    assert charged(folder) == [(number, list(work.plan.cohort(number))) for number in (1, 2, 2, 2, 3)]
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
server_of(work, Path(sys.argv[1]), Deadly(work.plan.hash, work.plan.config.clients)).run()
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
    """The cost of local_dp by client, for the drawn cohorts."""
    probe = ("+mechanism.probe._target_=tests.outside.probe.Probe", "+mechanism.probe.faults={client/1:crash}")
    overrides = ("mechanism=local_dp", f"delta={DELTA}", "accountant=rdp", *probe, "clients=6", "cohort=2", "rounds=6")
    work = workspace_of(*overrides)
    run(tmp_path, *overrides)
    assert charged(tmp_path) == [(number, list(work.plan.cohort(number))) for number in range(1, 7)]
    assert all(len(line["charges"]) == 1 for line in lines(tmp_path))
    times = Counter(client for number in range(1, 7) for client in work.plan.cohort(number))
    assert 1 in times
    assert len(set(times.values())) > 1
    epsilons = LedgerFile(tmp_path).ledger.epsilons("client", DELTA, "rdp")
    sigma = work.plan.backend.mechanisms[0].noise_multiplier
    assert epsilons == {client: pytest.approx(epsilon_of(n, sigma)) for client, n in times.items()}


def test_without_a_promise_nothing_is_written(tmp_path):
    run(tmp_path)
    assert not (tmp_path / NAME).exists()


# ---- the budget


def test_the_budget_follows_the_client_that_took_part_most_often(tmp_path):
    overrides = (*CLIENT_DP, "clients=6", "cohort=2", "rounds=12", f"epsilon_budget={BUDGET}")
    work = workspace_of(*overrides)
    times = Counter()
    expected = 0
    for number in range(1, 13):
        times.update(work.plan.cohort(number))
        if max(times.values()) > 3:
            break
        expected = number
    assert 3 < expected < 12
    assert run(tmp_path, *overrides).round == expected


def test_a_crash_that_spends_the_budget_leaves_an_accuracy(tmp_path):
    """Round 3 was charged and crashed: the rest of the budget does not pay it again, so round 2 is the last."""
    work = workspace_of(*SPENDING)
    server = server_of(work, tmp_path, Looking(work, tmp_path, fail_in=3))
    with pytest.raises(OSError, match="the network is gone"):
        server.run()
    server_of(work, tmp_path, Looking(work, tmp_path, fail_in=4)).run()
    assert charged(tmp_path)[-1][0] == 3, "nothing was paid beyond"
    scores = Checkpoints(tmp_path, 2).rows().filter(pl.col("metric") == "accuracy")
    assert scores["round"].to_list() == [2]
