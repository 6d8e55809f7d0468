"""Drives a secure sum over a transport: the whole of a round's control flow."""

from collections.abc import Iterator
from contextlib import contextmanager

from fl.metering import Meter
from fl.transport import Attempt, Transport, unpack
from privacy.errors import ProtocolError, TooFewContributors
from privacy.secure_sum import Exchange, Flow, SetupFlow, Total, Vector


def drive(
    flow: Flow | SetupFlow,
    transport: Transport,
    meter: Meter,
    attempt: Attempt,
    model_D: Vector | None = None,
    abort_on_invalid: bool = False,
) -> Total | None:
    """Run a protocol's server half to its end, handing replies on as they come.

    Raises:
        TooFewContributors: too few are left; the message says why the first one is missing.
        ProtocolError: a reply was invalid and `abort_on_invalid` is set.
    """
    respondents: list[str] | None = None
    while True:
        try:
            with meter.compute("protocol"), _with_reasons(transport):
                exchange = next(flow) if respondents is None else flow.send(respondents)
        except StopIteration as stop:
            total: Total | None = stop.value
            return total
        _run_exchange(exchange, transport, meter, attempt, model_D, abort_on_invalid)
        respondents = exchange.respondents()


def _run_exchange(
    exchange: Exchange,
    transport: Transport,
    meter: Meter,
    attempt: Attempt,
    model_D: Vector | None,
    abort_on_invalid: bool,
) -> None:
    for address, content in transport.replies(exchange, attempt, model_D):
        try:
            with meter.compute(exchange.stage):
                exchange.deliver(address, unpack(content))
        except ProtocolError as error:
            if abort_on_invalid:
                raise type(error)(f"{address}: {error}") from error
            transport.drop(address, exchange.stage, "rejected", str(error))


@contextmanager
def _with_reasons(transport: Transport) -> Iterator[None]:
    try:
        yield
    except TooFewContributors as error:
        missing = next(iter(transport.dropped.items()), None)
        if missing is None:
            raise
        raise TooFewContributors(f"{error}; {missing[0]} dropped out: {missing[1]}") from error
