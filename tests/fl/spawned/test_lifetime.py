"""Spawned workers end when their parent is killed."""

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fl.spawned.lifetime import end_with_parent

ROOT = Path(__file__).parents[3]
# A parent that cannot clean up: it prints its worker's id and waits to be killed.
PARENT = """
import multiprocessing, time
from tests.fl.spawned import workers

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    worker = context.Process(target=workers.{worker}, args=(theirs,))
    worker.start()
    assert mine.recv() == "ready"
    print(worker.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("worker", "survives"), [("guarded", False), ("unguarded", True)])
def test_a_worker_ends_with_its_killed_parent(worker: str, survives: bool) -> None:
    command = [sys.executable, "-c", PARENT.format(worker=worker)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    try:
        assert bool(psutil.wait_procs([process], timeout=1.0 if survives else 5.0)[1]) == survives
    finally:
        if process.is_running():
            process.kill()


def test_a_process_that_nobody_spawned_is_told() -> None:
    assert multiprocessing.parent_process() is None
    with pytest.raises(AssertionError, match="only a process started by multiprocessing"):
        end_with_parent()
