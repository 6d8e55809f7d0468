"""Adversaries of any secure sum, in process: they speak the real messages, and the honest roles answer as in a run.

    world = World(secure_sum, spec, vectors)   what outlives a round: the stores of all roles, and all that was said
    world.set_up()
    attempt = world.attempt(number=1)          one attempt at one round, under a server that may do anything
    attempt.aggregate()                        the protocol's own server, whose messages the `moves` change
    attempt.until(flow, wanted)                as far as an exchange, to go on by hand
    attempt.ask(role, stage, request)          one crafted message to one role, any number of times, in any order

A malicious server is `ask`, or `moves` (drop, delay, split, repeat, ask again, swap, strike off, lie, replay, mix and
corrupt). A malicious client, keyholder or party is a `liar` that replaces the role's answer. A colluder is a `double`:
it has the memory and the store of a role at this moment, and answers anything as often as it is asked. A dealer, whom
no server asks, is a process in `tests/adversary/sums/dealing.py`.

An honest role answers, or refuses with a `ProtocolError` or a `PrivacyRefusal`. Any other exception ends the test.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from privacy.addresses import Address, is_client
from privacy.errors import FedveilError, PrivacyRefusal, ProtocolError, RuntimeFailure
from privacy.randomness import Randomness, SeededRandomness
from privacy.secure_sums.contract import Contribution, Exchange, Participant, Records, SecureSum, Value
from privacy.secure_sums.vectors import Total, Vector, VectorSpec
from privacy.testing.harness import RUN, MemoryStore, Round, transported
from tests.privacy.secure_sums.test_message_fuzz import mutated

REFUSALS = ProtocolError | PrivacyRefusal
PATIENCE_S = 1.0  # of parties that wait for one that does not answer

Liar = Callable[
    [str, Records, Participant, Callable[[], Records]], Records
]  # the last argument gives the honest answer


class Said(NamedTuple):
    """One message to a role and its reply; None where it refused."""

    run: str
    number: int
    attempt: str
    stage: str
    address: Address
    request: Records
    reply: Records | None
    refusal: FedveilError | None


class Move(NamedTuple):
    """One act of a server at an exchange: `kind` is one of `KINDS`, `who` has a bit for each role, `draw` is a seed.

    An act with `instead` takes the place of the honest message, and the server's half gets the reply. Others come
    before the honest message.
    """

    kind: str
    when: int
    who: int
    draw: int
    instead: bool


@dataclass
class World:
    """The roles of a secure sum over attempts, rounds and runs; `said` holds every message in its order."""

    secure_sum: SecureSum
    spec: VectorSpec
    vectors: Mapping[Address, Vector]
    stores: dict[Address, MemoryStore] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def set_up(self) -> None:
        """Run the set-up, honestly."""
        self.attempt(number=0).set_up()

    def last(self, address: Address) -> Said:
        """The last message to a role."""
        return next(said for said in reversed(self.said) if said.address == address)

    def attempt(self, number: int = 1, attempt: str | None = None, run: str = RUN, **options: object) -> "Attempt":
        """An attempt at a round, by default with a name of its own, and with other `vectors` where they are given."""
        name = attempt or f"{next(self._count):016x}"
        options.setdefault("vectors", self.vectors)
        common = {"number": number, "attempt": name, "run_hash": run, "stores": self.stores, "world": self}
        return Attempt(self.secure_sum, self.spec, **common, **options)  # type: ignore[arg-type]


@dataclass
class Attempt(Round):
    """One attempt at one round. Its server's half may be any flow; `moves` and `liars` change what is said."""

    world: World = field(default_factory=lambda: World(None, None, {}))  # type: ignore[arg-type]
    moves: Sequence[Move] = ()
    liars: Mapping[Address, Liar] = field(default_factory=dict)
    held_back: list[tuple[str, Address, Records]] = field(default_factory=list)
    _passed: int = -1  # number of exchanges before this one
    _instead: dict[Address, Records | None] = field(default_factory=dict)

    # ---- asking by hand

    def ask(self, address: Address, stage: str, request: Records, me: Participant | None = None) -> Said:
        """The answer of a role to a message, as this role is now or as `me`."""
        return self.ask_all(stage, {address: request}, {} if me is None else {address: me})[address]

    def ask_all(
        self, stage: str, requests: Mapping[Address, Records], mes: Mapping[Address, Participant] | None = None
    ) -> dict[Address, Said]:
        """The answers of several roles; parties answer together."""
        parts = {address: (mes or {}).get(address) or self.party(address) for address in requests}
        asked = {a: lambda a=a: self._said(stage, a, requests[a], parts[a]) for a in requests}
        if not self._together(list(requests)):
            return {address: call() for address, call in asked.items()}
        futures = self._submitted(asked)
        return {address: future.result() for address, future in futures.items()}

    def double(self, address: Address) -> Participant:
        """A copy of a role with its memory and store: a colluder, whom no note of an earlier answer holds back."""
        return copied(self.party(address))

    def _said(self, stage: str, address: Address, request: Records, me: Participant) -> Said:
        with suppress(FedveilError):
            self._answered(stage, transported(request), me, lambda: self.vectors[address])
        return self.world.last(address)

    def _answered(self, stage: str, request: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of a role, or of its liar. Answers and refusals are kept; anything else ends the test."""

        def honest() -> Records:
            return self.secure_sum.respond(stage, request, me, contribution)

        liar = self.liars.get(me.address)
        reply: Records | None = None
        refusal: FedveilError | None = None
        try:
            reply = transported(honest() if liar is None else liar(stage, request, me, honest))
        except FedveilError as error:
            refusal = error
        alone = isinstance(refusal, RuntimeFailure) and self._together([me.address])  # the other parties are gone
        assert alone or isinstance(refusal, REFUSALS | None), repr(refusal)
        self.world.said.append(
            Said(self.run_hash, self.number, self.attempt, stage, me.address, request, reply, refusal)
        )
        if reply is None:
            assert refusal is not None
            raise refusal
        return reply

    # ---- the server's moves in a driven round

    def serve(self, exchange: Exchange) -> None:
        self._passed += 1
        self._instead = {}
        for move in self.moves:
            if move.when == self._passed:
                self._move(move, exchange)
        super().serve(exchange)

    def _move(self, move: Move, exchange: Exchange) -> None:
        late = [address for _, address, _ in self.held_back] if move.kind == "delay" else []
        roles = dict.fromkeys([*late, *exchange.outbox])  # those held back are asked though nobody waits for them
        struck = [address for place, address in enumerate(roles) if move.who >> place & 1]
        crafted = {
            a: KINDS[move.kind](self, exchange, a, np.random.default_rng([move.draw, i])) for i, a in enumerate(struck)
        }
        for address, message in crafted.items():
            if message is None:
                self.held_back.append((exchange.stage, address, exchange.outbox[address]))
                self._instead[address] = None
            elif move.instead and message[0] == exchange.stage:
                self._instead[address] = message[1]
        if move.instead:
            return
        by_stage: dict[str, dict[Address, Records]] = {}
        for address, message in crafted.items():
            if message is not None:
                by_stage.setdefault(message[0], {})[address] = message[1]
        for stage, requests in by_stage.items():
            everybody = exchange.outbox if self._together(list(requests)) and stage == exchange.stage else {}
            self.ask_all(stage, {**everybody, **requests})

    def there(self, exchange: Exchange) -> list[Address]:
        return [a for a in super().there(exchange) if self._instead.get(a, {}) is not None]

    def to_role(self, exchange: Exchange, address: Address) -> Records:
        instead = self._instead.get(address)
        return transported(exchange.outbox[address] if instead is None else instead)

    def dropped(self, address: Address, error: FedveilError) -> None:
        """Note the refusal of a role: the server goes on without it."""
        self.refused[address] = error

    def answer(self, stage: str, request: Records, me: Participant, contribution: Contribution) -> Records:
        return self._answered(stage, request, me, contribution)

    def answers(self, exchange: Exchange, there: Sequence[Address]) -> Iterable[tuple[Address, Callable[[], Records]]]:
        calls = {a: lambda a=a: self.respond(exchange, a) for a in there}
        if not self._together(there):
            return calls.items()
        futures = self._submitted(calls)
        return ((address, future.result) for address, future in futures.items())

    # ---- the roles

    def respond(self, exchange: Exchange, address: Address) -> Records:
        return super(Round, self).respond(exchange, address)

    def contribution(self, exchange: Exchange, address: Address) -> Contribution:
        return lambda: self.vectors[address]

    def randomness(self, address: Address) -> Randomness:
        """Randomness that is never drawn twice, and the same in each repetition of a test."""
        return SeededRandomness("adversary", address, self.run_hash, next(self.world._count))

    def _together(self, addresses: Sequence[Address]) -> bool:
        parties = self.secure_sum.parties
        return parties.meeting is not None and bool(addresses) and set(addresses) <= set(parties.roles)

    def _submitted(self, calls: Mapping[Address, Callable[[], object]]) -> dict:
        """Calls that run at once, each in the thread of its party."""
        from privacy.testing import party_threads  # with it CrypTen, which other sums do without

        roles = self.secure_sum.parties.roles
        self.peers = party_threads.peers_among(roles, PATIENCE_S)
        futures = {a: party_threads.submit(len(roles), roles.index(a), call) for a, call in calls.items()}
        wait(futures.values())
        return futures


def copied(me: Participant) -> Participant:
    """A copy of a role, with separate memory and store."""
    store = MemoryStore()
    store.values = dict(me.own.store.values)  # type: ignore[attr-defined]
    memory: dict[str, Value] = dict(me.memory)
    return replace(me, memory=memory, credentials=replace(me.own, store=store))


# ---- what a server may do at an exchange: a stage and a message for a role, or None for silence

Message = tuple[str, Records]
Craft = Callable[[Attempt, Exchange, Address, np.random.Generator], Message | None]


def _drop(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> None:
    return None


def _repeat(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    return exchange.stage, exchange.outbox[address]


def _delay(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """A message that was held back, or any earlier one of this attempt."""
    held = [(stage, request) for stage, a, request in attempt.held_back if a == address]
    before = [(s.stage, s.request) for s in attempt.world.said if (s.attempt, s.address) == (attempt.attempt, address)]
    return _one(held or before, draw) or (exchange.stage, exchange.outbox[address])


def _replay(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """A message of the same stage from another attempt, round or run."""
    others = [
        (s.stage, s.request)
        for s in attempt.world.said
        if (s.address, s.stage) == (address, exchange.stage) and s.attempt != attempt.attempt
    ]
    return _one(others, draw) or (exchange.stage, exchange.outbox[address])


def _swap(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """The message for another role."""
    others = [request for a, request in exchange.outbox.items() if a != address]
    return exchange.stage, others[int(draw.integers(len(others)))] if others else exchange.outbox[address]


def _strike(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """One client less on the first list of a message, and in all that goes with the list."""
    request = exchange.outbox[address]
    listed = [name for name, names in _lists(request) if len(names) > 1]
    if not listed:
        return exchange.stage, request
    names = str(request[listed[0]]).split(",")
    return exchange.stage, struck_off(request, listed[0], names[int(draw.integers(len(names)))])


def _lie(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """Any names in place of a list, in their order."""
    request = dict(exchange.outbox[address])
    for name, _ in _lists(request):
        request[name] = ",".join(client for client in sorted(attempt.vectors) if draw.integers(4))
    return exchange.stage, request


def _mix(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    """One record of any earlier message that has one of this name."""
    request = dict(exchange.outbox[address])
    if request:
        name = sorted(request)[int(draw.integers(len(request)))]
        seen = [r[name] for s in attempt.world.said for r in (s.request, s.reply or {}) if name in r]
        request[name] = seen[int(draw.integers(len(seen)))] if seen else request[name]
    return exchange.stage, request


def _corrupt(attempt: Attempt, exchange: Exchange, address: Address, draw: np.random.Generator) -> Message:
    return exchange.stage, mutated(exchange.outbox[address], draw)


KINDS: Mapping[str, Craft] = {
    "drop": _drop,
    "repeat": _repeat,
    "delay": _delay,
    "replay": _replay,
    "swap": _swap,
    "strike": _strike,
    "lie": _lie,
    "mix": _mix,
    "corrupt": _corrupt,
}


def struck_off(request: Records, name: str, client: Address) -> Records:
    """A message without a client on the list `name`, nor its piece of each record that has a piece for every name."""
    names = str(request[name]).split(",")
    place = names.index(client)
    left: dict[str, Value] = {}
    for key, value in request.items():
        size = len(value) // len(names) if isinstance(value, bytes) and len(value) % len(names) == 0 else 0
        if key == name:
            left[key] = ",".join(other for other in names if other != client)
        elif size and isinstance(value, bytes) and key != client:
            left[key] = value[: size * place] + value[size * (place + 1) :]
        elif key != client:
            left[key] = value
    return left


def _lists(request: Records) -> list[tuple[str, list[str]]]:
    named = ((name, value.split(",")) for name, value in sorted(request.items()) if isinstance(value, str))
    return [(name, names) for name, names in named if all(is_client(one) for one in names)]


def _one(messages: Sequence[Message], draw: np.random.Generator) -> Message | None:
    return messages[int(draw.integers(len(messages)))] if messages else None


def play(attempt: Attempt) -> Total | FedveilError:
    """The result of an attempt, or the error with which its server's half ends."""
    try:
        return attempt.aggregate()
    except FedveilError as error:
        return error
