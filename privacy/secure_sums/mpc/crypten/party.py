"""CrypTen in a party's process: started once, over gloo between the parties, and stopped.

CrypTen keeps its communicator in global variables, so a process is one party, or the dealer. gloo sends in the clear
and authenticates nobody: the parties meet on the loopback, or through a tunnel that encrypts and authenticates.

A dead or stalled peer ends every wait for it with `PeerLost`, within the patience of the meeting. gloo does not say
which peer it was. After that the parties' streams may be out of step, so nothing is computed until a new start.
"""

import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from privacy.errors import ConfigError, PeerLost, RuntimeFailure
from privacy.randomness import OsRandomness, Randomness
from privacy.secure_sums.meeting import Meeting, reason
from privacy.secure_sums.mpc.crypten.compat import (
    ArithmeticSharedTensor,
    DistributedCommunicator,
    crypten,
    ttp_provider,
)
from privacy.secure_sums.mpc.crypten.dealer import Client, Dealer, PartyMeter, Spent
from privacy.secure_sums.mpc.crypten.streams import draw_from_streams, install, link, pair_key_of

PROBES = 8  # number of words that are opened to check that all keys agree

_meter: PartyMeter | None = None  # the meter of this process's party, once it has started
_patience_s = 0.0


class Communicator(DistributedCommunicator):  # type: ignore[misc]
    """CrypTen's communicator with a timeout, from arguments where CrypTen reads environment variables.

    It counts sent and received bytes. CrypTen counts 2 tensors for a sum over the parties, whatever their number;
    gloo's ring sends and receives 4 (P - 1) / P tensors, which the counters of the network interface confirm.
    """

    def __init__(self, rank: int, parties: int, dealer: bool, store: Any, timeout_s: float) -> None:
        members = parties + dealer
        timeout = timedelta(seconds=timeout_s)
        self.rank = rank
        self.world_size = parties
        self.ttp_initialized = dealer
        self.distributed_backend = "gloo"
        self._name = f"rank{rank}"
        self.reset_communication_stats()
        dist.init_process_group("gloo", store=store, rank=rank, world_size=members, timeout=timeout)
        self.ttp_group = dist.new_group(list(range(members)), timeout=timeout)
        self.main_group = dist.new_group(list(range(parties)), timeout=timeout)

    def all_reduce(self, input: Any, op: Any = dist.ReduceOp.SUM, batched: bool = False) -> Any:
        """Return the sum over the parties, of one tensor or of several in one round."""
        result = super().all_reduce(input, op=op, batched=batched)
        words = sum(one.nelement() for one in (input if batched else [input]))
        self.comm_bytes += self.BYTES_PER_ELEMENT * words * (4 * (self.world_size - 1) / self.world_size - 2)
        return result

    def send_words(self, words: torch.Tensor, to: int) -> None:
        """Send one tensor to a member: a party or the dealer."""
        with self._counting(words):
            dist.send(words, to, group=self.ttp_group)

    def receive_words(self, size: torch.Size, sender: int) -> torch.Tensor:
        """Receive one tensor that `send_words` sent, int64."""
        words = torch.empty(size, dtype=torch.long)
        with self._counting(words):
            dist.recv(words, sender, group=self.ttp_group)
        return words

    @contextmanager
    def _counting(self, words: torch.Tensor) -> Iterator[None]:
        self._log_communication(words.nelement())
        begun = time.perf_counter()
        yield
        self._log_communication_time(time.perf_counter() - begun)


def start(
    rank: int, meeting: Meeting, private: Path, pair_keys: Mapping[int, bytes], randomness: Randomness | None = None
) -> None:
    """Start this process as the party of this rank; return when all parties, and the dealer if any, have agreed.

    Without a rendezvous the members meet in a new file in the folder `private`, on one machine; with a rendezvous,
    party 0 listens at it. gloo is bound to the loopback, or to the tunnel. `pair_keys` holds a key of 32 bytes by the
    rank of each neighbour on the ring of parties, and of the dealer. Without a dealer only linear aggregates can be
    computed, unless party 0 deals (CrypTen's TFP).

    Raises:
        ConfigError: the tunnel is not a network interface of this machine, or a key is missing.
        RuntimeFailure: a member did not come in time, or holds different keys.
    """
    global _meter, _patience_s
    assert _meter is None, "this process is a party already"
    parties = len(meeting.parties)
    dealer = meeting.dealer is not None
    assert 0 <= rank < parties
    randomness = OsRandomness() if randomness is None else randomness
    with _joining(rank, meeting, private):
        nonces = _exchange(randomness.key(), parties + dealer)
        install(rank, parties, pair_keys, nonces, randomness)
        shared = link(pair_key_of(pair_keys, parties), nonces, f"dealer {rank}") if dealer else None
        ttp_provider.TTPClient = Client(shared)
        crypten.cfg.mpc.provider = "TFP" if meeting.insecure_provider else "TTP"
        _check_agreement(multiply=dealer or meeting.insecure_provider)
    _meter = PartyMeter()
    _patience_s = meeting.patience_s
    spent()


def serve_dealer(
    meeting: Meeting, private: Path, pair_keys: Mapping[int, bytes], randomness: Randomness | None = None
) -> None:
    """Run this process as the dealer until party 0 stops it. `pair_keys` holds the key shared with each party, by rank.

    Raises:
        ConfigError, RuntimeFailure: as for `start`; or the connection to party 0 is lost.
    """
    parties = len(meeting.parties)
    randomness = OsRandomness() if randomness is None else randomness
    with _joining(parties, meeting, private):
        nonces = _exchange(randomness.key(), parties + 1)
        streams = {i: link(pair_key_of(pair_keys, i), nonces, f"dealer {i}") for i in range(parties)}
        draw_from_streams()
        Dealer(streams).serve()
        crypten.uninit()


@contextmanager
def _joining(rank: int, meeting: Meeting, private: Path) -> Iterator[None]:
    """Connect to the other members, and leave again if the body of the `with` statement fails."""
    os.environ["GLOO_SOCKET_IFNAME"] = _interface(meeting.tunnel)
    crypten.cfg.communicator.verbose = True  # without it nothing is counted
    dealer = meeting.dealer is not None
    try:
        store = _store(rank, meeting, private)
        DistributedCommunicator.instance = Communicator(rank, len(meeting.parties), dealer, store, meeting.patience_s)
        yield
    except (RuntimeError, OSError) as error:
        _leave(stop_dealer=False)
        who = meeting.members[rank]
        raise RuntimeFailure(f"{who} could not join the other parties: {reason(error)}") from error
    except BaseException:
        _leave(stop_dealer=False)
        raise


def _interface(tunnel: str | None) -> str:
    """Return the network interface for gloo; by default gloo would take the interface of the host name."""
    interfaces = psutil.net_if_addrs()
    if tunnel is not None and tunnel not in interfaces:
        allowed = f"is not a network interface of this machine: {', '.join(interfaces)}"
        raise ConfigError.of("secure_sum.tunnel", tunnel, allowed)
    loopback = (name for name, found in interfaces.items() if any(one.address == "127.0.0.1" for one in found))
    return tunnel or str(next(loopback))


def _store(rank: int, meeting: Meeting, private: Path) -> Any:
    """Return the store in which the members find one another.

    Party 0 listens on the rendezvous' own address only; torch by itself would listen on all addresses.
    """
    members = len(meeting.members)
    patience = timedelta(seconds=meeting.patience_s)
    if meeting.rendezvous is None:
        store = dist.FileStore(str(private / "rendezvous"), members)  # type: ignore[attr-defined]
        store.set_timeout(patience)
        return store
    host, port = meeting.address
    listening = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family).detach()
    return dist.TCPStore(host, port, members, rank == 0, patience, master_listen_fd=listening)  # type: ignore[attr-defined]


def _exchange(nonce: bytes, members: int) -> bytes:
    """Return the nonces of all members, in the order of ranks: every key of this session depends on them."""
    mine = torch.tensor(list(nonce), dtype=torch.uint8)
    found = [torch.empty_like(mine) for _ in range(members)]
    dist.all_gather(found, mine, group=crypten.communicator.get().ttp_group)
    return b"".join(bytes(one.tolist()) for one in found)


def _check_agreement(multiply: bool) -> None:
    """Open a zero-share and a product: if any two keys differ, both come out as noise, as would every later result."""
    zero = ArithmeticSharedTensor.PRZS((PROBES,)).reveal()
    product = torch.ones(PROBES, dtype=torch.long)
    if multiply:
        one = ArithmeticSharedTensor(product, precision=0, src=0)
        product = one.mul(one).reveal()
    if zero.any() or (product != 1).any():
        raise RuntimeFailure("the parties or the dealer hold different pair keys")


@contextmanager
def computing() -> Iterator[None]:
    """Guard a joint computation of the parties: the body of the `with` statement.

    Raises:
        PeerLost: a peer is dead or stalled; this process has stopped being a party.
    """
    assert _meter is not None, "no party has been started in this process"
    rank = crypten.communicator.get().get_rank()
    try:
        yield
    except PeerLost:
        stop(broken=True)
        raise
    except RuntimeError as error:
        stop(broken=True)
        said = f"it ended, or said nothing for {_patience_s:g} s ({reason(error)})"
        raise PeerLost(f"party/{rank} lost another party or the dealer: {said}") from error


def spent() -> Spent:
    """Return the resources that this party used since the last call."""
    assert _meter is not None, "no party has been started in this process"
    return _meter.take()


def dealer_spent() -> Spent:
    """Return the resources that the dealer used since the last call; only party 0 can ask.

    Raises:
        PeerLost: the connection to the dealer is lost.
    """
    with computing():
        used: Spent = ttp_provider.TTPClient.get().spent()
    return used


def stop(broken: bool = False) -> None:
    """Stop being a party. Party 0 also stops the dealer, unless `broken` says that the dealer may be gone."""
    global _meter
    _meter = None
    _leave(stop_dealer=not broken)


def _leave(stop_dealer: bool) -> None:
    if not dist.is_initialized():
        DistributedCommunicator.instance = None
        return
    communicator = DistributedCommunicator.instance
    if communicator is None:
        dist.destroy_process_group()
        return
    communicator.ttp_initialized = communicator.ttp_initialized and stop_dealer
    with suppress(RuntimeError), warnings.catch_warnings():
        crypten.uninit()
