import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from privacy.errors import RunRefused
from results.measurements import Row
from results.rows import to_frame
from results.store import RunDirectory, default_directory, is_locked, open_run
from tests.results.samples import canonical, configuration
from tests.scenery.paths import some

TEXT = canonical(configuration())
OTHER = canonical(configuration(training={"lr": 0.2}, seed=2))
YAML = "seed: 1\n"

# Holds a folder, reports it, and leaves a child process behind, like the workers of a killed run.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from results.store import open_run

with open_run(Path(sys.argv[1]), sys.argv[2], "seed: 1", False) as run:
    run.write_status("running")
    (run.checkpoints / "1").write_text("one")
    child = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(30)
"""

# Starts afresh, and is killed when it begins to delete the folder of checkpoints.
KILLED_REMOVER = """
import os, shutil, signal, sys
from pathlib import Path
from results.store import open_run

shutil.rmtree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
with open_run(Path(sys.argv[1]), sys.argv[2], "seed: 1", True):
    pass
"""

CONTENDER = """
import sys, time
from pathlib import Path
from privacy.errors import RunRefused
from results.store import open_run

print("ready", flush=True)
sys.stdin.readline()
try:
    with open_run(Path(sys.argv[1]), sys.argv[2], "seed: 1", False):
        time.sleep(1.5)
except RunRefused:
    sys.exit(3)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def refusal(directory: Path, text: str = TEXT, force: bool = False) -> str:
    with pytest.raises(RunRefused) as raised, open_run(directory, text, YAML, force):
        pass
    message = str(raised.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def finish(directory: Path, text: str = TEXT) -> RunDirectory:
    with open_run(directory, text, YAML, force=False) as run:
        run.write_status("running")
        (run.checkpoints / "1").write_text("one")
        run.write_rows(to_frame("r", [Row(1, "server", "round", "wall", 1.0, "s")]))
        run.write_environment({"python": "3"})
        run.write_summary({"accuracy": 0.5, "loss": float("nan")})
        run.write_status("finished")
    return run


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_default_directory() -> None:
    assert default_directory("demo", "0123456789abcdef" + 48 * "0") == Path("results/runs/demo/0123456789abcdef")


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run = finish(tmp_path / "a" / "b")
    names = {"config.json", "config.yaml", "environment.json", "rows.parquet", "summary.json", "status.json"}
    assert set(contents(run.path)) == {*names, ".fedveil.lock", "checkpoints/1"}
    assert hashlib.sha256((run.path / "config.json").read_bytes()).digest() == hashlib.sha256(TEXT.encode()).digest()
    assert (run.path / "config.yaml").read_text() == YAML
    assert run.summary() == {"accuracy": 0.5, "loss": None}
    assert run.rows()["value"].to_list() == [1.0]
    assert run.configuration() == configuration()


def test_status_tells_since_when_and_who(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", TEXT, YAML, force=False) as run:
        assert run.status() is None
        run.write_status("running", round=0)
        running = run.status()
        run.write_status("failed", error="RuntimeFailure: worker 2 died")
    failed = run.status()
    assert running is not None
    assert failed is not None
    assert (running["status"], running["pid"], running["ended"], running["round"]) == ("running", os.getpid(), None, 0)
    assert failed["error"] == "RuntimeFailure: worker 2 died"
    assert failed["started"] == running["started"]
    started, ended = (datetime.fromisoformat(failed[key]) for key in ("started", "ended"))
    assert started.utcoffset() is not None
    assert started <= ended


@pytest.mark.parametrize(("status", "finished"), [("finished", True), ("budget_exhausted", True), ("failed", False)])
def test_finished(tmp_path: Path, status: str, finished: bool) -> None:
    with open_run(tmp_path / "run", TEXT, YAML, force=False) as run:
        assert not run.finished
        run.write_status(status)
        assert not run.finished, "without its summary a run has not finished"
        run.write_summary({"accuracy": 0.5})
        assert run.finished is finished


def times(directory: Path) -> dict[Path, int]:
    """The time at which each file but the lock was written last."""
    return {path: path.stat().st_mtime_ns for path in some(directory.iterdir()) if path.name != ".fedveil.lock"}


def test_opening_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    before = times(run.path)
    with open_run(run.path, TEXT, "out: elsewhere\n", force=False) as again:
        assert again.finished
    assert {
        path: path.stat().st_mtime_ns for path in some(run.path.iterdir()) if path.name != ".fedveil.lock"
    } == before


def test_a_held_folder_is_refused_at_once_until_its_holder_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with start(HOLDER, str(directory), TEXT) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            started = time.monotonic()
            for force in (False, True):
                assert f"(pid {holder.pid})" in refusal(directory, force=force)
            assert time.monotonic() - started < 2
            assert is_locked(directory)
            assert (directory / "checkpoints" / "1").exists(), "force removes nothing from under a run"
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert not is_locked(directory)
            with open_run(directory, TEXT, YAML, force=False) as run:
                assert run.status() is not None
                assert (run.checkpoints / "1").read_text() == "one"
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


def test_of_several_that_start_together_one_gets_the_folder(tmp_path: Path) -> None:
    contenders = [start(CONTENDER, str(tmp_path / "new" / "run"), TEXT) for _ in range(4)]
    for contender in contenders:
        assert contender.stdout is not None
        assert contender.stdout.readline() == "ready\n"
    for contender in contenders:
        assert contender.stdin is not None
        contender.stdin.write("\n")
        contender.stdin.flush()
    for contender in contenders:
        contender.communicate(timeout=30)
    assert sorted(contender.returncode for contender in contenders) == [0, 3, 3, 3]


def test_the_lock_is_let_go_of_when_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run", TEXT, YAML, force=False):
        raise ZeroDivisionError
    assert not is_locked(tmp_path / "run")


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    before = contents(run.path)
    message = refusal(run.path, OTHER)
    assert hashlib.sha256(TEXT.encode()).hexdigest()[:16] in message
    assert "seed, training" in message
    assert "force=true" in message
    assert contents(run.path) == before


@pytest.mark.parametrize("text", [TEXT, OTHER], ids=["same configuration", "another configuration"])
def test_force_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path, text: str) -> None:
    run = finish(tmp_path / "run")
    (run.path / "notes.txt").write_text("mine")
    (run.path / "plots").mkdir()
    (run.path / "plots" / "a.pdf").write_text("mine")
    with open_run(run.path, text, YAML, force=True) as afresh:
        assert not afresh.finished
        assert list(afresh.checkpoints.iterdir()) == []
    mine = {"notes.txt": b"mine", "plots/a.pdf": b"mine"}
    assert contents(run.path) == mine | {
        ".fedveil.lock": b"",
        "config.json": text.encode(),
        "config.yaml": YAML.encode(),
    }


@pytest.mark.parametrize("force", [False, True])
def test_a_users_folder_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "config.json").write_text('{"mine": 1}')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    assert "not empty" in refusal(tmp_path, force=force)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with open_run(tmp_path, TEXT, YAML, force=False) as run:
        assert run.checkpoints.is_dir()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot be used" in refusal(tmp_path / "file", force=True)
    assert "cannot be used" in refusal(tmp_path / "file" / "run", force=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_force_removes_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    run.checkpoints.rename(elsewhere)
    run.checkpoints.symlink_to(elsewhere)
    with open_run(run.path, TEXT, YAML, force=True):
        assert (elsewhere / "1").read_text() == "one"
        assert not run.checkpoints.is_symlink()


@pytest.mark.parametrize("name", ["status.json", "summary.json", "config.json"])
def test_a_damaged_run_is_refused_unless_forced(tmp_path: Path, name: str) -> None:
    run = finish(tmp_path / "run")
    whole = (run.path / name).read_bytes()
    (run.path / name).write_bytes(whole[: len(whole) // 2])
    message = refusal(run.path)
    assert f"{name} is damaged" in message
    assert "force=true" in message
    with open_run(run.path, TEXT, YAML, force=True) as afresh:
        assert afresh.status() is None


def test_remains_without_a_configuration_are_refused_unless_forced(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    (run.path / "config.json").unlink()
    assert "no config.json" in refusal(run.path)
    with open_run(run.path, TEXT, YAML, force=True) as afresh:
        assert afresh.summary() is None


def test_killed_while_starting_afresh(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    killed = subprocess.run([sys.executable, "-c", KILLED_REMOVER, str(run.path), TEXT], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not run.finished
    assert "another configuration" in refusal(run.path, OTHER)
    with open_run(run.path, TEXT, YAML, force=False) as again:
        assert list(again.checkpoints.iterdir()) == [], "half a set of checkpoints is none"
    assert set(contents(run.path)) == {".fedveil.lock", "config.json", "config.yaml"}


def test_leftovers_of_a_killed_writer_are_swept_and_a_users_are_not(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    (run.path / ".rows.parquet.4711.tmp").write_text("half")
    (run.path / ".mine.tmp").write_text("mine")
    with open_run(run.path, TEXT, YAML, force=False):
        pass
    assert not (run.path / ".rows.parquet.4711.tmp").exists()
    assert (run.path / ".mine.tmp").exists()


def test_summary_on_disk_is_json_that_others_read(tmp_path: Path) -> None:
    run = finish(tmp_path / "run")
    assert json.loads((run.path / "summary.json").read_text())["loss"] is None
