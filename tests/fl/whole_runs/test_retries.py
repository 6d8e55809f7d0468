"""A repeated round after a crash: new keys and masks, a new charge, and the same clients."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from experiments.hydra.error_lines import CONFIGS
from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.keys import folders as keys
from fl.ledger import LedgerFile
from fl.runtimes import inprocess
from fl.runtimes.committee import attended
from fl.server import Errand, Server
from fl.transport import ADDRESS, ENVELOPE, unpack
from fl.workspace import Workspace
from privacy.errors import FedveilError, PrivacyRefusal
from privacy.secure_sums.packing import unpack_words
from tests.composed import PROBE, canonical
from tests.fl.grids import Tampered, with_error
from tests.fl.whole_runs.spending import DELTA, charged, epsilon_of
from tests.outside.probe import BOUND

BASE = (*PROBE, "clients=5", "rounds=2", "training.weighting=uniform", "server.min_contributors=2")
BOUNDED = f"secure_sum.bound={BOUND}"
SUMS = {
    "pad": ("secure_sum=pad", "secure_sum.keys=clients", BOUNDED),
    "bfv": ("secure_sum=bfv", "secure_sum.keys=clients", BOUNDED),
    "ckks": ("secure_sum=ckks", "secure_sum.keys=clients", BOUNDED),
    "secagg": ("secure_sum=secagg", BOUNDED, "secure_sum.server=curious"),
}
WITH_PARTIES = {
    "pad keyholder": ("secure_sum=pad", BOUNDED),
    "bfv keyholder": ("secure_sum=bfv", BOUNDED),
    "ckks keyholder": ("secure_sum=ckks", BOUNDED),
    "crypten": ("secure_sum=crypten", "secure_sum.parties=2", BOUNDED),
}
OF = SUMS | WITH_PARTIES
ALL = [*SUMS, *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_PARTIES)]
UPLOADS = {"secagg": "masked", "crypten": "party/0"}  # the record that carries a client's contribution


class Crashed(Exception):
    """An exception that stands for any sudden end of a server."""


class Tapped(Tampered):
    """A grid that records the clients' messages; one client may be unable to answer."""

    def __init__(self, work: Workspace, gone: str | None = None) -> None:
        super().__init__(work, self.note)
        self.gone = gone
        self.sent = defaultdict(list)

    def note(self, address, reply):
        [asked] = [m for m in self.pushed if m.metadata.message_id == reply.metadata.reply_to_message_id]
        envelope = asked.content[ENVELOPE]
        assert asked.content[ADDRESS] == {"address": address}
        if address == self.gone and envelope["round"]:
            return [with_error(reply, 1, "gone")]
        self.sent[address, envelope["round"], envelope["stage"]].append(unpack(reply.content))
        return [reply]


def attempt(folder: Path, *overrides: str, crash_in: int | None = None, gone: str | None = None) -> Tapped:
    """Run a server over the keys and checkpoints in a folder; it may crash with a round's sum opened but not saved."""
    work = Workspace(canonical(*BASE, *overrides))
    errand = Errand(folder / "checkpoints", roster=keys.set_up(folder / "keys", work.plan.everybody))
    grid = Tapped(work, gone)
    with attended(work.plan, grid) as (wider, parties):
        server = Server(work, wider, {**inprocess.locate(grid, work.plan), **parties}, errand)
        if crash_in is None:
            server.run()
            return grid
        step = server.step
        server.step = lambda number, total: crash() if number == crash_in else step(number, total)
        with pytest.raises(Crashed):
            server.run()
    return grid


def crash() -> None:
    raise Crashed


def uploads(grid: Tapped, name: str, number: int) -> dict[str, bytes]:
    """The sent contribution of each client to a round."""
    record = UPLOADS.get(name, "message")
    found = {who: sent[record] for (who, n, _), [sent] in grid.sent.items() if n == number and record in sent}
    assert len(found) == 5
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_second_attempt_sends_nothing_that_the_first_one_did(tmp_path, name):
    """Updates and opened sum are the same in both attempts; no other bytes repeat, signatures included."""
    first = attempt(tmp_path, *OF[name], crash_in=2)
    second = attempt(tmp_path, *OF[name])
    undisturbed = tmp_path / "undisturbed"
    attempt(undisturbed, *OF[name])
    weights = [Checkpoints(folder / "checkpoints", 2).latest().weights_D for folder in (tmp_path, undisturbed)]
    assert (weights[0] - weights[1]).abs().max() < 1e-3
    compared = 0
    for (who, number, stage), [sent] in second.sent.items():
        for record, value in sent.items():
            before = [one[record] for one in first.sent[who, number, stage]]
            assert record == "opened" or value not in before, f"{record} of {who} at {stage}"
            compared += len(before)
    assert compared >= 10
    assert uploads(first, name, 2).keys() == uploads(second, name, 2).keys()


@pytest.mark.parametrize("name", ["pad", "secagg"])
def test_the_words_of_two_attempts_differ_as_independent_ones_do(tmp_path, name):
    """Equal plaintexts under masks of k bits: words agree once in 2^k, and no two clients' differ alike."""
    work = Workspace(canonical(*BASE, *OF[name]))
    before = uploads(attempt(tmp_path, *OF[name], crash_in=2), name, 2)
    after = uploads(attempt(tmp_path, *OF[name]), name, 2)
    differences = []
    # one word counts contributions
    count = work.spec.length + 1
    bits = (5 * (2**16 - 1)).bit_length()
    for who in before:
        words = [unpack_words(sent[who], count, bits).astype(np.int64) for sent in (before, after)]
        assert (words[0] == words[1]).sum() <= 3
        differences.append((words[0] - words[1]) % 2**bits)
        # a bit of a uniform word is set in half of the cases: six deviations
        share = np.mean([(differences[-1] >> bit) & 1 for bit in range(bits)], axis=1)
        assert np.abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(count)
    for i, one in enumerate(differences):
        assert all((one == other).sum() <= 3 for other in differences[:i])


@pytest.mark.parametrize("name", ALL)
def test_a_round_that_was_opened_is_opened_for_no_other_set(tmp_path, name):
    """The server had the sum of all five; that of four would tell the fifth one's update."""
    attempt(tmp_path, *OF[name], crash_in=2)
    told = "round 2 was opened for client/0,client/1,client/2,client/3,client/4 before, and not for client/0,client/1,"
    with pytest.raises(FedveilError) as refusal:
        attempt(tmp_path, *OF[name], gone="client/3")
    assert isinstance(refusal.value, PrivacyRefusal)
    assert told in str(refusal.value)
    assert Checkpoints(tmp_path / "checkpoints", 2).latest().round == 1
    attempt(tmp_path, *OF[name])  # the same set, once it is back
    assert Checkpoints(tmp_path / "checkpoints", 2).latest().round == 2


PRIVATE = ("mechanism=client_dp", "training.weighting=uniform", f"delta={DELTA}", "accountant=rdp", "noise=seeded")


@pytest.mark.parametrize("name", ALL)
def test_a_second_attempt_is_charged_again(tmp_path, name):
    attempt(tmp_path, *OF[name], *PRIVATE, crash_in=2)
    attempt(tmp_path, *OF[name], *PRIVATE)
    assert charged(tmp_path / "checkpoints") == [(number, [0, 1, 2, 3, 4]) for number in (1, 2, 2)]
    [epsilon] = set(LedgerFile(tmp_path / "checkpoints").ledger.epsilons("client", DELTA, "rdp").values())
    assert epsilon == pytest.approx(epsilon_of(3))


KILLED = """
import os, signal, sys
from pathlib import Path
from fl import runtimes
from fl.server import Errand, Server
from fl.workspace import Workspace

def kill(self, number, total, step=Server.step):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, number, total)

if __name__ == "__main__":
    Server.step = kill
    work, folder = Workspace(sys.argv[2]), Path(sys.argv[1])
    runtimes.run(work, folder, Errand(folder / "checkpoints"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", OF)
def test_a_killed_server_goes_on_with_its_ledger(tmp_path, name):
    """Killed with the sum of round 2 in its memory; with parties, they end with it."""
    text = canonical(*BASE, *OF[name], *PRIVATE)
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "killed", text]
    killed = subprocess.run(
        command, cwd=CONFIGS.parent, env=os.environ | {"PYTHONPATH": str(CONFIGS.parent)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    for folder in ("killed", "whole"):
        runtimes.run(Workspace(text), tmp_path / folder, Errand(tmp_path / folder / "checkpoints"))
    states = [Checkpoints(tmp_path / folder / "checkpoints", 2).latest() for folder in ("killed", "whole")]
    difference = (states[0].weights_D - states[1].weights_D).abs().max()
    assert difference < 1e-4 if "ckks" in name else difference == 0
    everybody = [0, 1, 2, 3, 4]
    assert charged(tmp_path / "killed" / "checkpoints") == [(1, everybody), (2, everybody), (2, everybody)]
    rows = Checkpoints(tmp_path / "killed" / "checkpoints", 2).rows()
    assert rows.filter(metric="survivors").sort("round")["round"].to_list() == [1, 2]
