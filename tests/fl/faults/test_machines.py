"""Machines without memory or without a library: the others go on."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

import fl.server
from fl import workspace as working
from fl.checkpoint import Checkpoints
from privacy.errors import PrivacyRefusal
from tests.composed import server_of, workspace_of
from tests.experiments.command import FEDVEIL, Here, read


def test_a_client_without_memory_is_left_out(tmp_path, monkeypatch):
    """There is no device to exhaust here: the error is torch's own, raised where training would."""
    original = working.train
    calls = []

    def exhausted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(*arguments)

    monkeypatch.setattr(working, "train", exhausted)
    work = workspace_of("rounds=1", "runtime.together=1")
    server = server_of(work, tmp_path)
    server.run()
    assert "CUDA out of memory" in server.transport.dropped["client/1"]
    [survivors] = Checkpoints(tmp_path, 2).rows().filter(metric="survivors")["value"]
    assert survivors == 3


def test_a_group_without_memory_says_which_number_to_lower(tmp_path, monkeypatch):
    work = workspace_of("rounds=1", "runtime.together=4")
    assert work.together.choice.size == 4

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("fl.training.together.groups.Groups._train", exhausted)
    with pytest.raises(PrivacyRefusal, match=r"2\.00 GiB; 4 clients train together: lower runtime\.together"):
        server_of(work, tmp_path).run()


SWEEP = ("sweep", "model=logistic", "clients=4", "rounds=2", "device=cpu", "out=cells", "runtime.together=1")


def errors_of(folder: Path) -> list[str | None]:
    """The errors of the cells of a sweep."""
    return [read(path, "status")["error"] for path in sorted((folder / "cells").iterdir()) if path.is_dir()]


@pytest.mark.parametrize("whose", ["clients", "server"])
def test_a_cell_without_memory_lets_the_others_go_on(tmp_path, monkeypatch, capsys, whose):
    """There is no device to exhaust here: the error is torch's own, raised where the work would be done."""
    module, name = (working, "train") if whose == "clients" else (fl.server, "evaluate")
    original = getattr(module, name)
    told = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def exhausted(given, *rest):
        large = given.batches.batch_size if whose == "clients" else given.plan.config.training.batch_size
        if large == 64:
            raise torch.OutOfMemoryError(told)
        return original(given, *rest)

    monkeypatch.setattr(module, name, exhausted)
    monkeypatch.chdir(tmp_path)
    swept = Here(capsys)(*SWEEP, "training.batch_size=64,32")
    assert swept.status == (2 if whose == "clients" else 1)
    assert "1 of 2 cells finished" in swept.out
    [complaint] = [line for line in swept.err.splitlines() if line.startswith("fedveil: error: ")]
    assert told in complaint
    assert sorted(told in (error or "") for error in errors_of(tmp_path)) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "choice"),
    [
        ("tenseal", "secure_sum=ckks,plain"),
        ("crypten", "secure_sum=crypten,plain"),
        ("opacus", "mechanism=dp_sgd,none"),
    ],
)
def test_a_cell_without_its_library_lets_the_others_go_on(tmp_path, library, choice):
    """The library is made missing: in a separate process, another file takes its name."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{library}'\")\n")
    done = subprocess.run(
        [FEDVEIL, *SWEEP, choice],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode in (1, 2), done
    assert "2 of 3 cells finished" in done.stdout, "the plain twin of the one that cannot run, too"
    assert "Traceback" not in done.stderr
    [complaint] = [line for line in done.stderr.splitlines() if line.startswith("fedveil: error: ")]
    assert "No module named" in complaint
    assert library in complaint
    assert [library in (error or "") for error in errors_of(tmp_path)].count(True) == 1
