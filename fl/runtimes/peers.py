"""The channel between parties' processes, without the server: CrypTen over gloo.

gloo is bound to the loopback interface, or to the tunnel that the configuration names. On one machine the parties find
one another through a file in a private folder; over several machines through a store that listens only at the
rendezvous.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from privacy.addresses import Address
from privacy.errors import PeerLost, ProtocolError
from privacy.secure_sums.contract import Credentials
from privacy.secure_sums.meeting import Meeting, Peers, reason
from privacy.secure_sums.mpc.crypten import party as crypten_party
from privacy.secure_sums.mpc.crypten.compat import crypten
from privacy.secure_sums.mpc.crypten.dealer import Spent
from privacy.secure_sums.mpc.pair_keys import pair_keys

MOST_BYTES = 1 << 26  # largest size of a message between parties, which grows with the clients of a cohort


class GlooPeers(Peers):
    """The parties of CrypTen's process group, by rank."""

    def __init__(self, meeting: Meeting, address: Address) -> None:
        self._parties = meeting.parties
        self._rank = meeting.parties.index(address)
        self._patience_s = meeting.patience_s
        self._asks_dealer = meeting.dealer is not None and self._rank == 0
        self._communicator = crypten.communicator.get()
        self._bytes = 0
        self._rounds = 0
        self._wall_s = 0.0

    def exchange(self, message: bytes) -> list[bytes]:
        """Send a message to every other party and receive one from each; see `Peers`."""
        start_s = time.monotonic()
        ends_s = start_s + self._patience_s
        others = [peer for peer in range(len(self._parties)) if peer != self._rank]
        sent = [(peer, work) for peer in others for work in self._send(peer, message, ends_s)]
        answers = [message if peer == self._rank else self._receive(peer, ends_s) for peer in range(len(self._parties))]
        for peer, work in sent:
            self._finish(work, peer, ends_s)
        self._bytes += len(others) * len(message) + sum(len(answers[peer]) for peer in others)
        self._rounds += 1
        self._wall_s += time.monotonic() - start_s
        return answers

    def costs(self) -> dict[str, float]:
        """Return bytes sent and received, rounds and time: those of `exchange` plus CrypTen's own counts.

        The first party also reports the dealer's.
        """
        spent = crypten_party.spent()
        found = {
            "peers.comm_bytes": float(self._bytes + spent.bytes),
            "peers.comm_rounds": float(self._rounds + spent.rounds),
            "peers.comm_wall": self._wall_s + spent.communication_s,
        }
        self._bytes = 0
        self._rounds = 0
        self._wall_s = 0.0
        return found | (_of_dealer(crypten_party.dealer_spent()) if self._asks_dealer else {})

    def _send(self, peer: int, message: bytes, ends_s: float) -> list[dist.Work | None]:
        parts = torch.tensor([len(message)]), torch.from_numpy(np.frombuffer(message, np.uint8).copy())
        with self._naming(peer, ends_s):
            return [dist.isend(part, peer, self._communicator.main_group) for part in parts]

    def _receive(self, peer: int, ends_s: float) -> bytes:
        length = self._taken(torch.zeros(1, dtype=torch.int64), peer, ends_s)
        if not 0 < int(length) <= MOST_BYTES:
            raise ProtocolError(f"{self._parties[peer]} announces a message of {int(length)} bytes")
        return self._taken(torch.zeros(int(length), dtype=torch.uint8), peer, ends_s).numpy().tobytes()

    def _taken(self, tensor: torch.Tensor, peer: int, ends_s: float) -> torch.Tensor:
        with self._naming(peer, ends_s):
            work = dist.irecv(tensor, peer, self._communicator.main_group)
        self._finish(work, peer, ends_s)
        return tensor

    def _finish(self, work: dist.Work | None, peer: int, ends_s: float) -> None:
        assert work is not None, "only a process outside the group gets none"
        with self._naming(peer, ends_s):
            work.wait(timedelta(seconds=max(ends_s - time.monotonic(), 0.001)))

    @contextmanager
    def _naming(self, peer: int, ends_s: float) -> Iterator[None]:
        """Raise gloo's errors as PeerLost with the party's name: gloo itself names at most a port."""
        try:
            yield
        except RuntimeError as error:
            party = self._parties[peer]
            if time.monotonic() >= ends_s:
                raise PeerLost(f"{party} did not answer within {self._patience_s:g} s") from error
            raise PeerLost(f"{party} is gone: {reason(error)}") from error


def _of_dealer(spent: Spent) -> dict[str, float]:
    return {
        "dealer.comm_bytes": float(spent.bytes),
        "dealer.comm_rounds": float(spent.rounds),
        "dealer.comm_wall": spent.communication_s,
        "dealer.cpu": spent.cpu_s,
    }


def join(address: Address, own: Credentials, meeting: Meeting, run: str, private: Path) -> GlooPeers:
    """Join as a party in this process; all parties, and the dealer if there is one, must join at the same time.

    Raises:
        ConfigError: the configured tunnel does not exist.
        RuntimeFailure: not all parties joined, or one has other keys.
    """
    crypten_party.start(meeting.parties.index(address), meeting, private, pair_keys(address, own, meeting, run))
    return GlooPeers(meeting, address)


def leave() -> None:
    """Leave, together with all other parties; the first party also releases the dealer."""
    crypten_party.stop()


def deal(address: Address, own: Credentials, meeting: Meeting, run: str, private: Path) -> None:
    """Act as the dealer in this process, until party 0 leaves; raise as `join`."""
    crypten_party.serve_dealer(meeting, private, pair_keys(address, own, meeting, run))
