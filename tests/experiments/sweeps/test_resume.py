"""A killed run resumes, and ends with bit-identical results."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from experiments import cli
from results.rows import read_rows
from tests.experiments.command import OUTSIDE, Here, fedveil, process_state, read, start
from tests.scenery.paths import some

ROUNDS = 40
# an optimizer of the server with state, a schedule, and cohorts that are drawn: all must be as they were
RUN = (
    "run",
    "out=run",
    f"rounds={ROUNDS}",
    "clients=8",
    "cohort=3",
    "device=cpu",
    "data.partition=dirichlet",
    "server=fedadam",
    "training/optimizer=sgd",
    "training.optimizer.momentum=0.9",
    "training/schedule=step",
    "server.evaluate_every=20",
)
MASKED = (OUTSIDE, "secure_sum=masked")
WORKERS = ("runtime.workers=2",)


def kill_in_the_middle(
    folder: Path, *overrides: str, by: signal.Signals = signal.SIGKILL, whole_group: bool = False
) -> tuple[int, str, str]:
    """Start the run, end it by a signal after a checkpoint; returns exit status, stdout and stderr."""
    process = start(*RUN, *overrides, folder=folder)
    try:
        ends = time.monotonic() + 120
        while last_checkpoint(folder) < 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends
            time.sleep(0.005)
        (os.killpg if whole_group else os.kill)(process.pid, by)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def last_checkpoint(folder: Path) -> int:
    files = (folder / "run" / "checkpoints").glob("round-*.ckpt")
    return max((int(path.stem.partition("-")[2]) for path in files), default=-1)


def assert_interrupted(folder: Path) -> int:
    """Assert that the run has not ended; returns its last checkpointed round."""
    assert not (folder / "run" / "summary.json").exists()
    reached = last_checkpoint(folder)
    assert 5 <= reached < ROUNDS
    return reached


def assert_whole(directory: Path, undisturbed: Path) -> None:
    """Assert the same weights, and each round measured exactly once."""
    assert read(directory, "summary")["weights_sha256"] == read(undisturbed, "summary")["weights_sha256"]
    assert read(directory, "status")["status"] == "finished"
    assert measured(directory) == measured(undisturbed)


def measured(directory: Path) -> list[tuple[Any, ...]]:
    """The rows without times: cohorts, bytes, scores; sorted, since workers answer in any order."""
    rows = read_rows(directory / "rows.parquet")
    counted = rows.filter(pl.col("metric").is_in(["up_bytes", "down_bytes", "accuracy", "loss", "survivors"]))
    rounds = rows.filter(where="server", stage="round", metric="wall")["round"].to_list()
    assert rounds == list(range(1, ROUNDS + 1))
    return sorted(counted.select("round", "where", "stage", "metric", "value").rows())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, process_state():
        patch.chdir(folder)
        assert cli.main(RUN) == 0
    return folder / "run"


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path, here: Here, undisturbed: Path) -> None:
    status, out, _ = kill_in_the_middle(tmp_path)
    assert status == -signal.SIGKILL
    assert out == ""
    reached = assert_interrupted(tmp_path)
    assert read(tmp_path / "run", "status")["status"] == "running"
    kept = (tmp_path / "run" / "checkpoints" / f"round-{reached - 1:06d}.parquet").stat().st_mtime_ns
    resumed = here(*RUN)
    assert resumed.status == 0, resumed
    assert (tmp_path / "run" / "checkpoints" / f"round-{reached - 1:06d}.parquet").stat().st_mtime_ns == kept
    assert_whole(tmp_path / "run", undisturbed)
    assert "(finished earlier" in here(*RUN).out


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(
    tmp_path: Path, here: Here, undisturbed: Path
) -> None:
    kill_in_the_middle(tmp_path)
    reached = assert_interrupted(tmp_path)
    newest = tmp_path / "run" / "checkpoints" / f"round-{reached:06d}.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumed = here(*RUN)
    assert resumed.status == 0, resumed
    assert f"checkpoint round-{reached:06d}.ckpt is damaged (the checksum does not match)" in resumed.err
    assert_whole(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_without_any_checkpoint_that_is_whole_it_starts_again(tmp_path: Path, here: Here, undisturbed: Path) -> None:
    kill_in_the_middle(tmp_path)
    for path in some((tmp_path / "run" / "checkpoints").glob("*.ckpt")):
        path.write_bytes(path.read_bytes()[:-1])
    assert here(*RUN).status == 0
    assert_whole(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_with_workers(tmp_path: Path, undisturbed: Path) -> None:
    kill_in_the_middle(tmp_path, *WORKERS)
    assert_interrupted(tmp_path)
    resumed = fedveil(*RUN, *WORKERS, folder=tmp_path)
    assert resumed.status == 0, resumed
    assert_whole(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_with_a_secure_sum_from_outside(tmp_path: Path) -> None:
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    assert fedveil(*RUN, *MASKED, folder=tmp_path / "undisturbed").status == 0
    kill_in_the_middle(tmp_path / "killed", *MASKED)
    assert_interrupted(tmp_path / "killed")
    resumed = fedveil(*RUN, *MASKED, folder=tmp_path / "killed")
    assert resumed.status == 0, resumed
    assert_whole(tmp_path / "killed" / "run", tmp_path / "undisturbed" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), WORKERS], ids=["alone", "with workers"])
def test_ctrl_c_says_so_and_is_resumable(
    tmp_path: Path, here: Here, undisturbed: Path, overrides: tuple[str, ...]
) -> None:
    status, out, err = kill_in_the_middle(tmp_path, *overrides, by=signal.SIGINT, whole_group=True)
    assert (status, out) == (130, "")
    told = [line for line in err.splitlines() if not line.startswith(("loading ", "plain, round "))]
    assert told == ["fedveil: interrupted; the same command goes on from the last checkpoint"]
    reached = assert_interrupted(tmp_path)
    recorded = read(tmp_path / "run", "status")
    assert (recorded["status"], recorded["error"]) == ("failed", "interrupted")
    assert read_rows(tmp_path / "run" / "rows.parquet")["round"].max() == reached
    resumed = fedveil(*RUN, *overrides, folder=tmp_path) if overrides else here(*RUN)
    assert resumed.status == 0, resumed
    assert_whole(tmp_path / "run", undisturbed)
