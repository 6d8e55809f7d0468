"""Drives a secure sum without any I/O, as the contract suite needs it: any order of arrival, drop-outs, intruders."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import cache, partial
from typing import cast

import numpy as np

from privacy.addresses import Address
from privacy.errors import ProtocolError
from privacy.randomness import OsRandomness, SeededRandomness
from privacy.sealing import Identity, Roster
from privacy.secure_sums.contract import (
    Credentials,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    SetupFlow,
    Store,
    Value,
)
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.vectors import Segment, Total, Vector, VectorSpec

RUN = "ab" * 32
ATTEMPT = "0123456789abcdef"
UPDATE_BOUND = 4.0


def spec_of(length: int, cohort_size: int, min_contributors: int = 1) -> VectorSpec:
    """A bounded update of `length` values and the weight."""
    segments = (Segment("update", length, UPDATE_BOUND), Segment("weight", 1, 1.0))
    return VectorSpec(segments, cohort_size, min_contributors)


def residue_spec(length: int, cohort_size: int, modulus_bits: int, min_contributors: int = 1) -> VectorSpec:
    """`length` residues and the weight."""
    segments = (Segment("update", length), Segment("weight", 1, 1.0))
    return VectorSpec(segments, cohort_size, min_contributors, modulus_bits)


class MemoryStore(Store):
    """A store in memory that lasts as long as the test."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.values.get(name)

    def put(self, name: str, value: bytes) -> None:
        self.values[name] = value

    def claim(self, name: str) -> bool:
        first = name not in self.values
        self.values.setdefault(name, b"")
        return first


@cache
def identity_of(address: Address) -> Identity:
    return Identity.generate(OsRandomness())


@dataclass
class Round:
    """One round of a protocol, after its set-up; `gone` names the roles that do not answer at a stage."""

    secure_sum: SecureSum
    spec: VectorSpec
    vectors: Mapping[Address, Vector]
    gone: Mapping[str, set[Address]] = field(default_factory=dict)
    arrival: Callable[[list[Address]], list[Address]] = sorted
    stages: list[str] = field(default_factory=list)
    contributed: list[Address] = field(default_factory=list)
    refused: dict[Address, Exception] = field(default_factory=dict)
    memories: dict[Address, dict[str, Value]] = field(default_factory=dict)
    stores: dict[Address, MemoryStore] = field(default_factory=dict)
    asked: dict[str, set[Address]] = field(default_factory=dict)
    attempt: str = ATTEMPT
    number: int = 1  # number of the round; 0 at set-up
    peers: Mapping[Address, Peers] = field(default_factory=dict)

    def run(self) -> Total:
        self.set_up()
        total = self.drive(self.secure_sum.server(list(self.vectors), self.spec))
        assert total is not None
        return total

    def set_up(self) -> None:
        """Run the set-up, in which all roles answer and no stage is counted."""
        gone = self.gone
        self.gone = {}
        self.number = 0
        if self.vectors:
            self.drive(self.secure_sum.setup([*self.vectors, *self.secure_sum.parties.roles], self.spec))
        self.gone = gone
        self.number = 1
        for noted in (self.stages, self.asked, self.contributed, self.refused, self.memories):
            noted.clear()

    def drive(self, flow: Flow | SetupFlow) -> Total | None:
        try:
            exchange = next(flow)
            while True:
                self.serve(exchange)
                exchange = flow.send(exchange.respondents())
        except StopIteration as stop:
            return cast("Total | None", stop.value)

    @property
    def client_stages(self) -> list[str]:
        """The stages at which every client was asked."""
        return [stage for stage in self.stages if set(self.vectors) <= self.asked[stage]]

    def serve(self, exchange: Exchange) -> None:
        self.stages.append(exchange.stage)
        self.asked[exchange.stage] = set(exchange.outbox)
        gone = self.gone.get(exchange.stage, ())
        there = [address for address in map(str, self.arrival(list(exchange.outbox))) if address not in gone]
        for address, answer in self.answers(exchange, there):
            try:
                exchange.deliver(address, answer())
            except ProtocolError as error:
                self.refused[address] = error

    def answers(self, exchange: Exchange, there: list[Address]) -> Iterator[tuple[Address, Callable[[], Records]]]:
        """Functions that give each answer: one after the other, or all at once where parties answer together."""
        roles = self.secure_sum.parties.roles
        if self.secure_sum.parties.meeting is None or not set(there) <= set(roles):
            yield from ((address, partial(self.respond, exchange, address)) for address in there)
            return
        from privacy.testing import party_threads  # with it CrypTen, which other sums do without

        self.peers = party_threads.peers_among(roles)
        size = len(roles)
        futures = {a: party_threads.submit(size, roles.index(a), self.respond, exchange, a) for a in there}
        wait(futures.values())
        yield from ((address, future.result) for address, future in futures.items())

    def respond(self, exchange: Exchange, address: Address) -> Records:
        called = 0

        def contribution() -> Vector:
            nonlocal called
            called += 1
            assert exchange.collect, f"stage {exchange.stage} asks for a contribution and does not say so"
            self.contributed.append(address)
            return self.vectors[address]

        records = self.secure_sum.respond(
            exchange.stage, transported(exchange.outbox[address]), self.party(address), contribution
        )
        assert called <= 1
        assert called == int(exchange.collect and address.startswith("client/"))
        return transported(records)

    def party(self, address: Address) -> Participant:
        memory = self.memories.setdefault(address, {})
        randomness = SeededRandomness("contract", address, len(self.stages))
        return Participant(
            address, RUN, self.number, self.attempt, self.spec, memory, randomness, self.credentials(address)
        )

    def credentials(self, address: Address) -> Credentials | None:
        if not self.secure_sum.needs.roster:
            return None
        everybody = {name: identity_of(name).public for name in [*self.vectors, *self.secure_sum.parties.roles]}
        store = self.stores.setdefault(address, MemoryStore())
        return Credentials(identity_of(address), Roster(everybody), store, self.peers.get(address))


def transported(records: Records) -> Records:
    """The records after a transport, which keeps only flat values."""
    for name, value in records.items():
        assert isinstance(name, str)
        assert isinstance(value, np.ndarray | bytes | int | float | str), f"{name} is a {type(value).__name__}"
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in records.items()}
