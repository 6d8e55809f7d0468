"""The death of a role of a deployment: the run ends with one line that names it, and can be resumed."""

import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.experiments.command import read, start

RUN = (
    "run",
    "out=run",
    "clients=2",
    "runtime.together=1",  # so do the clients of a deployment
    "rounds=3",
    "model=logistic",
    "secure_sum=pad",
    "server.evaluate_every=0",
    "output.progress=false",
)
DEPLOYED = ("runtime=deployment", "runtime.supernodes=2")


def finish(folder: Path, *overrides: str) -> tuple[int, str]:
    """Run to the end; returns the exit status and the last line of stderr."""
    process = start(*RUN, *overrides, folder=folder)
    _, complaint = process.communicate(timeout=400)
    return process.returncode, (complaint.splitlines() or [""])[-1]


def words(process: psutil.Process) -> list[str]:
    """The command of a process, if it is still alive."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@pytest.mark.slow
@pytest.mark.deployment
@pytest.mark.timeout(900)
@pytest.mark.parametrize("roster", ["pinned", "relayed"])
def test_a_keyholder_that_is_killed_is_named_and_another_goes_on(tmp_path: Path, roster: str) -> None:
    deployed = (*DEPLOYED, f"runtime.roster={roster}")
    process = start(*RUN, *deployed, folder=tmp_path)
    ends = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoints" / "round-000001.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.1)
    everything = psutil.Process(process.pid).children(recursive=True)
    [resident] = [one for one in everything if words(one)[2:5] == ["-m", "fl.runtimes.resident", "keyholder"]]
    resident.kill()
    _, complaint = process.communicate(timeout=120)
    last = complaint.splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("fedveil: error: keyholder ended with status 137: ")
    assert last.endswith(f"(log: {tmp_path}/run/deployment/keyholder.log)")
    assert not psutil.wait_procs(everything, timeout=10)[1]
    assert not (tmp_path / "run" / "checkpoints" / "round-000003.ckpt").exists()

    assert finish(tmp_path, *deployed) == (0, "")
    assert not (tmp_path / "run" / "keys" / "keyholder" / "socket").exists()
    assert finish(tmp_path, "out=here") == (0, "")
    assert read(tmp_path / "run", "summary")["weights_sha256"] == read(tmp_path / "here", "summary")["weights_sha256"]
