"""Aggregation by several parties that do not trust one another, with CrypTen. Stages: share, reveal.

Each client splits its vector into additive shares (`mpc_shares`), one for each party, and seals each share to its
party: the server relays boxes that it cannot open. The parties agree on the set of contributors (`mpc_agreement`). Each
party adds its shares of these contributors, loads the sum into CrypTen, and the parties reveal the total and nothing
else, once an attempt. They learn the total, as the server does. Any coalition that misses at least one party sees
nothing but uniform values, even together with the server.

All shares but one are keys of 32 bytes. The party that gets the vector rotates with the client's number, which spreads
the load: a fixed party would receive every vector, and the others would expand every key. This choice is not secret.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.addresses import DEALER, Address, party_address
from privacy.checks import positive
from privacy.errors import (
    ConfigError,
    FedveilError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    shown,
)
from privacy.randomness import KEY_BYTES
from privacy.sealing import BOX_BYTES, seal
from privacy.secure_sums.contract import (
    Contribution,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    bytes_of,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.declarations import Boxed, Declarations, Encoding, Fixed, Numbers, Rehearsal
from privacy.secure_sums.meeting import Meeting
from privacy.secure_sums.mpc.aggregates import by_name as mpc_aggregates
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.agreement import Manifest, Taken, agree, check_box, manifest_bytes, number_of
from privacy.secure_sums.mpc.shares import WIDTHS, Elements, ShareRing
from privacy.secure_sums.traits import MALICIOUS_SERVER, Carries, Needs, Parties
from privacy.secure_sums.trust import LEFT_OUT, Trust, subtracting
from privacy.secure_sums.vectors import Sum, Total, Vector, VectorSpec
from privacy.spans import span

PARTIES = (2, 3, 5)
KEY = "secure_sum"

log = logging.getLogger("fedveil")


class CryptenSum(SecureSum):
    """Exact aggregates of fixed-point values, or sums of residues. `bound` is the largest value of an update.

    `aggregate` holds the `name` of the aggregate that the parties compute (`mpc_aggregates`) and its options. A
    non-linear aggregate needs correlated randomness from a dealer, a process of its own, or, with `insecure_provider`,
    from party 0, which could then read everything (CrypTen's provider for debugging).

    Security is passive: a party that deviates from the protocol can spoil the sum. A party that computes a different
    total by mistake is detected, because each party reports a digest of what it revealed.
    """

    name = "crypten"
    hides = True
    needs = Needs(roster=True)
    withstands = MALICIOUS_SERVER
    stages = ("share",)

    def __init__(
        self,
        parties: int = 3,
        bound: float = 1.0,
        fractional_bits: int = 16,
        aggregate: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
        rendezvous: str | None = None,
        tunnel: str | None = None,
        insecure_provider: bool = False,
    ) -> None:
        if parties not in PARTIES:
            raise ConfigError.of(f"{KEY}.parties", parties, f"allowed are {', '.join(map(str, PARTIES))}")
        positive(f"{KEY}.bound", bound)
        self._fractional_bits = fractional_bits
        self._aggregate = named(**(aggregate or {"name": "sum"}))
        sums = isinstance(self._aggregate, mpc_aggregates.Sum)
        self.carries = Carries(exact=sums, bound=float(bound), uniform=self._aggregate.uniform, additive=sums)
        noise = self._aggregate.noise(parties, fractional_bits)
        if insecure_provider and self._aggregate.linear:
            allowed = f"secure_sum/aggregate={self._aggregate.name} needs no correlated randomness: leave it out"
            raise ConfigError.of(f"{KEY}.insecure_provider", "true", allowed)
        roles = tuple(party_address(party) for party in range(parties))
        dealer = None if self._aggregate.linear or insecure_provider else DEALER
        self._meeting = Meeting(roles, timeout_s, rendezvous, tunnel, dealer, insecure_provider)
        self.parties = Parties(roles, self._meeting, noise)
        self.assumption = _assumption(self._meeting)

    @property
    def label(self) -> str:
        """The name in tables, followed by the aggregate if that is not the sum."""
        return self.name if self.carries.additive else f"{self.name}_{self._aggregate.name}"

    def trust(self, spec: VectorSpec) -> Trust:
        """Return one share for each party; the dealer's randomness would open the parties' messages to one another."""
        meeting = self._meeting
        coalitions = [self.parties.roles]
        holds = {"each party": "one additive share of each update"}
        if meeting.dealer is not None:
            coalitions += [("the dealer", "any one party"), ("the dealer", "the server")]
            holds["the dealer"] = "the correlated randomness that products consume"
        if meeting.insecure_provider:
            coalitions = [(party_address(0),)]
        sees = {"the server": "sealed boxes, and the opened result", "each party": "the opened result"}
        drop_out = f"{LEFT_OUT} The loss of a party ends the run."
        limits = {"protocol": (*_limits(meeting), *self._aggregate.limits(spec))}
        return Trust(tuple(coalitions), drop_out, holds, sees, sentences=limits, subtracting=subtracting(spec))

    def ring(self, spec: VectorSpec) -> ShareRing:
        """Return the ring of a spec's vectors: the narrowest that holds their sum, or 64 bits for other aggregates.

        Raises:
            ConfigError: no ring holds their sums, or the aggregate cannot be computed on them.
        """
        self._aggregate.check(spec, self._fractional_bits, len(self.parties.roles))
        ring = ShareRing.of(spec, self._fractional_bits, KEY)
        return ring if self.carries.additive else replace(ring, bits=WIDTHS[-1])

    def tolerance(self, spec: VectorSpec) -> float:
        """Return half a step of the fixed point."""
        return self.ring(spec).tolerance

    # ---- the server's half

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Relay the boxes, and compare the parties' reports of the revealed sum."""
        require_contributors(cohort, spec)
        manifests = dict[Address, bytes]()
        boxes = dict[Address, tuple[bytes, ...]]()

        def collect(address: Address, records: Records) -> None:
            manifest = bytes_of(records, "manifest")
            received = tuple(bytes_of(records, role) for role in self.parties.roles)
            if len(manifest) != manifest_bytes(len(self.parties.roles)):
                raise MalformedContribution(f"a manifest has {manifest_bytes(len(self.parties.roles))} bytes")
            for index, box in enumerate(received):  # a wrong hash here must not end the round for all at the parties
                self._check_size(address, index, box, spec)
                check_box(manifest, index, box)
            manifests[address] = manifest
            boxes[address] = received

        outbox: dict[Address, Records] = {address: {} for address in cohort}
        sharing = Exchange("share", outbox, collect, collect=True, names=(*self.parties.roles, "manifest"))
        there = yield sharing
        require_contributors(there, spec)
        reports: dict[Address, Records] = {}

        def receive(address: Address, records: Records) -> None:
            bytes_of(records, "digest")
            if left_out := records.get("left out"):
                log.warning("%s leaves out %s", address, shown(left_out, 200))
            if address == self.parties.roles[0]:
                spec.check_sum(records.get("sum"))
            reports[address] = records

        sent = {address: boxes[address] for address in there}
        handed = {
            role: {**self._handed(index, sent, manifests), "given": sharing.given}
            for index, role in enumerate(self.parties.roles)
        }
        yield Exchange("reveal", handed, receive, timeout_s=self._meeting.timeout_s)
        return self._compared(reports, there, spec)

    def _check_size(self, client: Address, index: int, box: bytes, spec: VectorSpec) -> None:
        whole = index == self._whole(client)
        length = BOX_BYTES + (self.ring(spec).dtype.itemsize * spec.length if whole else KEY_BYTES)
        if len(box) != length:
            raise MalformedContribution(
                f"the box for {self.parties.roles[index]} must have {length} bytes, got {len(box)}"
            )

    def _handed(
        self, index: int, boxes: Mapping[Address, Sequence[bytes]], manifests: Mapping[Address, bytes]
    ) -> Records:
        """Return one party's records: its boxes by client, and the clients' manifests in the same order."""
        own: dict[str, bytes | str] = {address: parts[index] for address, parts in boxes.items()}
        return {**own, "contributors": ",".join(boxes), "manifests": b"".join(manifests[address] for address in boxes)}

    def _compared(self, reports: Mapping[Address, Records], there: Sequence[Address], spec: VectorSpec) -> Total:
        missing = [role for role in self.parties.roles if role not in reports]
        if missing:
            raise PrivacyRefusal(f"{' and '.join(missing)} did not reveal the sum")
        vector_D = cast(Sum, reports[self.parties.roles[0]]["sum"])
        contributors = str(reports[self.parties.roles[0]].get("contributors")).split(",")
        digest = _digest(vector_D, contributors)
        if reports[self.parties.roles[0]]["digest"] != digest:
            raise PrivacyRefusal(f"{self.parties.roles[0]} reports a different sum from the one it revealed")
        others = [role for role in self.parties.roles if reports[role]["digest"] != digest]
        if others:
            said = f"{' and '.join(others)} revealed a different sum from {self.parties.roles[0]}"
            raise PrivacyRefusal(f"{said}: one of them is broken")
        if not set(contributors) <= set(there):
            raise PrivacyRefusal("the parties name contributors that sent nothing")
        return spec.total(vector_D, [address for address in there if address in contributors])

    # ---- the clients' and the parties' half

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """Answer stage `share` as a client, or stage `reveal` as a party."""
        if stage == "share":
            return self._share(me, contribution)
        if stage == "reveal":
            return self._reveal(inbound, me)
        raise unknown_stage(stage)

    def _share(self, me: Participant, contribution: Contribution) -> Records:
        whole = self._whole(me.address)
        vector_D = me.spec.check(contribution())
        ring = self.ring(me.spec)
        with span("encode"):
            values_D = ring.encode(vector_D)
        with span("share"):
            payloads = ring.split(values_D, len(self.parties.roles), whole, me.randomness)
        with span("seal"):
            boxes = {role: _sealed(me, role, share) for role, share in zip(self.parties.roles, payloads, strict=True)}
        me.inside.update(zip(self.parties.roles, payloads, strict=True))
        manifest = Manifest.of(me.randomness.key(), list(boxes.values()))
        return {**boxes, "manifest": manifest.signed(me)}

    # ---- for the witness

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:  # noqa: ARG002
        """Return the boxes, each with a share in it that is uniform, and the manifest."""
        boxes = {role: self._declared(role, me) for role in self.parties.roles}
        return {**boxes, "manifest": Fixed(manifest_bytes(len(self.parties.roles)))}

    def _declared(self, role: Address, me: Participant) -> Boxed:
        ring = self.ring(me.spec)
        share = me.inside[role]
        if self.parties.roles[self._whole(me.address)] != role:
            return Boxed(share, BOX_BYTES, (Numbers.of_bytes(f"the key for {role}", share),))
        words = np.frombuffer(share, ring.dtype)
        return Boxed(share, BOX_BYTES, (Numbers.of(f"the share of {role}", words, 1 << ring.bits),))

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:  # noqa: ARG002
        """Return the vector in fixed point."""
        ring = self.ring(me.spec)
        return (Encoding(ring.encode(vector_D), ring.bits),)

    def rehearse(
        self,
        stage: str,
        inbound: Records,
        me: Participant,
        vector_D: Vector,
        sent: Records,  # noqa: ARG002
    ) -> Rehearsal:
        """Share a vector again, and add up the shares."""
        records = self.respond(stage, inbound, me, lambda: vector_D)
        ring = self.ring(me.spec)
        total_D = np.zeros(me.spec.length, ring.dtype)
        for index, role in enumerate(self.parties.roles):
            ring.add_share(total_D, me.inside[role], whole=index == self._whole(me.address))
        return Rehearsal(self.declare(stage, records, me), vector_D, ring.decode(total_D), ring.tolerance)

    def _whole(self, client: Address) -> int:
        """Return the index of the party that gets a client's vector; the others get keys."""
        return number_of(client) % len(self.parties.roles)

    def _reveal(self, inbound: Records, me: Participant) -> Records:
        if me.address not in self.parties.roles:
            raise ProtocolError(f"{me.address} reveals nothing")
        taken = Taken(self.parties.roles, self._check_share)
        complaint: FedveilError | None = None
        try:
            with span("open"):
                taken.take(inbound, replace(me, given=bytes_of(inbound, "given")))
            me.pay(tuple(taken.manifests))
        except FedveilError as error:  # the other parties wait for this complaint
            complaint = error
        with span("agree"):
            contributors = self._agreed(taken, complaint, me)
        with span("expand"):
            shares_CD = self._shares(taken.shares, contributors, me)
        with span("compute"):
            vector_D = self._opened(shares_CD, me)
        report: Records = {"digest": _digest(vector_D, contributors), "left out": taken.told}
        # every party has the sum: the first one reports it, and the others its digest
        first = me.address == self.parties.roles[0]
        return {**report, "sum": vector_D, "contributors": ",".join(contributors)} if first else report

    def _check_share(self, client: Address, share: bytes, me: Participant) -> None:
        self.ring(me.spec).check_share(share, whole=self.parties.roles[self._whole(client)] == me.address)

    def _agreed(self, taken: Taken, complaint: FedveilError | None, me: Participant) -> tuple[Address, ...]:
        try:
            return agree(taken.manifests, complaint, me, self.parties.roles)
        except TooFewContributors as error:
            raise TooFewContributors(f"{error}; left out is {taken.told}" if taken.told else str(error)) from error

    def _shares(self, payloads: dict[Address, bytes], contributors: Sequence[Address], me: Participant) -> Elements:
        """Return this party's shares, shape (C, D), in the order of the contributors; their sum if that is enough.

        A linear aggregate needs the sum alone: shape (1, D). The payloads are consumed.
        """
        ring = self.ring(me.spec)
        index = self.parties.roles.index(me.address)
        rows = 1 if self._aggregate.linear else len(contributors)
        shares_CD = np.zeros((rows, me.spec.length), ring.dtype)
        for place, client in enumerate(contributors):
            ring.add_share(shares_CD[place % rows], payloads.pop(client), whole=self._whole(client) == index)
        return shares_CD

    def _opened(self, shares_CD: Elements, me: Participant) -> Sum:
        integers_CD = torch.from_numpy(shares_CD.astype(np.int64, copy=False)).to(me.device)
        if isinstance(self._aggregate, mpc_aggregates.Sum):
            ring = self.ring(me.spec)
            return ring.decode(revealed(self._aggregate, integers_CD).astype(ring.dtype))
        return self._aggregate.reveal(integers_CD, self._fractional_bits, me.noise or me.randomness, me.spec.least)


def revealed(aggregate: mpc_aggregates.Sum, shares_CD: torch.Tensor) -> NDArray[np.int64]:
    """Return the sum of all parties' shares modulo 2^64, shape (D,); a narrower ring is a quotient of it.

    Raises:
        PeerLost: a party is gone, or does not answer.
    """
    return aggregate.residues(shares_CD)


def _sealed(me: Participant, role: Address, share: bytes) -> bytes:
    return seal(me.own.identity, me.own.roster, me.header("mpc share", me.address, role), share, me.randomness)


def _digest(vector_D: Sum, contributors: Sequence[Address]) -> bytes:
    """Return the digest of the sum and its contributors, on which all parties must agree."""
    return hashlib.sha256(np.ascontiguousarray(vector_D).tobytes() + ",".join(contributors).encode()).digest()


def _assumption(meeting: Meeting) -> str:
    parties = len(meeting.parties)
    if meeting.insecure_provider:
        return "party/0 is trusted: it deals, and could read every update (secure_sum.insecure_provider=true)"
    collude = f"not all {parties} parties collude (any {parties - 1} may, with the server)"
    return (
        collude
        if meeting.dealer is None
        else f"{collude}, and the dealer colludes with none of them, nor with the server"
    )


def _limits(meeting: Meeting) -> Iterator[str]:
    yield "The parties are assumed to follow the protocol: security is passive."
    yield "The parties learn each round's total, too."
    where = "stay on the machine" if meeting.tunnel is None else f"go through the tunnel {meeting.tunnel}"
    yield f"Messages between the parties are not encrypted: they {where}."
    if meeting.dealer is not None:
        yield "The dealer can read every client's update with the help of any one party or of the parties' messages."
        yield "A dealer that deals wrong values can have one client's update opened in place of the result."
    if meeting.insecure_provider:
        yield "Party/0 deals for all parties, and could read every update (secure_sum.insecure_provider=true)."
