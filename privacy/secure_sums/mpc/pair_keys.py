"""Keys that each two members of a meeting share, derived from their pinned X25519 keys."""

from typing import TYPE_CHECKING

from privacy.sealing import Header
from privacy.secure_sums.meeting import Meeting

if TYPE_CHECKING:
    from privacy.addresses import Address
    from privacy.secure_sums.contract import Credentials


def pair_keys(me: "Address", own: "Credentials", meeting: Meeting, run: str) -> dict[int, bytes]:
    """The 32-byte keys that a member shares with each other member, by the other's rank, for one configuration.

    Raises:
        UnknownSender: the roster lacks one of the members.
    """
    others = {rank: peer for rank, peer in enumerate(meeting.members) if peer != me}
    return {rank: own.identity.shared(own.roster[peer], _pair(run, me, peer), b"") for rank, peer in others.items()}


def _pair(run: str, me: "Address", peer: "Address") -> Header:
    """The header of a pair key, the same at both ends."""
    first, second = sorted((me, peer))
    return Header("mpc pair", run, 0, "", "", first, second)
