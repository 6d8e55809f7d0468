"""A run that resumes with a ledger whose end is gone: the checkpoint knows better, and the run is refused."""

from pathlib import Path

import pytest
import torch

from fl.checkpoint import Checkpoints, State, decode, encode, last_ledger
from fl.ledger import EMPTY, NAME, LedgerFile
from privacy.errors import RunRefused
from tests.composed import run, server_of, workspace_of
from tests.fl.whole_runs.spending import BUDGET, CLIENT_DP, DELTA, charged, epsilon_of

FOUR = (*CLIENT_DP, "rounds=6")


class Crashed(Exception):
    """An exception that stands for any sudden end of a server."""


def crashed_in(folder: Path, number: int, *overrides: str) -> Path:
    """The ledger of a run whose server crashed in a round, before it asked anybody for that round."""
    server = server_of(workspace_of(*overrides), folder)
    advance = server.advance

    def crash(asked: int) -> None:
        if asked == number:
            raise Crashed
        advance(asked)

    server.advance = crash
    with pytest.raises(Crashed):
        server.run()
    return folder / NAME


def cut(file: Path, lines: int) -> None:
    """Leave the first lines alone; none: delete the file."""
    kept = file.read_bytes().splitlines(keepends=True)[:lines]
    if kept:
        file.write_bytes(b"".join(kept))
    else:
        file.unlink()


@pytest.mark.parametrize(("left", "said"), [(2, "has 2 lines, and had 4"), (3, "has 3 lines"), (0, "has 0 lines")])
def test_a_ledger_that_lost_its_end_is_refused(tmp_path, left, said):
    file = crashed_in(tmp_path, 5, *FOUR)
    assert LedgerFile(tmp_path).ledger.worst(DELTA, "rdp")["client"] == pytest.approx(epsilon_of(4))
    cut(file, left)
    told = []
    for _ in range(2):  # a refusal changes nothing, so the next try is refused, too
        with pytest.raises(RunRefused, match=f"has lost charges: it {said}") as refusal:
            server_of(workspace_of(*FOUR), tmp_path)
        told.append(str(refusal.value))
        assert "\n" not in told[-1]
    assert told[0] == told[1]
    assert Checkpoints(tmp_path, 2).latest().round == 4


def test_a_ledger_with_other_lines_of_the_same_number_is_refused(tmp_path):
    file = crashed_in(tmp_path / "one", 5, *FOUR)
    other = crashed_in(tmp_path / "other", 5, *FOUR)
    file.write_bytes(other.read_bytes())
    with pytest.raises(RunRefused, match="it has another line 4, and had 4"):
        server_of(workspace_of(*FOUR), tmp_path / "one")


def test_a_budget_is_not_undone_with_the_lines(tmp_path):
    """Three rounds are within the budget; without their charges a fourth would be, too."""
    overrides = (*FOUR, f"epsilon_budget={BUDGET}")
    run(tmp_path, *overrides)
    assert len(charged(tmp_path)) == 3
    cut(tmp_path / NAME, 1)
    with pytest.raises(RunRefused, match="has 1 lines, and had 3"):
        server_of(workspace_of(*overrides), tmp_path)


def test_later_lines_are_allowed(tmp_path):
    """Attempts at round 5 that were charged and crashed: the checkpoint of round 4 does not know of them."""
    crashed_in(tmp_path, 5, *FOUR)
    server = server_of(workspace_of(*FOUR), tmp_path)
    server.charge(server._attempt(5), server.work.plan.cohort(5))
    run(tmp_path, *FOUR)
    assert [number for number, _ in charged(tmp_path)] == [1, 2, 3, 4, 5, 5, 6]


def test_a_checkpoint_of_an_earlier_version_knows_of_no_ledger(tmp_path):
    state = State("run", 3, torch.ones(2), {}, "now", ledger=(7, "ab" * 8))
    assert decode(encode(state)).ledger == (7, "ab" * 8)
    del state.ledger  # as a checkpoint was before
    assert "ledger" not in vars(state)
    assert decode(encode(state)).ledger == EMPTY


def test_the_end_is_read_without_a_change_to_the_folder(tmp_path):
    crashed_in(tmp_path, 5, *FOUR)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    random = torch.get_rng_state()
    assert last_ledger(tmp_path) == LedgerFile(tmp_path).head
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert torch.equal(torch.get_rng_state(), random)
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunRefused, match="is damaged: the checksum does not match"):
        last_ledger(tmp_path)
    with pytest.raises(RunRefused, match="holds no checkpoint"):
        last_ledger(tmp_path / "none")
