"""Aggregation by several parties that do not trust one another, with CrypTen. Stages: share, reveal.

Each client splits its vector into additive shares (`mpc_shares`), one for each party, and seals each to its party: the
server relays boxes that it cannot open. The parties agree on whose shares count (`mpc_agreement`), add their own shares
of all of them, load the sums into CrypTen and reveal the total, and nothing else, once an attempt. They learn the total
as the server does. Any number of parties short of all, together with the server, sees nothing but uniform values.

All shares but one are keys of 32 bytes. Who gets the vector goes round, by the client's number: parties are then busy
alike, where a fixed one would take in every vector and the others expand every key. Which it is protects nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch

from privacy.errors import (
    ConfigError,
    FedveilError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    RuntimeFailure,
)
from privacy.mpc_agreement import Manifest, agree, check_box, check_manifest, manifest_bytes, number_of
from privacy.mpc_shares import Elements, Ring
from privacy.parameters import positive
from privacy.peers import Meeting, reason
from privacy.sealing import open_box, seal
from privacy.secure_sum import (
    Address,
    Contribution,
    Exchange,
    Flow,
    Party,
    Records,
    SecureSum,
    Sum,
    Total,
    VectorSpec,
    bytes_of,
    require_contributors,
    unknown_stage,
)

PARTIES = (2, 3, 5)
AGGREGATES = ("sum",)
KEY = "secure_sum"


class CryptenSum(SecureSum):
    """Exact sums of fixed-point values, or of residues. `bound` is the largest value of an update.

    Security is passive: a party that computes something else than the protocol says can spoil the sum, and one that is
    broken is found out, because each says what it revealed.
    """

    name = "crypten"
    exact = True
    hides = True
    pinned = True
    meeting: Meeting

    def __init__(
        self,
        parties: int = 3,
        bound: float = 1.0,
        fractional_bits: int = 16,
        aggregate: str = "sum",
        timeout_s: float = 120.0,
        rendezvous: str | None = None,
        tunnel: str | None = None,
    ) -> None:
        if parties not in PARTIES:
            raise ConfigError.of(f"{KEY}.parties", parties, f"allowed are {', '.join(map(str, PARTIES))}")
        if aggregate not in AGGREGATES:
            raise ConfigError.of(f"{KEY}.aggregate", aggregate, f"allowed are {', '.join(AGGREGATES)}")
        positive(f"{KEY}.bound", bound)
        self.bound, self._fractional_bits = float(bound), fractional_bits
        self.meeting = Meeting(timeout_s, rendezvous, tunnel)
        self.roles = tuple(f"party/{party}" for party in range(parties))
        where = "stays on the machine" if tunnel is None else f"goes through the tunnel {tunnel}"
        self.caveats = (
            "The parties are taken to compute as they should: security is passive.",
            "The parties learn each round's total, too.",
            f"What passes between the parties is not encrypted: it {where}.",
        )
        self.assumption = f"not all {parties} parties collude (any {parties - 1} may, with the server)"

    def ring(self, spec: VectorSpec) -> Ring:
        """Where the vectors of a spec are summed.

        Raises:
            ConfigError: no ring holds their sums.
        """
        return Ring.of(spec, self._fractional_bits, KEY)

    def tolerance(self, spec: VectorSpec) -> float:
        """Half a step of the fixed point."""
        return self.ring(spec).tolerance

    # ---- the server's half

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Relay the boxes, and compare what the parties say they revealed."""
        require_contributors(cohort, spec)
        manifests, boxes = dict[Address, bytes](), dict[Address, tuple[bytes, ...]]()

        def collect(address: Address, records: Records) -> None:
            manifest, received = bytes_of(records, "manifest"), tuple(bytes_of(records, role) for role in self.roles)
            if len(manifest) != manifest_bytes(len(self.roles)):
                raise MalformedContribution(f"a manifest has {manifest_bytes(len(self.roles))} bytes")
            for index, box in enumerate(received):  # who cannot hash must not end the round for all at the parties
                check_box(manifest, index, box)
            manifests[address], boxes[address] = manifest, received

        there = yield Exchange("share", {address: {} for address in cohort}, collect, collect=True)
        require_contributors(there, spec)
        reports: dict[Address, Records] = {}

        def receive(address: Address, records: Records) -> None:
            bytes_of(records, "digest")
            if address == self.roles[0]:
                spec.check_sum(records.get("sum"))
            reports[address] = records

        outbox = {
            role: self._handed(index, {address: boxes[address] for address in there}, manifests)
            for index, role in enumerate(self.roles)
        }
        yield Exchange("reveal", outbox, receive, timeout_s=self.meeting.timeout_s)
        return self._compared(reports, there, spec)

    def _handed(
        self, index: int, boxes: Mapping[Address, Sequence[bytes]], manifests: Mapping[Address, bytes]
    ) -> Records:
        """What one party gets: its boxes by client, and the clients' manifests in the same order."""
        own: dict[str, bytes | str] = {address: parts[index] for address, parts in boxes.items()}
        return {**own, "contributors": ",".join(boxes), "manifests": b"".join(manifests[address] for address in boxes)}

    def _compared(self, reports: Mapping[Address, Records], there: Sequence[Address], spec: VectorSpec) -> Total:
        missing = [role for role in self.roles if role not in reports]
        if missing:
            raise PrivacyRefusal(f"{' and '.join(missing)} did not reveal the sum")
        vector_D = cast(Sum, reports[self.roles[0]]["sum"])
        contributors = str(reports[self.roles[0]].get("contributors")).split(",")
        digest = _digest(vector_D, contributors)
        if reports[self.roles[0]]["digest"] != digest:
            raise PrivacyRefusal(f"{self.roles[0]} reports another sum than it revealed")
        others = [role for role in self.roles if reports[role]["digest"] != digest]
        if others:
            said = f"{' and '.join(others)} revealed another sum than {self.roles[0]}"
            raise PrivacyRefusal(f"{said}: one of them is broken")
        if not set(contributors) <= set(there):
            raise PrivacyRefusal("the parties name contributors that sent nothing")
        return spec.total(vector_D, [address for address in there if address in contributors])

    # ---- everyone else's

    def respond(self, stage: str, inbound: Records, me: Party, contribution: Contribution) -> Records:
        """Share, or reveal."""
        if stage == "share":
            return self._share(me, contribution)
        if stage == "reveal":
            return self._reveal(inbound, me)
        raise unknown_stage(stage)

    def _share(self, me: Party, contribution: Contribution) -> Records:
        whole = self._whole(me.address)
        vector_D = me.spec.check(contribution())
        ring = self.ring(me.spec)
        payloads = ring.split(ring.encode(vector_D), len(self.roles), whole, me.randomness)
        boxes = {
            role: seal(me.own.identity, me.own.roster, me.header("mpc share", me.address, role), share, me.randomness)
            for role, share in zip(self.roles, payloads, strict=True)
        }
        manifest = Manifest.of(me.randomness.key(), list(boxes.values()))
        return {**boxes, "manifest": manifest.signed(me)}

    def _whole(self, client: Address) -> int:
        """The party that gets a client's vector; the others get keys."""
        return number_of(client) % len(self.roles)

    def _reveal(self, inbound: Records, me: Party) -> Records:
        if me.address not in self.roles:
            raise ProtocolError(f"{me.address} reveals nothing")
        held: dict[Address, bytes] = {}
        shares: dict[Address, bytes] = {}
        complaint: FedveilError | None = None
        try:
            self._take(inbound, me, held, shares)
        except FedveilError as error:  # the others wait to hear of it
            complaint = error
        contributors = agree(held, complaint, me, self.roles)
        ring = self.ring(me.spec)
        share_D = np.zeros(me.spec.length, ring.dtype)
        index = self.roles.index(me.address)
        for client in contributors:
            ring.add_share(share_D, shares.pop(client), whole=self._whole(client) == index)
        vector_D = ring.decode(revealed(share_D))
        report: Records = {"digest": _digest(vector_D, contributors)}
        # every party has the sum: one tells it, and the others what it must be
        return {**report, "sum": vector_D, "contributors": ",".join(contributors)} if index == 0 else report

    def _take(self, inbound: Records, me: Party, held: dict[Address, bytes], shares: dict[Address, bytes]) -> None:
        """Verify what the server relayed, and open it.

        Raises:
            PrivacyRefusal: this party has answered this attempt before.
            ProtocolError: something is not as its client sent it; the client is named.
        """
        if not me.own.store.claim(f"revealed-{me.run}-{me.round}-{me.attempt}"):
            raise PrivacyRefusal(f"round {me.round} was revealed before, in this attempt")
        contributors, manifests = str(inbound.get("contributors")).split(","), bytes_of(inbound, "manifests")
        size, index = manifest_bytes(len(self.roles)), self.roles.index(me.address)
        if len(set(contributors)) < len(contributors) or len(manifests) != size * len(contributors):
            raise ProtocolError("contributors and their manifests do not match")
        for place, client in enumerate(contributors):
            manifest = manifests[size * place : size * (place + 1)]
            try:
                check_manifest(manifest, client, len(self.roles), me)
                box = bytes_of(inbound, client)
                check_box(manifest, index, box)
                header = me.header("mpc share", client, me.address)
                shares[client] = open_box(me.own.identity, me.own.roster, header, box)
            except ProtocolError as error:
                raise type(error)(f"what came of {client} is not what it sent: {error}") from error
            held[client] = manifest


def revealed(share_D: Elements) -> Elements:
    """The sum of all parties' shares, shape (D,), which CrypTen computes between them.

    CrypTen's ring is that of 64 bits, of which a narrower one is a quotient.

    Raises:
        RuntimeFailure: a party is gone, or does not answer.
    """
    from privacy.crypten_compat import crypten

    share = torch.from_numpy(share_D.astype(np.int64))
    try:
        total = crypten.mpc.MPCTensor.from_shares(share, precision=0).reveal()
    except RuntimeError as error:
        raise RuntimeFailure(f"the parties could not reveal together: {reason(error)}") from error
    return cast(Elements, total.numpy().astype(share_D.dtype))


def _digest(vector_D: Sum, contributors: Sequence[Address]) -> bytes:
    """What all parties must report alike."""
    return hashlib.sha256(np.ascontiguousarray(vector_D).tobytes() + ",".join(contributors).encode()).digest()
