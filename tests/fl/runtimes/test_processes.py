"""Supervised processes end with the process that started them, down to a grandchild in its own session."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fl.runtimes import processes as module
from fl.runtimes.processes import SUPERVISOR, Processes, last_error
from privacy.errors import RuntimeFailure

ENV = dict(os.environ)
# A process with an obedient child, and an orphan in its own session that ignores SIGTERM.
TREE = """
import os, signal, sys, time

def tell():
    os.write(1, f"pid {os.getpid()}\\n".encode())

def orphan():
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell()
    time.sleep(600)

if os.fork() == 0:
    tell()
    time.sleep(600)
middle = os.fork()
if middle == 0:
    if os.fork() == 0:
        orphan()
    os._exit(0)
os.waitpid(middle, 0)
tell()
time.sleep(float(sys.argv[1]))
"""
TREE_SIZE = 3
# A parent that is killed. With "fork", its forked process holds the pipe to the supervisor open.
PARENT = """
import os, subprocess, sys, time
supervisor = subprocess.Popen([sys.executable, "-P", *sys.argv[2:]], stdin=subprocess.PIPE)
print("supervisor", supervisor.pid, flush=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    print("pid", os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace period, since every tree here has a process that ignores the request to stop."""
    monkeypatch.setattr(module, "GRACE_S", 0.3)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def to_kill() -> Iterator[list[psutil.Process]]:
    found: list[psutil.Process] = []
    yield found
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def told(log: Path) -> list[int]:
    """The process ids in a log."""
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("pid ")]


def tree_of(log: Path, size: int = TREE_SIZE) -> list[psutil.Process]:
    """The processes with their ids in a log, once all ids are there."""
    ends = time.monotonic() + 20
    while len(told(log)) < size:
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.02)
    return [psutil.Process(pid) for pid in told(log)]


def gone(processes: list[psutil.Process], timeout_s: float = 5.0) -> bool:
    return not psutil.wait_procs(processes, timeout=timeout_s)[1]


def test_leaving_the_context_ends_the_whole_tree_and_leaves_no_zombie(tmp_path: Path) -> None:
    others = psutil.Process().children()  # multiprocessing's resource tracker, where an earlier test started it
    with Processes(tmp_path) as processes:
        processes.start("tree", python(TREE, "600"), ENV)
        tree = tree_of(tmp_path / "tree.log")
        assert all(process.is_running() for process in tree)
        supervisors = [child for child in psutil.Process().children() if child not in others]
        assert supervisors
    assert gone(tree, 0)  # not soon after, but before the context is left
    assert not any(process.is_running() for process in supervisors)


def test_an_exception_ends_them_too(tmp_path: Path) -> None:
    tree: list[psutil.Process] = []

    def interrupted() -> None:
        with Processes(tmp_path) as processes:
            processes.start("tree", python(TREE, "600"), ENV)
            tree.extend(tree_of(tmp_path / "tree.log"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(tree) == TREE_SIZE
    assert gone(tree, 0)


def test_what_a_process_leaves_behind_ends_with_it(processes: Processes) -> None:
    processes.call("tree", python(TREE, "0.5"), ENV, timeout_s=20)
    left = told(processes.logs / "tree.log")
    assert len(left) == TREE_SIZE
    assert not any(psutil.pid_exists(pid) for pid in left)


@pytest.mark.parametrize("case", ["alone", "fork"])
def test_the_tree_ends_when_the_parent_is_killed(case: str, tmp_path: Path, to_kill: list[psutil.Process]) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = python(PARENT, case, str(SUPERVISOR), "0.5", *python(TREE, "600"))
        parent = subprocess.Popen(command, stdout=output, start_new_session=True)
    to_kill += tree_of(log, TREE_SIZE + (case == "fork"))
    forked = [process for process in to_kill if process.ppid() == parent.pid]
    tree = [process for process in to_kill if process not in forked]
    supervisor = psutil.Process(int(log.read_text().split("supervisor ")[1].split()[0]))
    parent.kill()
    parent.wait()
    assert gone([*tree, supervisor])
    assert len(forked) == (case == "fork")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_process_ends_when_its_supervisor_is_killed(processes: Processes) -> None:
    code = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
    process = processes.start("sleep", python(code), ENV)
    child = tree_of(process.log, 1)
    process.popen.kill()
    assert gone(child)
    with pytest.raises(RuntimeFailure, match="sleep ended with status -9"):
        process.check()


def test_a_terminated_supervisor_ends_its_tree(processes: Processes) -> None:
    process = processes.start("tree", python(TREE, "600"), ENV)
    tree = tree_of(process.log)
    process.popen.terminate()
    assert process.popen.wait() == 128 + signal.SIGTERM
    assert gone(tree, 0)


def test_a_call_returns_what_was_written_and_passes_it_on(processes: Processes) -> None:
    heard: list[str] = []
    code = "import sys, time; print('one', flush=True); time.sleep(0.5); print('two', file=sys.stderr)"
    assert processes.call("talk", python(code), ENV, 20, heard.append) == "one\ntwo\n"
    assert heard == ["one\n", "two\n"]


def test_a_failed_call_names_log_and_last_error(processes: Processes) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        processes.call("divide", python("print('fine'); 1 / 0"), ENV, 20)
    log = processes.logs / "divide.log"
    assert str(caught.value) == f"divide ended with status 1: ZeroDivisionError: division by zero (log: {log})"


def test_a_call_that_takes_too_long_fails(processes: Processes) -> None:
    with pytest.raises(RuntimeFailure, match="sleep has not ended after 0 s: it wrote nothing"):
        processes.call("sleep", python("import time; time.sleep(600)"), ENV, 0.2)


def test_a_signal_is_told_in_the_shells_way(processes: Processes) -> None:
    with pytest.raises(RuntimeFailure, match="status 137"):
        processes.call("die", python("import os; os.kill(os.getpid(), 9)"), ENV, 20)


def test_a_call_fails_when_a_resident_process_ends_meanwhile(processes: Processes) -> None:
    processes.start("resident", python("import time; time.sleep(0.5); raise OSError('disk full')"), ENV)
    with pytest.raises(RuntimeFailure, match="resident ended with status 1: OSError: disk full"):
        processes.call("long", python("import time; time.sleep(600)"), ENV, 30)


def test_a_program_that_is_not_there_is_an_error(processes: Processes) -> None:
    with pytest.raises(RuntimeFailure, match="No such file or directory: 'no-such-program'"):
        processes.call("nothing", ["no-such-program"], ENV, 20)


# Real output of Flower's processes.
REFUSED = """\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode
INFO:     Uvicorn running on http://127.0.0.1:18103 (Press CTRL+C to quit)
\x1b[91mERROR \x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
[code: 2004] Failed to activate SuperNode.
The SuperNode could not establish a connection to the SuperLink.

For more information, visit: <https://flower.ai/docs/framework/1.41/en/ref-exit-codes/305.html>
INFO:     Shutting down
\x1b[92mINFO \x1b[0m:      SuperExec terminated gracefully.
\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.80 seconds
"""
TAKEN = """2026-11-22T18:20:21.725Z INFO [uvicorn.error] Started server process [6725]
2026-11-22T18:20:21.730Z ERROR [uvicorn.error] [Errno 98] error while attempting to bind on address: already in use
2026-11-22T18:20:22.296Z INFO [uvicorn.error] Finished server process [6725]
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (REFUSED, "[code: 2004] Failed to activate SuperNode."),
        (TAKEN, TAKEN.splitlines()[1]),
        ("all is well\n\n", "all is well"),
        ("", "it wrote nothing"),
    ],
)
def test_the_last_line_that_tells_of_an_error(text: str, line: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert last_error(log) == line
