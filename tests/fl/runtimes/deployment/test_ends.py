"""All processes of a deployment end, however their parent ends."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from privacy.errors import RuntimeFailure
from tests.fl.runtimes.deployment.deployed import NODES, ROOT, start

PARENT = """
import signal, sys
from contextlib import ExitStack, suppress
from pathlib import Path
from fl.runtimes.deployment import submit, write_app
from tests.fl.runtimes.deployment.deployed import ECHO, settings, start

signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
with ExitStack() as stack:
    deployed = start(stack, folder)
    submit(deployed.processes, deployed.link, write_app(folder, settings(folder, sleep_s=600), ECHO))
"""


@pytest.fixture
def parents(tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Two processes that each have a deployment, at the same time."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    found: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("killed", "interrupted"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", PARENT, str(tmp_path / name)]
        found[name] = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    yield found
    for parent in found.values():
        parent.kill()
        parent.communicate()


def tree_when_running(folder: Path, parent: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes of a parent, once its ServerApp has replies from every client and sleeps."""
    ends = time.monotonic() + 120
    while not (folder / "seen.json").exists():
        assert parent.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.1)
    return psutil.Process(parent.pid).children(recursive=True)


# One SuperExec beside the SuperLink and each SuperNode.
EVERYTHING = Counter(
    {"flower-superlink": 1, "flower-supernode": NODES, "flower-superexec": 1 + NODES, "flwr-serverapp": 1}
)


def program(process: psutil.Process) -> str | None:
    """The program of a process; None once it has ended, also where its SuperExec has not noticed yet."""
    with suppress(psutil.NoSuchProcess):
        words = [Path(word).name for word in process.cmdline()]
        return next(word for word in words if not word.startswith(("python", "-")))
    return None


@pytest.mark.slow
@pytest.mark.deployment
def test_nothing_outlives_a_parent_that_is_killed_or_interrupted(
    parents: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    trees = {name: tree_when_running(tmp_path / name, parent) for name, parent in parents.items()}
    for tree in trees.values():
        assert Counter(filter(None, map(program, tree))) >= EVERYTHING
    parents["killed"].kill()
    assert not psutil.wait_procs(trees["killed"], timeout=10)[1]
    assert all(process.is_running() for process in trees["interrupted"])
    parents["interrupted"].send_signal(signal.SIGINT)
    _, complaint = parents["interrupted"].communicate(timeout=10)
    assert complaint.endswith(b"KeyboardInterrupt\n")
    assert not psutil.wait_procs(trees["interrupted"], timeout=0)[1]


@pytest.mark.slow
@pytest.mark.deployment
def test_a_superlink_that_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    others = set(psutil.Process().children(recursive=True))
    with ExitStack() as stack:
        deployed = start(stack, tmp_path)
        tree = [process for process in psutil.Process().children(recursive=True) if process not in others]
        [process] = [process for process in tree if program(process) == "flower-superlink"]
        process.kill()
        with pytest.raises(RuntimeFailure, match=r"superlink ended with status 137: .* \(log: .*superlink.log\)"):
            deployed.run(tmp_path)
    assert not psutil.wait_procs(tree, timeout=0)[1]
