"""The driver of a secure sum over a transport: the whole control flow of a round.

Where there is a roster, a reply is invalid unless its sender signed it for this very exchange.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fl.metering import Meter
from fl.training.given import given_digest
from fl.transport import Attempt, Transport, require_intact, unpack
from privacy.addresses import Address, is_client
from privacy.errors import PrivacyRefusal, ProtocolError
from privacy.sealing import Roster
from privacy.secure_sums.contract import Exchange, Records
from privacy.secure_sums.exchanges import Exchanges
from privacy.secure_sums.signed_replies import reply_header, verified
from privacy.secure_sums.vectors import Vector
from privacy.spans import span

T = TypeVar("T")


def drive(
    flow: Generator[Exchange, list[Address], T],
    transport: Transport,
    meter: Meter,
    attempt: Attempt,
    model_D: Vector | None = None,
    abort_on_invalid: bool = False,
    roster: Roster | None = None,
) -> T:
    """Run a protocol's server half to its end, and return its result. Replies are delivered as they arrive.

    Raises:
        PrivacyRefusal: too few participants are left to go on; the message says why one of them is missing.
        ProtocolError: a reply was invalid and `abort_on_invalid` is set.
    """
    exchanges = Exchanges(flow, lambda last: _server_step(meter, transport, last))
    for exchange in exchanges:
        _run_exchange(exchange, transport, meter, attempt, model_D, abort_on_invalid, roster)
    return exchanges.result


def _run_exchange(
    exchange: Exchange,
    transport: Transport,
    meter: Meter,
    attempt: Attempt,
    model_D: Vector | None,
    abort_on_invalid: bool,
    roster: Roster | None,
) -> None:
    if exchange.collect and model_D is not None and roster is not None:  # without keys nothing is bound to it
        exchange.given = given_digest(model_D, attempt.state)
    for address, content in transport.replies(exchange, attempt, model_D):
        try:
            with meter.compute(exchange.stage):
                records = _authentic(unpack(content), address, exchange.stage, attempt, roster)
                require_intact(content, attempt)
                exchange.deliver(address, records)
        except ProtocolError as error:
            if abort_on_invalid:
                raise type(error)(f"{address}: {error}") from error
            transport.drop(address, exchange.stage, "rejected", str(error))


def _authentic(records: Records, address: Address, stage: str, attempt: Attempt, roster: Roster | None) -> Records:
    if roster is None:
        return records
    with span("verify"):
        return verified(records, roster, reply_header(attempt.run, attempt.round, attempt.attempt, stage, address))


@contextmanager
def _server_step(meter: Meter, transport: Transport, last: Exchange | None) -> Iterator[None]:
    with meter.compute("protocol"), _with_reasons(transport, last):
        yield


@contextmanager
def _with_reasons(transport: Transport, last: Exchange | None) -> Iterator[None]:
    """Add to a refusal why a participant is missing: the first in the last exchange, or the first of all.

    Missing roles other than clients are all named: one party's absence may be the cause of another's.
    """
    try:
        yield
    except PrivacyRefusal as error:
        asked = last.outbox if last else ()
        missing = sorted(transport.dropped.items(), key=lambda dropped: dropped[0] not in asked)
        if not missing:
            raise
        told = [one for one in missing if not is_client(one[0])] or missing[:1]
        reasons = "; ".join(f"{address} dropped out: {reason}" for address, reason in told)
        raise type(error)(f"{error}; {reasons}") from error
