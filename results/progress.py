"""Progress of long work on standard error: a bar on a terminal, lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SILENT_S = 30.0  # seconds after which a line says that a step goes on, whatever it does
SELDOM_S = 10.0  # seconds between lines about work that is usually short, and within a step that takes long


class Steps(Protocol):
    """Long work in steps, as its code tells of it."""

    def advance(self, note: str = "") -> None:
        """Tell that a step has ended, and what came of it."""

    def within(self, note: str) -> None:
        """Tell how far the present step has come."""


@contextmanager
def progress(
    text: str, total: int, *, note: str = "", done: int = 0, every_s: float | None = 0.0, passing: bool = False
) -> Iterator[Steps]:
    """Show the progress of `total` steps, of which `done` have ended earlier.

    Args:
        text: what a step is, such as `plain, round`: a line then says `plain, round 2 of 5`.
        total: number of all steps.
        note: words beside it at the start.
        done: number of steps that ended in an earlier process.
        every_s: without a terminal, least seconds before and between lines; 0: a line at once and for each step;
            None: show nothing, on a terminal neither.
        passing: remove the bar at the end.
    """
    if every_s is None:
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar(text, total, note, done, passing) as bar:
            yield bar
    else:
        lines = _Lines(text, total, note, done, every_s)
        with _alive(lines):
            yield lines


def say(text: str) -> None:
    """Write one line to standard error, at once."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)


class _Silent:
    def advance(self, note: str = "") -> None:
        pass

    def within(self, note: str) -> None:
        pass


class _Lines:
    def __init__(self, text: str, total: int, note: str, done: int, every_s: float) -> None:
        self._text = text
        self._total = total
        self._done = done
        self._every_s = every_s
        self._within = ""
        self._told_s = time.monotonic()
        if not every_s:
            self._tell(done, note)

    def advance(self, note: str = "") -> None:
        self._done += 1
        self._within = ""
        if self._due(self._every_s):
            self._tell(self._done, note)

    def within(self, note: str) -> None:
        self._within = note
        self.go_on(max(self._every_s, SELDOM_S))

    def go_on(self, wait_s: float) -> None:
        if self._due(wait_s):
            note = f"going on, {self._within}" if self._within else "going on"
            self._tell(min(self._done + 1, self._total), note)

    def _due(self, wait_s: float) -> bool:
        return time.monotonic() - self._told_s >= wait_s

    def _tell(self, step: int, note: str) -> None:
        self._told_s = time.monotonic()
        say(f"{self._text} {step} of {self._total}{': ' if note else ''}{note}")


@contextmanager
def _alive(lines: _Lines) -> Iterator[None]:
    """Say now and then that a step goes on that tells nothing by itself."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SILENT_S / 3):
            lines.go_on(SILENT_S)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(text: str, total: int, note: str, done: int, passing: bool) -> Iterator[Steps]:
    # takes a tenth of a second, and most commands show no bar
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    fields = (TextColumn("{task.fields[note]}"), TextColumn("{task.fields[within]}"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining())
    with Progress(*columns, *fields, console=Console(stderr=True), transient=passing) as bar:
        task = bar.add_task(text, total=total, completed=done, note=note, within="")

        class Bar:
            def advance(self, note: str = "") -> None:
                bar.update(task, advance=1, note=note, within="")

            def within(self, note: str) -> None:
                bar.update(task, within=note)

        yield Bar()
