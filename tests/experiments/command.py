"""The command line as a user runs it: the console script in a separate process, or the same in this process."""

import json
import logging
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments import cli, run

ROOT = Path(__file__).parents[2]
FEDVEIL = Path(sysconfig.get_path("scripts"), "fedveil")
OUTSIDE = f"hydra.searchpath=[file://{ROOT}/tests/outside/configs]"
PROGRESS = re.compile(r"loading PyTorch, Flower and data=\w+$|.*, round \d+ of \d+")
QUICK = ("model=logistic", "clients=4", "rounds=2", "device=cpu")


@dataclass(frozen=True)
class Ended:
    """The result of a command."""

    status: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """The environment of a user, with modules outside of the package importable."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def fedveil(*arguments: str, folder: Path, program: tuple[str, ...] = (str(FEDVEIL),)) -> Ended:
    """Run the console script in `folder` to its end."""
    done = subprocess.run(
        [*program, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """Start the console script in `folder`, in a new process group."""
    return subprocess.Popen(
        [FEDVEIL, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Here:
    """The command line in this process: a new process takes seconds to start, and most tests need none."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        """`fedveil ARGUMENTS`."""
        self._capsys.readouterr()
        with process_state():
            try:
                status = cli.main(arguments)
            except SystemExit as exit_:  # argparse's
                status = int(exit_.code or 0)
        return Ended(status, *self._capsys.readouterr())

    def run(self, *overrides: str) -> Ended:
        """Run a quick `fedveil run`; the caller asserts its result."""
        return self("run", *QUICK, *overrides)


@contextmanager
def process_state() -> Iterator[None]:
    """Restore the process state that a command may change, as it normally has its own process."""
    root = logging.getLogger()
    argv = sys.argv
    environ = dict(os.environ)
    handlers = root.handlers[:]
    level = root.level
    raising = logging.raiseExceptions
    sys.argv = [str(FEDVEIL)]
    try:
        yield
    finally:
        sys.argv = argv
        logging.raiseExceptions = raising
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in os.environ.keys() - environ.keys() - {"CUBLAS_WORKSPACE_CONFIG"}:
            del os.environ[name]
        assert run.OUTCOMES not in os.environ


def read(directory: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run."""
    values: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return values


def refused(ended: Ended) -> str:
    """The one-line message of a refused command, its only output but for progress before it."""
    assert ended.status == 2, ended
    assert ended.out == ""
    assert ended.err.endswith("\n")
    *before, last = ended.err.splitlines()
    assert last.startswith("fedveil: error: "), ended.err
    assert all(PROGRESS.match(line) for line in before), ended.err
    return last.removeprefix("fedveil: error: ")
