"""Progress on standard error: a bar on a terminal, lines elsewhere, and silence on request."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from results import progress as module
from results.progress import progress

STEPS = """
import sys, time
from results.progress import progress
with progress("plain, round", 3, note="4 clients", every_s={every_s}) as steps:
    for number in (1, 2, 3):
        steps.within("stage collect, 2 of 4 answers")
        time.sleep({sleep_s})
        steps.advance(f"accuracy 0.{{number}}")
"""


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == "", "results alone go there"
    return captured.err.splitlines()


def test_without_a_terminal_there_is_a_line_at_once_and_one_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("plain, round", 3, note="4 clients", done=1) as steps:
        assert told(capsys) == ["plain, round 1 of 3: 4 clients"]
        steps.advance("accuracy 0.5")
        assert told(capsys) == ["plain, round 2 of 3: accuracy 0.5"]
        steps.advance()
        assert told(capsys) == ["plain, round 3 of 3"]


def test_a_long_step_says_how_far_it_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with progress("plain, round", 3) as steps:
        told(capsys)
        for clock[0], expected in (
            (9.0, []),
            (11.0, ["plain, round 1 of 3: going on, 2 of 4 answers"]),
            (12.0, []),
        ):
            steps.within("2 of 4 answers")
            assert told(capsys) == expected


def test_a_step_that_tells_nothing_is_said_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.03)
    with progress("plain, round", 3) as steps:
        steps.advance()
        end_s = time.monotonic() + 20
        seen: list[str] = []
        while "plain, round 2 of 3: going on" not in seen:
            assert time.monotonic() < end_s, seen
            seen += told(capsys)
    time.sleep(0.1)
    told(capsys)
    time.sleep(0.1)
    assert told(capsys) == [], "it ends with the work"


def test_work_that_is_usually_short_says_nothing_until_it_is_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with progress("decoding, image", 9, every_s=10.0) as steps:
        steps.advance()
        assert told(capsys) == []
        clock[0] = 10.5
        steps.advance()
        steps.advance()
    assert told(capsys) == ["decoding, image 2 of 9"]


def test_silence_is_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("plain, round", 1, note="4 clients", every_s=None) as steps:
        steps.within("x")
        steps.advance("y")
    assert told(capsys) == []


def on_a_terminal(code: str) -> str:
    """What a program writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        seen = b""
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the program has ended
                break
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


@pytest.mark.parametrize("every_s", [0.0, 10.0])
def test_a_terminal_has_a_bar_with_what_happens_now(every_s: float) -> None:
    seen = on_a_terminal(STEPS.format(every_s=every_s, sleep_s=0.3))
    assert "plain, round" in seen
    assert "0/3" in seen
    assert "4 clients" in seen
    assert "stage collect, 2 of 4 answers" in seen
    assert re.search(r"3/3 .*accuracy 0\.3", seen)


def test_a_terminal_is_silent_on_request() -> None:
    assert on_a_terminal(STEPS.format(every_s=None, sleep_s=0.0)) == ""
