"""What code says that it does, for whoever measures it: `with span("encrypt"):` and `note("ciphertexts", 1)`.

A protocol states its steps and does not know whether anybody listens. Who measures installs a recorder around the call,
for this thread alone; without one both are no-ops of some hundred nanoseconds. The split between those who state and
those who measure is that of OpenTelemetry's API and SDK.

A step that comes again and again, ciphertext by ciphertext, adds up under its name. Do not hold a span over a `yield`:
what the consumer does would count in it. Give the iterator to `each` instead.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Recorder:
    """Adds up seconds and notes by name. Time inside a nested span is that one's alone, so no second counts twice.

    `clock` gives seconds: wall time, or processor time where that is to be told.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: dict[str, float] = {}
        self._open: list[str] = []  # innermost last
        self._clock = clock
        self._since_s = 0.0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """The block is a step of this name; it counts also when it raises."""
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
        """What has passed since the last change belongs to the innermost step."""
        now_s = self._clock()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s

    def note(self, name: str, value: float) -> None:
        """Add to a figure."""
        self.notes[name] = self.notes.get(name, 0.0) + value


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_NOTHING = nullcontext()


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Spans and notes of the block go to this recorder, and to no other."""
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def span(name: str) -> AbstractContextManager[None]:
    """A step of what the caller does."""
    recorder = _recorder.get()
    return _NOTHING if recorder is None else recorder.span(name)


def note(name: str, value: float) -> None:
    """A figure of what the caller does; repeated, it adds up."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.note(name, value)


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """The same items; what it takes to make one is a step of this name, what is done with it is not."""
    iterator = iter(items)
    while True:
        with span(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
