"""How a party's process joins the others, and reaches them without the server: CrypTen over gloo.

gloo is bound to the loopback interface, or to the tunnel that the configuration names. On one machine the parties find
one another by a file in a private folder; elsewhere by a store that listens at the rendezvous and nowhere else.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import register_rendezvous_handler

from privacy.crypten_compat import crypten
from privacy.errors import ConfigError, ProtocolError, RuntimeFailure
from privacy.peers import Meeting, Peers, reason
from privacy.secure_sum import Address

SCHEME = "fedveil"
MOST_BYTES = 1 << 26  # of a message between parties, which tells of each client of a cohort


class GlooPeers(Peers):
    """The parties of CrypTen's process group, by rank."""

    def __init__(self, parties: Sequence[Address], rank: int, patience_s: float) -> None:
        self._parties, self._rank, self._patience_s = tuple(parties), rank, patience_s
        self._communicator = crypten.communicator.get()
        self._bytes, self._rounds, self._wall_s = 0, 0, 0.0

    def exchange(self, message: bytes) -> list[bytes]:
        """Send every other party a message and take one from each; see `Peers`."""
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
        """Bytes sent and received, rounds, and the time spent in both: of messages, and as CrypTen counts its own."""
        counted = self._communicator.get_communication_stats()
        found = {
            "peers.comm_bytes": float(self._bytes + counted["bytes"]),
            "peers.comm_rounds": float(self._rounds + counted["rounds"]),
            "peers.comm_wall": self._wall_s + float(counted["time"]),
        }
        self._communicator.reset_communication_stats()
        self._bytes, self._rounds, self._wall_s = 0, 0, 0.0
        return found

    def _send(self, peer: int, message: bytes, ends_s: float) -> list[dist.Work | None]:
        parts = torch.tensor([len(message)]), torch.from_numpy(np.frombuffer(message, np.uint8).copy())
        with self._naming(peer, ends_s):
            return [dist.isend(part, peer, self._communicator.main_group) for part in parts]

    def _receive(self, peer: int, ends_s: float) -> bytes:
        length = self._taken(torch.zeros(1, dtype=torch.int64), peer, ends_s)
        if not 0 < int(length) <= MOST_BYTES:
            raise ProtocolError(f"{self._parties[peer]} announces {int(length)} bytes")
        return self._taken(torch.zeros(int(length), dtype=torch.uint8), peer, ends_s).numpy().tobytes()

    def _taken(self, tensor: torch.Tensor, peer: int, ends_s: float) -> torch.Tensor:
        with self._naming(peer, ends_s):
            work = dist.irecv(tensor, peer, self._communicator.main_group)
        self._finish(work, peer, ends_s)
        return tensor

    def _finish(self, work: dist.Work | None, peer: int, ends_s: float) -> None:
        assert work is not None, "only who is outside a group gets none"
        with self._naming(peer, ends_s):
            work.wait(timedelta(seconds=max(ends_s - time.monotonic(), 0.001)))

    @contextmanager
    def _naming(self, peer: int, ends_s: float) -> Iterator[None]:
        """Its errors name a port at best."""
        try:
            yield
        except RuntimeError as error:
            party = self._parties[peer]
            if time.monotonic() >= ends_s:
                raise RuntimeFailure(f"{party} did not answer within {self._patience_s:g} s") from error
            raise RuntimeFailure(f"{party} is gone: {reason(error)}") from error


def join(address: Address, parties: Sequence[Address], meeting: Meeting, private: Path) -> GlooPeers:
    """Start CrypTen in this process, as one of the parties; all of them must do so at a time.

    Without a rendezvous the parties meet in the folder `private`.

    Raises:
        ConfigError: there is no such tunnel.
        RuntimeFailure: not all of them came.
    """
    rank = list(parties).index(address)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(parties)),
        "RENDEZVOUS": _rendezvous(meeting, private),
        "DISTRIBUTED_BACKEND": "gloo",
        "GLOO_SOCKET_IFNAME": _interface(meeting.tunnel),
    }
    # CrypTen leaves torch's default, half an hour, to every operation in its groups
    dist.distributed_c10d.default_pg_timeout = timedelta(seconds=meeting.patience_s)
    try:
        crypten.init()
    except (RuntimeError, OSError) as error:
        raise RuntimeFailure(f"{address} could not join the other parties: {reason(error)}") from error
    crypten.cfg.communicator.verbose = True  # else its communicator counts nothing
    return GlooPeers(parties, rank, meeting.patience_s)


def _rendezvous(meeting: Meeting, private: Path) -> str:
    if meeting.rendezvous is None:
        return f"file://{private / 'rendezvous'}"
    register_rendezvous_handler(SCHEME, _store)  # type: ignore[no-untyped-call]
    return f"{SCHEME}://{urlsplit(meeting.rendezvous).netloc}"


def _store(url: str, timeout: timedelta, **_: object) -> Iterator[tuple[Store, int, int]]:
    """What torch makes of tcp://, but for the address on which its first party listens: torch's listens on all."""
    parts = urlsplit(url)
    asked = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
    rank, size, host, port = asked["rank"], asked["world_size"], str(parts.hostname), int(parts.port or 0)
    listening = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family).detach()
    yield TCPStore(host, port, size, rank == 0, timeout, master_listen_fd=listening), rank, size


def _interface(tunnel: str | None) -> str:
    """The network interface to which gloo is bound; left alone, it takes that of the machine's name."""
    interfaces = psutil.net_if_addrs()
    if tunnel is None:
        return next(str(name) for name, found in interfaces.items() if any(a.address == "127.0.0.1" for a in found))
    if tunnel not in interfaces:
        raise ConfigError.of("secure_sum.tunnel", tunnel, f"is no network interface here: {', '.join(interfaces)}")
    return tunnel
