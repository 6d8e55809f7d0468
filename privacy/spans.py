"""Instrumentation of code for measurements: `with span("encrypt"):` and `note("ciphertexts", 1)`.

A protocol states its steps and does not know whether they are recorded. A measurement installs a recorder around the
call, for this thread only. Without a recorder both calls are no-ops of some hundred nanoseconds. The split between
instrumentation and recorder is that of OpenTelemetry's API and SDK.

A repeated step, ciphertext by ciphertext, adds up under its name. Do not hold a span over a `yield`: the work of the
consumer would count in it. Pass the iterator to `each` instead.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Recorder:
    """Add up seconds and notes by name. Time inside a nested span counts only for the inner span.

    `clock` returns seconds: wall time, or processor time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: dict[str, float] = {}
        self._open: list[str] = []  # innermost last
        self._clock = clock
        self._since_s = 0.0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the block as a step of this name, also when it raises."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            innermost = self._open[-1]
            assert innermost == name, f"span {name} ends before {innermost}, which began in it: held over a yield?"
            self._open.pop()

    def _settle(self) -> None:
        """Add the time since the last change to the innermost step."""
        now_s = self._clock()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s

    def note(self, name: str, value: float) -> None:
        """Add a value to the figure of this name."""
        self.notes[name] = self.notes.get(name, 0.0) + value


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_NOTHING = nullcontext()


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Send the spans and notes of the block to this recorder only."""
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def span(name: str) -> AbstractContextManager[None]:
    """Mark a block of the caller as a step of this name."""
    recorder = _recorder.get()
    return _NOTHING if recorder is None else recorder.span(name)


def note(name: str, value: float) -> None:
    """Record a figure of the caller; repeated calls add up."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.note(name, value)


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """Yield the same items. The time to make an item counts as a step of this name, the time to use it does not."""
    iterator = iter(items)
    while True:
        with span(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
