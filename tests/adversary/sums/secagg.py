"""A server of secure aggregation that lies, and clients that collude: lists, survivors, signatures, shares, updates."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from privacy.addresses import Address
from privacy.errors import FedveilError, TooFewContributors
from privacy.secure_sums.contract import Flow, Participant, Records
from privacy.secure_sums.secagg.graph import GraphPlan, NeighbourRing
from privacy.secure_sums.secagg.keys import EVERYBODY, ClosedList, parts, private_key
from privacy.secure_sums.secagg.protocol import SecAggSum, _statement
from privacy.secure_sums.secagg.shamir import SHARE_BYTES, combine
from privacy.secure_sums.vectors import Vector
from privacy.testing.contract import vectors
from privacy.testing.harness import UPDATE_BOUND, spec_of
from tests.adversary.harness import Attempt, World, copied

LENGTH = 3
Told = Mapping[Address, Sequence[Address]]  # the survivors, as a server tells them to each honest client


class Careless(SecAggSum):
    """A server's half that takes any list, or clients that do: as if the list were a cohort of its own."""

    def plan(self, count: int, cohort: int) -> GraphPlan:
        try:
            plan = super().plan(count, cohort)
        except TooFewContributors:
            plan = super().plan(count, count)
        return replace(plan, least=1)


def clients(count: int) -> list[Address]:
    return [f"client/{client}" for client in range(count)]


def world_of(count: int, kind: type[SecAggSum] = SecAggSum, minimum: int = 1, **options: object) -> World:
    secure_sum = kind(count, bound=UPDATE_BOUND, **options)  # type: ignore[arg-type]
    return World(secure_sum, spec_of(LENGTH, count, minimum), vectors(count, LENGTH))


def reference(world: World) -> SecAggSum:
    """The secure sum of a world, as what it is."""
    assert isinstance(world.secure_sum, SecAggSum)
    return world.secure_sum


def printed(secure_sum: SecAggSum, count: int, minimum: int = 1) -> int:
    """The number of colluding neighbours on the card."""
    ((server, colluding),) = secure_sum.trust(spec_of(LENGTH, count, minimum)).coalitions
    assert server == "the server"
    found = re.fullmatch(r"(\d+) of a client's \d+ neighbours?", colluding)
    assert found
    return int(found[1])


def flow(attempt: Attempt, names: Collection[Address]) -> Flow:
    """The half of a server that closes the list over these clients alone, and does not care how many are left."""
    careless = Careless(len(attempt.vectors), bound=UPDATE_BOUND)
    careless._bounds = reference(attempt.world)._bounds
    return careless.server(sorted(names), replace(attempt.spec, min_contributors=1))


@dataclass
class Lied:
    """One attempt in which the clients have masked, for servers that go on from there in any way, any number of times.

    Each way starts from copies of the clients. Colluders give all that they have, and sign anything.
    """

    attempt: Attempt
    colluders: frozenset[Address]
    closed: ClosedList = field(init=False)
    ring: NeighbourRing = field(init=False)
    requests: dict[tuple[str, Address], Records] = field(init=False)

    def __post_init__(self) -> None:
        said = [one for one in self.attempt.world.said if one.attempt == self.attempt.attempt and one.reply is not None]
        self.requests = {(one.stage, one.address): one.request for one in said}
        self.sent = {one.address: one.reply for one in said if one.stage == "mask"}
        listed = next(request for (stage, _), request in self.requests.items() if stage == "share_keys")
        self.closed = ClosedList.read(str(listed["clients"]), bytes(listed["keys"]))  # type: ignore[arg-type]
        self.ring = self.attempt.secure_sum.ring(self.closed, self.attempt.spec)  # type: ignore[attr-defined]

    def shares(self, told: Told) -> dict[Address, tuple[dict, dict]]:
        """By owner, the shares of seed and key that come of saying to each honest client in `told` who survived."""
        own = {client: copied(self.attempt.party(client)) for client in told}
        confirmed = {
            client: said.reply["signed"]
            for client, names in told.items()
            if (said := self.attempt.ask(client, "confirm", {"survivors": ",".join(names)}, own[client])).reply
        }
        got: dict[Address, tuple[dict, dict]] = {owner: ({}, {}) for owner in self.closed.keys}
        for client in confirmed:
            agreeing = {other: signed for other, signed in confirmed.items() if told[other] == told[client]}
            agreeing |= {other: self._signed(other, told[client]) for other in self.colluders}
            signers = [other for other in self.ring.holders(client) if other in agreeing]
            request = {"signers": ",".join(signers), "signatures": b"".join(agreeing[other] for other in signers)}
            reply = self.attempt.ask(client, "unmask", request, own[client]).reply
            if reply is not None:
                for owner, share in zip(self._owners(client), parts(reply["shares"], SHARE_BYTES), strict=True):
                    got[owner][owner not in told[client]][self._number(owner, client)] = share
        for colluder in self.colluders:
            memory = self.attempt.memories[colluder]
            both = parts(memory["secagg.own"] + memory["secagg.shares"], 2 * SHARE_BYTES)  # type: ignore[operator]
            for owner, pair in zip(self._owners(colluder), both, strict=True):
                for half in (0, 1):
                    got[owner][half][self._number(owner, colluder)] = pair[half * SHARE_BYTES :][:SHARE_BYTES]
        return got

    def read(self, victim: Address, told: Told) -> Vector | None:
        """The update of a client, where there are enough shares of both its secrets."""
        seeds, keys = self.shares(told)[victim]
        if min(len(seeds), len(keys)) < self.ring.plan.threshold:
            return None
        seed, key = (combine(shares, self.ring.plan.holders) for shares in (seeds, keys))
        masked = self.attempt.secure_sum.masked(self.attempt.spec)  # type: ignore[attr-defined]
        pairs = {
            other: self.closed.mask_seed(private_key(key), victim, other, self.attempt.given)
            for other in str(self.requests["mask", victim]["sharers"]).split(",")
        }
        sum_ = masked.zero()
        masked.add(sum_, self.sent[victim]["masked"])
        added = [seed for other, seed in pairs.items() if other < victim]
        subtracted = [seed, *(pair for other, pair in pairs.items() if victim < other)]
        return masked.opened(sum_, added, subtracted, 1)

    def _owners(self, client: Address) -> list[Address]:
        sharers = str(self.requests["mask", client]["sharers"]).split(",")
        return [*([client] if self.ring.plan.complete else []), *sharers]

    def _number(self, owner: Address, holder: Address) -> int:
        return self.ring.holders(owner).index(holder) + 1

    def _signed(self, colluder: Address, names: Sequence[Address]) -> bytes:
        me: Participant = self.attempt.party(colluder)
        statement = _statement(names, self.closed, self.attempt.given)
        return me.own.identity.sign(me.header("secagg survivors", colluder, EVERYBODY), statement)


def stories(names: Sequence[Address], victim: Address, colluders: Collection[Address], lies: bool) -> Iterator[Told]:
    """All ways, up to renaming, to say to some honest clients that the victim survived, and to others that it did not.

    Without lies: to say to all of them that it did.
    """
    others = [name for name in names if name != victim and name not in colluders]
    gone = [name for name in names if name != victim]
    for count in range(len(others) + 1) if lies else [len(others)]:
        yield {victim: list(names)} | {name: list(names) if i < count else gone for i, name in enumerate(others)}


def reads(world: World, colluding: int, lies: bool = True) -> bool:
    """True where a server and so many clients read the update of client/0, over all lists and all stories.

    A server that does not lie still sees clients drop out, any of them and at any stage.
    """
    victim, *others = clients(len(world.vectors))
    colluders = others[:colluding]
    bystanders = others[colluding:]
    for there in range(len(bystanders) + 1):
        names = sorted([victim, *colluders, *bystanders[:there]])
        if _left_over(world, victim, colluders, names) or _split(world, victim, colluders, names, lies):
            return True
    return False


def _left_over(world: World, victim: Address, colluders: Sequence[Address], names: Sequence[Address]) -> bool:
    """True where all others on the list drop out, and the colluders subtract their vectors from the sum."""
    gone = set(names) - {victim, *colluders}
    attempt = _fresh(world, gone=dict.fromkeys(("mask", "confirm", "unmask"), gone))
    try:
        total = attempt.drive(flow(attempt, names))
    except FedveilError:
        return False
    known = sum(world.vectors[colluder][:-1].astype(np.float64) for colluder in colluders)
    return _is(total.update_D - known, world, victim)


def _split(world: World, victim: Address, colluders: Sequence[Address], names: Sequence[Address], lies: bool) -> bool:
    """True where the shares of both secrets of the victim come together."""
    attempt = _fresh(world)
    try:
        attempt.until(flow(attempt, names), lambda exchange: exchange.stage == "confirm")
    except FedveilError:
        return False
    lied = Lied(attempt, frozenset(colluders))
    updates = (lied.read(victim, told) for told in stories(names, victim, colluders, lies))
    return any(_is(update, world, victim) for update in updates if update is not None)


def _fresh(world: World, **options: object) -> Attempt:
    """An attempt at a round that was not tried before, so that no earlier attack binds the clients."""
    return world.attempt(number=1 + len(world.said), **options)


def _is(update_D: Vector, world: World, victim: Address) -> bool:
    error = np.abs(update_D - world.vectors[victim][: len(update_D)]).max()
    assert error < 1e-3, "whoever has the shares has the update"
    return True
