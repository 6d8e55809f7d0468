"""CrypTen in a party's process: started once, over gloo between the parties, and stopped.

CrypTen keeps its communicator in global variables, so a process is one party, or the dealer. gloo sends in the clear
and authenticates nobody: the parties meet on the loopback, or through a tunnel that encrypts and authenticates.

A peer that is dead or stalled ends whatever waits for it within the patience of the meeting, as a `PeerLost`.
Which one it was, gloo does not say. After that the streams of the parties may have come apart: nothing is computed
until a new start.
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

PROBES = 8  # words that are opened to see whether all agree

_meter: PartyMeter | None = None  # of the party that this process is, once started
_patience_s = 0.0


class Communicator(DistributedCommunicator):  # type: ignore[misc]
    """CrypTen's communicator with a timeout, from arguments where CrypTen reads environment variables.

    It counts what is sent and received. CrypTen counts 2 tensors for a sum over the parties, whatever their number;
    gloo's ring takes 4 (P - 1) / P, which the counters of the network interface confirm.
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
        """The sum over the parties, of one tensor or of several in one round."""
        result = super().all_reduce(input, op=op, batched=batched)
        words = sum(one.nelement() for one in (input if batched else [input]))
        self.comm_bytes += self.BYTES_PER_ELEMENT * words * (4 * (self.world_size - 1) / self.world_size - 2)
        return result

    def send_words(self, words: torch.Tensor, to: int) -> None:
        """One tensor to a member, the dealer being one."""
        with self._counting(words):
            dist.send(words, to, group=self.ttp_group)

    def receive_words(self, size: torch.Size, sender: int) -> torch.Tensor:
        """What `send_words` sends, int64."""
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
    """Be the party of this rank; returns when all parties, and the dealer if there is one, are there and agree.

    Without a rendezvous they meet in a new file in the folder `private`, on one machine; with one, party 0 listens
    there. gloo is bound to the loopback, or to the tunnel. `pair_keys` holds a key of 32 bytes by the rank of each
    neighbour on the ring of parties, and of the dealer. Without a dealer only linear aggregates can be computed, unless
    party 0 deals (CrypTen's TFP).

    Raises:
        ConfigError: a tunnel that is no interface here, or a missing key.
        RuntimeFailure: somebody did not come in time, or has other keys.
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
    """Be the dealer, until party 0 stops. `pair_keys` holds the key shared with each party, by rank.

    Raises:
        ConfigError, RuntimeFailure: as for `start`; or party 0 is gone.
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
    """Connect, and leave again if what follows fails."""
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
    """What gloo is bound to; left alone, it takes the interface of the machine's name."""
    interfaces = psutil.net_if_addrs()
    if tunnel is not None and tunnel not in interfaces:
        raise ConfigError.of("secure_sum.tunnel", tunnel, f"is no network interface here: {', '.join(interfaces)}")
    loopback = (name for name, found in interfaces.items() if any(one.address == "127.0.0.1" for one in found))
    return tunnel or str(next(loopback))


def _store(rank: int, meeting: Meeting, private: Path) -> Any:
    """Where the members find one another. Party 0 listens on the rendezvous' own address, where torch would on all."""
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
    """Everybody's nonce, in the order of ranks: every key of this session depends on them."""
    mine = torch.tensor(list(nonce), dtype=torch.uint8)
    found = [torch.empty_like(mine) for _ in range(members)]
    dist.all_gather(found, mine, group=crypten.communicator.get().ttp_group)
    return b"".join(bytes(one.tolist()) for one in found)


def _check_agreement(multiply: bool) -> None:
    """Open a zero-share and a product: with another key anywhere they come out as noise, as all else would."""
    zero = ArithmeticSharedTensor.PRZS((PROBES,)).reveal()
    product = torch.ones(PROBES, dtype=torch.long)
    if multiply:
        one = ArithmeticSharedTensor(product, precision=0, src=0)
        product = one.mul(one).reveal()
    if zero.any() or (product != 1).any():
        raise RuntimeFailure("the parties or the dealer hold different pair keys")


@contextmanager
def computing() -> Iterator[None]:
    """Around what the parties compute together.

    Raises:
        PeerLost: a peer is dead or stalled; this process is no party any more.
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
        raise PeerLost(f"party/{rank} lost another: {said}") from error


def spent() -> Spent:
    """What this party used since the last call."""
    assert _meter is not None, "no party has been started in this process"
    return _meter.take()


def dealer_spent() -> Spent:
    """What the dealer used since the last call; party 0 alone can ask.

    Raises:
        PeerLost: the dealer is gone.
    """
    with computing():
        used: Spent = ttp_provider.TTPClient.get().spent()
    return used


def stop(broken: bool = False) -> None:
    """Leave; party 0 stops the dealer, unless it may be gone."""
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
