"""Runs without faults call nothing of `fl/faults`: a wrapper is installed only where the configuration has faults."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import fl.faults
from fl.runtimes import inprocess
from fl.server import Errand
from fl.workspace import workspace
from tests.composed import MASKED, canonical

[FAULTS] = fl.faults.__path__


def called(run: Callable[[], None]) -> set[str]:
    """The functions of `fl/faults` that a call of `run` calls, as `file.function`."""
    found = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(FAULTS) and code.co_name != "<module>":
            found.add(f"{Path(code.co_filename).stem}.{code.co_name}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def called_in_a_run(folder: Path, *overrides: str) -> set[str]:
    """The functions of `fl/faults` that a run calls after set-up: server and clients share this process."""
    work = workspace(canonical(*MASKED, *overrides))
    return called(lambda: inprocess.run(work, Errand(folder)))


def test_without_faults_no_function_of_theirs_is_called(tmp_path: Path) -> None:
    assert called_in_a_run(tmp_path) == set()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("faults.dropout_rate=0.01", {"inject.drop_out", "server.brought"}),
        ("faults.scaled_clients=1", {"inject.scale_of", "participant.update", "server.brought"}),
        ("faults={kind: replayed, rate: 0.1}", {"participant.packed", "participant._replay", "server.of"}),
    ],
)
def test_with_faults_both_sides_have_their_wrapper(tmp_path: Path, fault: str, expected: set[str]) -> None:
    """They show that the test above would see a call."""
    found = called_in_a_run(tmp_path, fault)
    assert {"participant.answer", "server.advance", *expected} <= found
