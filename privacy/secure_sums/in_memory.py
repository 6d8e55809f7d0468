"""All roles of a secure sum in one process, without a transport: for attacks, benchmarks and tests.

A request goes from the server's half through `to_role` to `answer`, and the reply through `to_server` to `deliver`. A
subclass that overrides one of these methods is an adversary, a witness or a clock.
"""

import hashlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from privacy.addresses import SERVER, Address, is_client
from privacy.errors import FedveilError, ProtocolError
from privacy.randomness import OsRandomness, Randomness
from privacy.sealing import Identity, Roster
from privacy.secure_sums.contract import (
    Contribution,
    Credentials,
    Exchange,
    Participant,
    Records,
    SecureSum,
    Store,
    Value,
)
from privacy.secure_sums.exchanges import Exchanges
from privacy.secure_sums.signed_replies import reply_header, signed, verified
from privacy.secure_sums.vectors import Total, Vector, VectorSpec

T = TypeVar("T")
SETUP_ROUND = 0
GIVEN = hashlib.sha256(b"a model").digest()


class Passed(NamedTuple):
    """One round trip as it passed the wire: after the changes of `to_role` and `to_server`."""

    stage: str
    address: Address
    request: Records
    reply: Records


@dataclass
class InMemory:
    """The roles of a secure sum, and the server that asks them, in one attempt at one round.

    A role drops out where it is `gone`, where it cannot answer, or where the protocol refuses its reply; `refused`
    keeps the error, unless `strict` ends the drive with it. With a `roster` replies are signed and verified, as in a
    run. Messages are kept where the caller gives a list, `wire`.
    """

    secure_sum: SecureSum
    spec: VectorSpec
    vectors: Mapping[Address, Vector]  # the contribution of each client of the cohort
    gone: Mapping[str, Collection[Address]] = field(default_factory=dict)  # roles that do not answer, by stage
    _: KW_ONLY
    known: Mapping[Address, Credentials] = field(default_factory=dict)
    roster: Roster | None = None
    strict: bool = False
    run_hash: str = "00" * 32
    number: int = 1  # number of the round
    attempt: str = "attempt"
    given: bytes = GIVEN  # digest of the model that everybody is given, those in `givens` aside
    givens: Mapping[Address, bytes] = field(default_factory=dict)
    memories: dict[Address, dict[str, Value]] = field(default_factory=dict)
    refused: dict[Address, Exception] = field(default_factory=dict)
    wire: list[Passed] | None = None
    stage: str = ""  # the last stage reached

    @property
    def cohort(self) -> list[Address]:
        """The clients of the round."""
        return list(self.vectors)

    # ---- the server

    def set_up(self) -> None:
        """Run the set-up that precedes the first round."""
        number = self.number
        self.number = SETUP_ROUND
        self.drive(self.secure_sum.setup([*self.cohort, *self.secure_sum.parties.roles], self.spec))
        self.number = number
        self.memories.clear()

    def aggregate(self) -> Total:
        """Run one round after the set-up."""
        return self.drive(self.secure_sum.server(self.cohort, self.spec))

    def drive(self, flow: Generator[Exchange, list[Address], T]) -> T:
        """Run a server's half to its end, and return its result.

        Raises:
            FedveilError: the server's half refuses to go on, or, where this drive is strict, any role does.
        """
        exchanges = Exchanges(flow, self._servers_time)
        for exchange in exchanges:
            self.serve(exchange)
        return exchanges.result

    def until(self, flow: Generator[Exchange, list[Address], T], wanted: Callable[[Exchange], bool]) -> Exchange:
        """Run a server's half as far as the first wanted exchange, and return this exchange before any role is asked.

        Raises:
            ProtocolError: there is no such exchange.
        """
        for exchange in Exchanges(flow, self._servers_time):
            if wanted(exchange):
                return exchange
            self.serve(exchange)
        raise ProtocolError("the protocol ended before the wanted stage")

    def _servers_time(self, _: Exchange | None) -> AbstractContextManager[None]:
        return self.timed(SERVER)

    def serve(self, exchange: Exchange) -> None:
        """Ask the roles that are there, and deliver each reply."""
        self.stage = exchange.stage
        exchange.given = self.given if exchange.collect else b""
        for address, answered in self.answers(exchange, self.there(exchange)):
            try:
                reply = answered()
            except FedveilError as error:
                self.dropped(address, error)
                continue
            try:
                self.deliver(exchange, address, reply)
            except ProtocolError as error:
                self.dropped(address, error)

    # ---- hooks: what a subclass may change

    def there(self, exchange: Exchange) -> list[Address]:
        """The roles that answer an exchange, in the order in which their replies arrive."""
        gone = self.gone.get(exchange.stage, ())
        return [address for address in exchange.outbox if address not in gone]

    def answers(self, exchange: Exchange, there: Sequence[Address]) -> Iterable[tuple[Address, Callable[[], Records]]]:
        """The calls that return each answer; roles that wait for one another need an override."""
        return ((address, partial(self.respond, exchange, address)) for address in there)

    def to_role(self, exchange: Exchange, address: Address) -> Records:
        """The request as the role receives it."""
        return exchange.outbox[address]

    def to_server(self, exchange: Exchange, address: Address, reply: Records) -> Records:  # noqa: ARG002
        """The reply as the server receives it."""
        return reply

    def deliver(self, exchange: Exchange, address: Address, reply: Records) -> None:
        """Verify the reply where there is a roster, and pass it to the protocol."""
        with self.timed(SERVER):
            if self.roster is not None:
                header = reply_header(self.run_hash, self.number, self.attempt, exchange.stage, address)
                reply = verified(reply, self.roster, header)
            exchange.deliver(address, reply)

    def dropped(self, address: Address, error: FedveilError) -> None:
        """Keep the error of a role that has dropped out, or raise it."""
        if self.strict:
            raise error
        self.refused[address] = error

    def timed(self, address: Address) -> AbstractContextManager[None]:  # noqa: ARG002
        """A context around each piece of a role's own work; `SERVER` names the server."""
        return nullcontext()

    # ---- the other roles

    def respond(self, exchange: Exchange, address: Address) -> Records:
        """The reply of a role to an exchange, as the server receives it."""
        request = self.to_role(exchange, address)
        me = self.party(address)
        me.given = me.given if exchange.collect else b""
        contribution = self.contribution(exchange, address)
        with self.timed(address):
            reply = self.answer(exchange.stage, request, me, contribution)
            if self.roster is not None:
                reply = signed(reply, me, exchange.stage)
        reply = self.to_server(exchange, address, reply)
        if self.wire is not None:
            self.wire.append(Passed(exchange.stage, address, request, reply))
        return reply

    def answer(self, stage: str, request: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of a role, by default that of the secure sum."""
        return self.secure_sum.respond(stage, request, me, contribution)

    def contribution(self, exchange: Exchange, address: Address) -> Contribution:
        """The call that returns a role's vector; the vector is made before the role's time begins."""
        asked = exchange.collect and is_client(address)
        vector = self.vectors[address] if asked else None

        def contribute() -> Vector:
            if vector is None:
                raise ProtocolError(f"stage {exchange.stage} asks {address} for no contribution")
            return vector

        return contribute

    def party(self, address: Address) -> Participant:
        """The role at an address, with its memory of this round."""
        return Participant(
            address=address,
            run=self.run_hash,
            round=self.number,
            attempt=self.attempt,
            spec=self.spec,
            memory=self.memories.setdefault(address, {}),
            randomness=self.randomness(address),
            credentials=self.credentials(address),
            given=self.givens.get(address, self.given),
        )

    def randomness(self, address: Address) -> Randomness:  # noqa: ARG002
        """The source of a role's randomness."""
        return OsRandomness()

    def credentials(self, address: Address) -> Credentials | None:
        """The credentials of a role; None where it has none."""
        return self.known.get(address)


class Drawn(Mapping[Address, Vector]):
    """Vectors that are made when they are read and not kept: more than fit into memory at once."""

    def __init__(self, addresses: Sequence[Address], make: Callable[[Address], Vector]) -> None:
        self._addresses = addresses
        self._make = make

    def __getitem__(self, address: Address) -> Vector:
        """The vector of an address, made anew."""
        return self._make(address)

    def __iter__(self) -> Iterator[Address]:
        """The addresses, in their order."""
        return iter(self._addresses)

    def __len__(self) -> int:
        """The number of vectors."""
        return len(self._addresses)


def fresh_credentials(addresses: Sequence[Address], store: Callable[[Address], Store]) -> dict[Address, Credentials]:
    """New keys for each role, one roster of all of them, and the stores that `store` makes."""
    identities = {address: Identity.generate(OsRandomness()) for address in addresses}
    roster = Roster({address: identity.public for address, identity in identities.items()})
    return {address: Credentials(identity, roster, store(address)) for address, identity in identities.items()}
