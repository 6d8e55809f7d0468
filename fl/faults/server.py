"""The faults that the server sees: it notes each one as it happens, holds up or doubles replies, and may die itself."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fl.config.schema import FedveilConfig
from fl.faults.inject import claims_in, falls_silent, killed, kind_of, scaled_clients
from fl.faults.options import DUPLICATED, LATE, MESSAGES, REPLAYED, WIRE
from fl.metering import Meter
from fl.server import Errand, Server
from fl.transport import Attempt, Transport
from fl.workspace import Workspace
from privacy.addresses import SERVER, Address, client_index, is_client
from privacy.secure_sums.contract import Exchange
from privacy.secure_sums.vectors import Vector

FAULT = "fault_"  # and what it is: the metric of one that happened
HELD_S = 0.01  # between looks at messages that are held up
log = logging.getLogger("fedveil")


class FaultyServer(Server):
    """A server over a transport with faults, which dies on purpose where the configuration says so."""

    def __init__(self, work: Workspace, grid: Grid, nodes: Mapping[Address, int], errand: Errand) -> None:
        super().__init__(work, grid, nodes, errand)
        deadline_s = work.plan.config.server.deadline_s
        self.transport = FaultyTransport(grid, nodes, self.meter, deadline_s, errand.poll_s, Noting(work.plan.config))
        self._claim = claims_in(errand.folder)

    def advance(self, number: int) -> None:
        """Die in this round on purpose, or run it."""
        killed(SERVER, number, self.work.plan.config.faults, self._claim)
        super().advance(number)


class FaultyTransport(Transport):
    """A transport that records the faults of each exchange, and delays or doubles the replies that they strike."""

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[Address, int],
        meter: Meter,
        deadline_s: float | None,
        poll_s: float,
        noting: "Noting",
    ) -> None:
        super().__init__(grid, nodes, meter, deadline_s, poll_s)
        self._noting = noting
        self.wire = noting.wire({})  # the channel of the replies to the exchange under way

    def _send(self, exchange: Exchange, attempt: Attempt, model_D: Vector | None) -> dict[str, Address]:
        """Send the exchange, record the faults that strike in it, and make the channel of its replies."""
        waiting = super()._send(exchange, attempt, model_D)
        number = attempt.round
        struck = self._noting.of(exchange, number)
        for address, kind in struck.items():
            log.info("round %d: a fault on purpose: %s of %s at stage %s", number, kind, address, exchange.stage)
            self._meter.add(address, exchange.stage, f"{FAULT}{kind}", 1.0, "1")
        self.wire = self._noting.wire({message: struck[one] for message, one in waiting.items() if one in struck})
        return waiting

    def _arrived(self, awaited: Sequence[str]) -> list[Message]:
        """Return the replies to deliver: those that have arrived or are due; pause where replies are held up alone."""
        left = self.wire.awaited(awaited)
        arrived = super()._arrived(left) if left else []
        if not arrived:
            time.sleep(self.wire.pause_s)
        return list(self.wire.brought(arrived))


class Noting:
    """The server's record of each fault as it happens: the address that is asked, and the kind of fault."""

    def __init__(self, config: FedveilConfig) -> None:
        self._config = config
        self._asked: dict[tuple[Address, str], int] = {}  # in which round first: only what was sent can be replayed

    def of(self, exchange: Exchange, number: int) -> dict[Address, str]:
        """Return the faults of an exchange, by the address of each participant that is struck."""
        clients = [address for address in exchange.outbox if is_client(address)] if number else []
        for address in clients if self._config.faults.kind == REPLAYED else ():
            self._asked.setdefault((address, exchange.stage), number)
        return {address: kind for address in clients if (kind := self._one(address, exchange, number))}

    def wire(self, struck: Mapping[str, str]) -> "Wire":
        """Make the channel of the replies to one exchange; `struck` maps message ids to kinds of fault."""
        return Wire(struck, self._config.faults.delay_s)

    def _one(self, address: Address, exchange: Exchange, number: int) -> str | None:
        faults = self._config.faults
        seed = self._config.seed
        client = client_index(address)
        if falls_silent(client, number, exchange.stage, faults, seed):
            return "dropout"
        kind = kind_of(client, number, faults, seed)
        if kind is not None and self._happens(kind, address, exchange, number):
            return kind
        scaled = exchange.collect and client in scaled_clients(faults.scaled_clients, self._config.clients, seed)
        return "scaled" if scaled else None

    def _happens(self, kind: str, address: Address, exchange: Exchange, number: int) -> bool:
        if kind not in MESSAGES:
            return exchange.collect
        first = self._asked.get((address, exchange.stage), 0)
        return self._config.faults.stage in (None, exchange.stage) and first < number


class Wire:
    """The channel of the replies to one exchange: it delays some replies, and duplicates some."""

    def __init__(self, struck: Mapping[str, str], delay_s: float) -> None:
        self._struck = {number: kind for number, kind in struck.items() if kind in WIRE}
        self._delay_s = delay_s
        self._held: dict[str, tuple[float, Message]] = {}

    def awaited(self, numbers: Iterable[str]) -> list[str]:
        """Return the ids of the messages whose reply is not being delayed."""
        return [number for number in numbers if number not in self._held]

    @property
    def pause_s(self) -> float:
        """The pause between two checks, in seconds, while replies are delayed; 0 where there are none."""
        return HELD_S if self._held else 0.0

    def brought(self, arrived: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies to deliver: delayed ones that are due, then those that have arrived and are not delayed."""
        now_s = time.monotonic()
        for number in [number for number, (due_s, _) in self._held.items() if due_s <= now_s]:
            yield self._held.pop(number)[1]
        for reply in arrived:
            number = reply.metadata.reply_to_message_id
            kind = self._struck.get(number)
            if kind == LATE:
                self._held[number] = now_s + self._delay_s, reply
                continue
            yield reply
            if kind == DUPLICATED:
                yield reply
