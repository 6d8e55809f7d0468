import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from results import environment


@pytest.fixture(autouse=True)
def no_devices() -> None:
    """Not here: torch is asked."""


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, env=clean, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "file").write_text("one")
    git(root, "add", "file")
    git(root, "commit", "--quiet", "-m", "one")
    return root


def test_versions_are_those_that_run() -> None:
    import torch

    told = environment.describe()
    assert told["python"] == platform.python_version()
    packages = told["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"].split("+")[0] == torch.__version__.split("+")[0]  # CUDA's build says so in one place only
    assert packages["numpy"] == np.__version__
    assert all(packages[name] for name in ("flwr", "opacus", "tenseal", "torch", "crypten", "hydra-core"))


def test_hardware_is_plausible_and_json() -> None:
    import torch

    told = json.loads(json.dumps(environment.describe(), allow_nan=False))
    assert 1 <= told["cpu"]["usable_cores"] <= told["cpu"]["cores"]
    assert 2**28 < told["memory_bytes"] < 2**50
    assert len(told["cuda"]["devices"]) == torch.cuda.device_count()


def test_it_starts_no_cuda() -> None:
    code = "from results.environment import describe; import torch; describe(); assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_neither_host_nor_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "alice"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "alice")
    arguments = ["run", f"out={home}/x", "data.path=/scratch/alice/mnist", "seed=1"]
    monkeypatch.setattr(sys, "argv", [f"{home}/venv/bin/fedveil", *arguments])
    assert getpass.getuser() == "alice"
    told = environment.describe()
    assert told["command"] == ["fedveil", "run", "out=~/x", "data.path=/scratch/~/mnist", "seed=1"]
    assert "alice" not in json.dumps(told)
    assert socket.gethostname() not in json.dumps(told)


def test_git_state_of_a_checkout(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    assert environment.git_state(checkout) == {"revision": revision, "dirty": False}
    (checkout / "file").write_text("two")
    assert environment.git_state(checkout) == {"revision": revision, "dirty": True}
    git(checkout, "checkout", "--quiet", "file")
    (checkout / "new.py").write_text("")
    assert environment.git_state(checkout) == {"revision": revision, "dirty": True}


def test_no_git_state_inside_somebody_elses_checkout(checkout: Path) -> None:
    installed = checkout / "venv" / "site-packages"
    installed.mkdir(parents=True)
    assert environment.git_state(installed) == {"revision": None, "dirty": None}
    assert environment.git_state(checkout.parent) == {"revision": None, "dirty": None}


def test_no_git_program(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment.git_state(checkout) == {"revision": None, "dirty": None}


def test_a_hook_of_another_repository_does_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / "elsewhere"))
    assert environment.git_state(checkout) == {"revision": revision, "dirty": False}
