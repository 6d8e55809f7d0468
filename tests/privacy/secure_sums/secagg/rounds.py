"""Rounds of secure aggregation that record all messages, allow a lying server, and treat refusals as answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from privacy.addresses import Address
from privacy.errors import FedveilError, PrivacyRefusal, ProtocolError
from privacy.randomness import SeededRandomness
from privacy.secure_sums.contract import Exchange, Participant, Records, Value
from privacy.secure_sums.secagg.graph import GraphPlan
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.vectors import VectorSpec
from privacy.testing.contract import vectors
from privacy.testing.harness import UPDATE_BOUND, MemoryStore, Round, spec_of, transported

STAGES = ("advertise", "share_keys", "mask", "confirm", "unmask")
Lie = Callable[[Address, Records], Records]

VICTIM = "client/1"


class Sparse(SecAggSum):
    """Four neighbours with a threshold of three: a sparse graph of few clients, which the bounds never give."""

    def plan(self, count: int, cohort: int) -> GraphPlan:
        return GraphPlan(count, 4, 3, count - 2) if count > 6 else super().plan(count, cohort)


@dataclass
class Lying(Round):
    """A round in which `lies` change the server's messages."""

    lies: Mapping[str, Lie] = field(default_factory=dict)
    passed: dict[tuple[str, Address], tuple[Records, Records]] = field(default_factory=dict)
    refusals: dict[tuple[str, Address], FedveilError] = field(default_factory=dict)
    before: dict[tuple[str, Address], Participant] = field(default_factory=dict)  # a party as it was before it answered

    def respond(self, exchange: Exchange, address: Address) -> Records:
        stage = exchange.stage
        sent = exchange.outbox[address]
        sent = transported(self.lies.get(stage, lambda _, records: records)(address, sent))
        self.before[stage, address] = copied(self.party(address))
        try:
            records = super().respond(replace(exchange, outbox={address: sent}), address)
        except FedveilError as error:
            self.refusals[stage, address] = error
            raise error if isinstance(error, ProtocolError) else ProtocolError("a reply that holds an error") from error
        self.passed[stage, address] = sent, records
        return records

    def party(self, address: Address) -> Participant:
        """A party; each attempt has its own randomness."""
        randomness = SeededRandomness("secagg", address, self.attempt, len(self.stages))
        return replace(super().party(address), randomness=randomness)

    def again(
        self, stage: str, address: Address, sent: Records | None = None, me: Participant | None = None
    ) -> Records:
        """Ask a client again in its present state, by default with the same request."""
        sent = self.passed[stage, address][0] if sent is None else sent
        return self.secure_sum.respond(stage, sent, me or self.party(address), lambda: self.vectors[address])


def copied(me: Participant) -> Participant:
    """A copy of a party, with separate memory and store."""
    store = MemoryStore()
    store.values = dict(me.own.store.values)  # type: ignore[attr-defined]
    memory: dict[str, Value] = dict(me.memory)
    return replace(me, memory=memory, credentials=replace(me.own, store=store))


def made(secure_sum: SecAggSum, count: int, length: int = 3, minimum: int = 2, **options: object) -> Lying:
    return Lying(secure_sum, spec_of(length, count, minimum), vectors(count, length), **options)  # type: ignore[arg-type]


def ran(secure_sum: SecAggSum | None = None, count: int = 5, **options: object) -> Lying:
    """A recorded honest round."""
    round_ = made(secure_sum or SecAggSum(count, bound=UPDATE_BOUND), count, **options)
    round_.run()
    assert not round_.refusals
    return round_


def refusal(ask: Callable[[], object]) -> FedveilError:
    """The refusal of a client."""
    try:
        ask()
    except (ProtocolError, PrivacyRefusal) as error:
        return error
    raise AssertionError("it answered")


def wider(spec: VectorSpec, **changes: int) -> VectorSpec:
    return replace(spec, **changes)  # type: ignore[arg-type]


def addresses(count: int) -> Sequence[Address]:
    return [f"client/{client}" for client in range(count)]


def ring_neighbours(round_: Lying, client: Address) -> list[Address]:
    return str(round_.passed["mask", client][0]["sharers"]).split(",")
