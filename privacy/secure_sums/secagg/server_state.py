"""The server's state in one attempt of secure aggregation. It relays sealed boxes that it cannot read.

The shares of one client's secrets are numbered in the order of their holders in the graph, so messages need not name
the holders.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privacy.addresses import Address
from privacy.errors import MalformedContribution, PrivacyRefusal
from privacy.randomness import KEY_BYTES
from privacy.secure_sums.contract import Records, bytes_of
from privacy.secure_sums.secagg.graph import NeighbourRing
from privacy.secure_sums.secagg.keys import (
    PUBLIC_BYTES,
    SIGNATURE_BYTES,
    ClosedList,
    box_bytes,
    parts,
    private_key,
    public_of,
)
from privacy.secure_sums.secagg.shamir import SHARE_BYTES, combine
from privacy.spans import span

Receive = Callable[[Address, Records], None]
BOX_BYTES = box_bytes(2 * SHARE_BYTES)  # around a share of each of a client's secrets


@dataclass
class Collected:
    """The messages received so far. `close` fixes the list of the clients that take part."""

    keys: dict[Address, bytes] = field(default_factory=dict)
    signed: dict[Address, bytes] = field(default_factory=dict)
    boxes: dict[Address, dict[Address, bytes]] = field(default_factory=dict)  # by sender and receiver
    confirmed: dict[Address, bytes] = field(default_factory=dict)
    shares: dict[Address, dict[Address, bytes]] = field(default_factory=dict)  # by owner and holder

    def take_keys(self, address: Address, records: Records) -> None:
        """Store the keys that a client advertises."""
        keys = _exactly(records, "keys", PUBLIC_BYTES)
        signature = _exactly(records, "signed", SIGNATURE_BYTES)
        self.keys[address] = keys
        self.signed[address] = signature

    def close(self, there: Sequence[Address]) -> tuple[ClosedList, Records]:
        """The list of the clients that take part, and the records that send it to each of them."""
        closed = ClosedList.of({address: self.keys[address] for address in there})
        signatures = b"".join(self.signed[address] for address in closed.keys)
        return closed, {"clients": closed.clients, "keys": closed.public, "signatures": signatures}

    def take_boxes(self, ring: NeighbourRing) -> Receive:
        """A receiver of the concatenated boxes that clients seal to their neighbours."""

        def take(address: Address, records: Records) -> None:
            others = ring.neighbours(address)
            boxes = _exactly(records, "boxes", BOX_BYTES * len(others))
            self.boxes[address] = dict(zip(others, parts(boxes, BOX_BYTES), strict=True))

        return take

    def sharers(self, address: Address, ring: NeighbourRing) -> list[Address]:
        """The neighbours of a client that sealed a share to it."""
        return [other for other in ring.neighbours(address) if other in self.boxes]

    def delivery(self, address: Address, ring: NeighbourRing) -> Records:
        """The records for one client: the boxes sealed to it, and their senders."""
        others = self.sharers(address, ring)
        return {"sharers": ",".join(others), "boxes": b"".join(self.boxes[other][address] for other in others)}

    def take_signature(self, address: Address, records: Records) -> None:
        """Store a client's signature over the survivors."""
        self.confirmed[address] = _exactly(records, "signed", SIGNATURE_BYTES)

    def signatures(self, address: Address, ring: NeighbourRing) -> Records:
        """The records for one client: the signatures of its neighbours over the survivors, and the signers."""
        signers = [other for other in ring.holders(address) if other in self.confirmed]
        return {"signers": ",".join(signers), "signatures": b"".join(self.confirmed[other] for other in signers)}

    def take_shares(self, ring: NeighbourRing) -> Receive:
        """A receiver of the shares that clients release: a client's own share first, then in the order of delivery."""

        def take(address: Address, records: Records) -> None:
            owners = [*([address] if ring.plan.complete else []), *self.sharers(address, ring)]
            shares = _exactly(records, "shares", SHARE_BYTES * len(owners))
            for owner, share in zip(owners, parts(shares, SHARE_BYTES), strict=True):
                self.shares.setdefault(owner, {})[address] = share

        return take

    def masks_left(
        self, closed: ClosedList, ring: NeighbourRing, survivors: Sequence[Address], given: bytes
    ) -> tuple[list[bytes], list[bytes]]:
        """The seeds of the masks to be added to the sum, and of those to be subtracted.

        `given` is the digest of what the survivors were given.

        Raises:
            PrivacyRefusal: there are too few shares of a secret, or the shares of a key are wrong.
        """
        there = set(survivors)
        added = list[bytes]()
        subtracted = list[bytes]()
        for client in self.boxes:
            secret = self._recovered(client, ring)
            if client in there:
                subtracted.append(secret)
                continue
            private = private_key(secret)
            if public_of(private) != closed.keys[client][:KEY_BYTES]:
                raise PrivacyRefusal(f"the shares of {client}'s key do not give it: a client released a wrong one")
            with span("agree"):
                for other in filter(there.__contains__, ring.neighbours(client)):
                    seed = closed.mask_seed(private, client, other, given)
                    (subtracted if other < client else added).append(seed)
        return added, subtracted

    def _recovered(self, client: Address, ring: NeighbourRing) -> bytes:
        """The secret of a client that its neighbours released."""
        released: Mapping[Address, bytes] = self.shares.get(client, {})
        if len(released) < ring.plan.threshold:
            raise PrivacyRefusal(
                f"{len(released)} neighbours released their share of {client}'s secret, {ring.plan.threshold} must"
            )
        with span("recover"):
            holders = ring.holders(client)
            shares = {number: released[holder] for number, holder in enumerate(holders, 1) if holder in released}
            return combine(shares, len(holders))


def _exactly(records: Records, name: str, length: int) -> bytes:
    value = bytes_of(records, name)
    if len(value) != length:
        raise MalformedContribution(f"{name} take {length} bytes, got {len(value)}")
    return value
