"""The loop of every driver: take an exchange from the server's half, serve it, tell who answered, take the next."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from privacy.addresses import Address
from privacy.secure_sums.contract import Exchange

T = TypeVar("T")
Around = Callable[[Exchange | None], AbstractContextManager[None]]


def nothing(_: Exchange | None) -> AbstractContextManager[None]:
    """Return a context that does nothing."""
    return nullcontext()


class Exchanges(Generic[T]):
    """The exchanges of a server's half, one after the other; `result` is set when the last one has been served.

    The consumer serves each exchange before it asks for the next one. The server's half runs inside `around`, which is
    given the exchange before it: None at the start. Errors of the server's half pass through.
    """

    result: T

    def __init__(self, flow: Generator[Exchange, list[Address], T], around: Around = nothing) -> None:
        self._flow = flow
        self._around = around

    def __iter__(self) -> Iterator[Exchange]:
        """Yield each exchange, unserved."""
        exchange = self._after(None)
        while exchange is not None:
            yield exchange
            exchange = self._after(exchange)

    def _after(self, last: Exchange | None) -> Exchange | None:
        with self._around(last):
            try:
                return next(self._flow) if last is None else self._flow.send(last.respondents())
            except StopIteration as stop:
                self.result = stop.value
                return None
