"""Drives a secure sum without any I/O, as the contract suite needs it: any order of arrival, drop-outs, intruders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from privacy.addresses import Address, is_client
from privacy.errors import FedveilError, ProtocolError
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from privacy.sealing import Identity, Roster
from privacy.secure_sums.contract import Contribution, Credentials, Exchange, Records, Store
from privacy.secure_sums.in_memory import InMemory
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
class Round(InMemory):
    """One round of a protocol, after its set-up; `gone` names the roles that do not answer at a stage.

    The refusal of a role ends the round, unless it is a `ProtocolError`: its role has dropped out then.
    """

    arrival: Callable[[list[Address]], list[Address]] = sorted
    stages: list[str] = field(default_factory=list)
    contributed: list[Address] = field(default_factory=list)
    stores: dict[Address, MemoryStore] = field(default_factory=dict)
    asked: dict[str, set[Address]] = field(default_factory=dict)
    run_hash: str = RUN
    attempt: str = ATTEMPT
    peers: Mapping[Address, Peers] = field(default_factory=dict)

    def run(self) -> Total:
        self.set_up()
        return self.aggregate()

    def set_up(self) -> None:
        """Run the set-up, in which all roles answer and no stage is counted."""
        gone = self.gone
        self.gone = {}
        if self.vectors:
            super().set_up()
        self.gone = gone
        for noted in (self.stages, self.asked, self.contributed, self.refused):
            noted.clear()

    @property
    def client_stages(self) -> list[str]:
        """The stages at which every client was asked."""
        return [stage for stage in self.stages if set(self.vectors) <= self.asked[stage]]

    def serve(self, exchange: Exchange) -> None:
        self.stages.append(exchange.stage)
        self.asked[exchange.stage] = set(exchange.outbox)
        super().serve(exchange)

    def there(self, exchange: Exchange) -> list[Address]:
        there = set(super().there(exchange))
        return [address for address in map(str, self.arrival(list(exchange.outbox))) if address in there]

    def answers(self, exchange: Exchange, there: Sequence[Address]) -> Iterable[tuple[Address, Callable[[], Records]]]:
        """Functions that give each answer: one after the other, or all at once where parties answer together."""
        roles = self.secure_sum.parties.roles
        if self.secure_sum.parties.meeting is None or not set(there) <= set(roles):
            return super().answers(exchange, there)
        from privacy.testing import party_threads  # with it CrypTen, which other sums do without

        self.peers = party_threads.peers_among(roles)
        size = len(roles)
        futures = {a: party_threads.submit(size, roles.index(a), self.respond, exchange, a) for a in there}
        wait(futures.values())
        return ((address, future.result) for address, future in futures.items())

    def dropped(self, address: Address, error: FedveilError) -> None:
        if not isinstance(error, ProtocolError):
            raise error
        super().dropped(address, error)

    def to_role(self, exchange: Exchange, address: Address) -> Records:
        return transported(super().to_role(exchange, address))

    def to_server(self, exchange: Exchange, address: Address, reply: Records) -> Records:
        return transported(super().to_server(exchange, address, reply))

    def respond(self, exchange: Exchange, address: Address) -> Records:
        before = self.contributed.count(address)
        records = super().respond(exchange, address)
        called = self.contributed.count(address) - before
        assert called <= 1
        assert called == int(exchange.collect and is_client(address))
        return records

    def contribution(self, exchange: Exchange, address: Address) -> Contribution:
        def contribute() -> Vector:
            assert exchange.collect, f"stage {exchange.stage} asks for a contribution and does not say so"
            self.contributed.append(address)
            return self.vectors[address]

        return contribute

    def randomness(self, address: Address) -> Randomness:
        return SeededRandomness("contract", address, len(self.stages))

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
