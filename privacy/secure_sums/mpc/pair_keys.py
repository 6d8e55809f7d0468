"""Keys that each two members of a meeting share, derived from their pinned X25519 keys."""

from typing import TYPE_CHECKING

from privacy.sealing import Header
from privacy.secure_sums.meeting import Meeting

if TYPE_CHECKING:
    from privacy.addresses import Address
    from privacy.secure_sums.contract import Credentials


def pair_keys(me: "Address", own: "Credentials", meeting: Meeting, run: str) -> dict[int, bytes]:
    """The keys of 32 bytes that a member shares with each of the others, by their ranks, for one configuration.

    Raises:
        UnknownSender: the roster lacks one of them.
    """
    others = {rank: peer for rank, peer in enumerate(meeting.members) if peer != me}
    return {rank: own.identity.shared(own.roster[peer], _pair(run, me, peer), b"") for rank, peer in others.items()}


def _pair(run: str, me: "Address", peer: "Address") -> Header:
    """The same at both ends."""
    return Header("mpc pair", run, 0, "", "", *sorted((me, peer)))
