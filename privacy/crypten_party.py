"""CrypTen in a party's process: started once, over gloo between the parties, and stopped.

CrypTen keeps its communicator in global variables, so a process is one party, or the dealer. gloo sends in the clear
and authenticates nobody: the parties meet on the loopback, or through a tunnel that encrypts and authenticates.

A peer that is dead or stalled ends whatever waits for it within `timeout_s`, as a `RuntimeFailure`. Which one it was,
gloo does not say. After that the streams of the parties may have come apart: nothing is computed until a new start.
"""

import ipaddress
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
import torch.distributed as dist

from privacy.crypten_compat import ArithmeticSharedTensor, DistributedCommunicator, crypten, ttp_provider
from privacy.crypten_dealer import Client, Dealer, Meter, Spent
from privacy.crypten_streams import draw_from_streams, install, link, pair_key_of
from privacy.errors import ConfigError, RuntimeFailure
from privacy.parameters import positive
from privacy.randomness import OsRandomness, Randomness

PROBES = 8  # words that are opened to see whether all agree

_meter: Meter | None = None  # of the party that this process is, once started
_timeout_s = 0.0


class Communicator(DistributedCommunicator):  # type: ignore[misc]
    """CrypTen's communicator with a timeout, from arguments where CrypTen reads environment variables.

    It counts what is sent and received. CrypTen counts 2 tensors for a sum over the parties, whatever their number;
    gloo's ring takes 4 (P - 1) / P, which the counters of the network interface confirm.
    """

    def __init__(self, rank: int, parties: int, dealer: bool, store: Any, timeout_s: float) -> None:
        members, timeout = parties + dealer, timedelta(seconds=timeout_s)
        self.rank, self.world_size, self.ttp_initialized = rank, parties, dealer
        self.distributed_backend, self._name = "gloo", f"rank{rank}"
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
    rank: int,
    parties: int,
    rendezvous: str,
    timeout_s: float,
    *,
    pair_keys: Mapping[int, bytes],
    dealer: bool,
    insecure_provider: bool = False,
    tunnel: str | None = None,
    randomness: Randomness | None = None,
) -> None:
    """Be party `rank`; returns when all parties, and the dealer if there is one, are there and agree.

    `rendezvous` is `tcp://host:port`, where party 0 listens, or on one machine a new file in a private folder,
    `file:///path`. `tunnel` is the network interface of an encrypted tunnel, to which gloo is bound; without one it is
    bound to the loopback. `pair_keys` holds a key of 32 bytes by the rank of each
    neighbour on the ring of parties, and under the rank `parties` the one shared with the dealer. Without a dealer only
    linear aggregates can be computed, unless party 0 deals (`insecure_provider`, CrypTen's TFP), which then could
    read everything.

    Raises:
        ConfigError: an argument out of range, a rendezvous beyond the loopback without a tunnel, an interface that is
            none, a missing key, or a dealer beside the insecure provider.
        RuntimeFailure: somebody did not come within the timeout, or has other keys.
    """
    global _meter, _timeout_s
    assert _meter is None, "this process is a party already"
    if not 0 <= rank < parties:
        raise ConfigError.of("rank", rank, f"must be from 0 to parties - 1 = {parties - 1}")
    if dealer and insecure_provider:
        raise ConfigError.of("insecure_provider", True, "party 0 would deal, and there is a dealer: choose one")
    randomness = OsRandomness() if randomness is None else randomness
    with _joining(rank, parties, dealer, rendezvous, tunnel, timeout_s):
        nonces = _exchange(randomness.key(), parties + dealer)
        install(rank, parties, pair_keys, nonces, randomness)
        shared = link(pair_key_of(pair_keys, parties), nonces, f"dealer {rank}") if dealer else None
        ttp_provider.TTPClient = Client(shared)
        crypten.cfg.mpc.provider = "TFP" if insecure_provider else "TTP"
        _check_agreement(multiply=dealer or insecure_provider)
    _meter, _timeout_s = Meter(), timeout_s
    spent()


def serve_dealer(
    parties: int,
    rendezvous: str,
    timeout_s: float,
    *,
    pair_keys: Mapping[int, bytes],
    tunnel: str | None = None,
    randomness: Randomness | None = None,
) -> None:
    """Be the dealer, until party 0 stops. `pair_keys` holds the key shared with each party, by rank.

    Raises:
        ConfigError: as for `start`.
        RuntimeFailure: somebody did not come within the timeout, or party 0 is gone.
    """
    randomness = OsRandomness() if randomness is None else randomness
    with _joining(parties, parties, True, rendezvous, tunnel, timeout_s):
        nonces = _exchange(randomness.key(), parties + 1)
        streams = {i: link(pair_key_of(pair_keys, i), nonces, f"dealer {i}") for i in range(parties)}
        draw_from_streams()
        Dealer(streams).serve()
        crypten.uninit()


@contextmanager
def _joining(
    rank: int, parties: int, dealer: bool, rendezvous: str, tunnel: str | None, timeout_s: float
) -> Iterator[None]:
    """Connect, and leave again if what follows fails."""
    if parties < 2:
        raise ConfigError.of("parties", parties, "must be at least 2")
    positive("timeout_s", timeout_s)
    place = _place(rendezvous, tunnel)
    os.environ["GLOO_SOCKET_IFNAME"] = _interface(tunnel)
    crypten.cfg.communicator.verbose = True  # without it nothing is counted
    try:
        store = _store(place, rank, parties + dealer, timedelta(seconds=timeout_s))
        DistributedCommunicator.instance = Communicator(rank, parties, dealer, store, timeout_s)
        yield
    except (RuntimeError, OSError) as error:
        _leave(stop_dealer=False)
        raise _lost("the dealer" if rank == parties else f"party/{rank}", timeout_s, error) from error
    except BaseException:
        _leave(stop_dealer=False)
        raise


def _place(rendezvous: str, tunnel: str | None) -> str | tuple[str, int]:
    """A file, or host and port."""
    try:
        parts = urlsplit(rendezvous)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return parts.path
    if parts.scheme != "tcp" or not host or not port:
        raise ConfigError.of("rendezvous", rendezvous, "must be tcp://host:port or file:///path")
    if tunnel is None and not is_loopback(host):
        allowed = "gloo sends in the clear: use 127.0.0.1, or name the interface of an encrypted tunnel"
        raise ConfigError.of("rendezvous", rendezvous, allowed)
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _interface(tunnel: str | None) -> str:
    """What gloo is bound to; left alone, it takes the interface of the machine's name."""
    interfaces = psutil.net_if_addrs()
    if tunnel is not None and tunnel not in interfaces:
        raise ConfigError.of("tunnel", tunnel, f"is no network interface here: {', '.join(interfaces)}")
    loopback = (name for name, found in interfaces.items() if any(one.address == "127.0.0.1" for one in found))
    return tunnel or str(next(loopback))


def _store(place: str | tuple[str, int], rank: int, members: int, timeout: timedelta) -> Any:
    """Where the members find one another. Party 0 listens on the host's own address, where torch would on all."""
    if isinstance(place, str):
        store = dist.FileStore(place, members)  # type: ignore[attr-defined]
        store.set_timeout(timeout)
        return store
    (host, port), listening = place, None
    if rank == 0:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family).detach()
    return dist.TCPStore(host, port, members, rank == 0, timeout, master_listen_fd=listening)  # type: ignore[attr-defined]


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
        RuntimeFailure: a peer is dead or stalled; this process is no party any more.
    """
    assert _meter is not None, "no party has been started in this process"
    rank = crypten.communicator.get().get_rank()
    try:
        yield
    except RuntimeError as error:
        stop(broken=True)
        raise _lost(f"party/{rank}", _timeout_s, error) from error


def _lost(who: str, timeout_s: float, error: Exception) -> RuntimeFailure:
    first = re.sub(r"^\[\S*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]  # gloo begins with its file
    return RuntimeFailure(f"{who} lost another: it ended, never came or said nothing for {timeout_s:g} s ({first})")


def spent() -> Spent:
    """What this party used since the last call."""
    assert _meter is not None, "no party has been started in this process"
    return _meter.take()


def dealer_spent() -> Spent:
    """What the dealer used since the last call; party 0 alone can ask.

    Raises:
        RuntimeFailure: the dealer is gone.
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
