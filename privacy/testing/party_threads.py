"""Parties as threads of this process, over CrypTen's communicator for threads: one thread a party, for all tests.

The processes of parties are tested in `tests/fl/runtimes/`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Queue
from typing import TypeVar

import torch

from privacy.addresses import Address
from privacy.errors import RuntimeFailure
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.mpc.crypten import party as crypten_party
from privacy.secure_sums.mpc.crypten.compat import crypten
from privacy.secure_sums.mpc.crypten.dealer import PartyMeter

T = TypeVar("T")
PATIENCE_S = 30.0  # threads share a busy machine

_threads: list[ThreadPoolExecutor] = []


def submit(size: int, party: int, function: Callable[..., T], *arguments: object) -> "Future[T]":
    """Run a function as one of several parties."""
    if len(_threads) != size:
        _restart(size)
    return _threads[party].submit(function, *arguments)


def _restart(size: int) -> None:
    """Restart CrypTen's communicator, which supports only one number of threads at a time.

    CrypTen's own `init_thread` sends seeds around, which a sum does not use, and mixes them up when a thread is late.
    """
    if _threads:
        crypten.uninit()
    while _threads:
        _threads.pop().shutdown()
    _threads.extend(ThreadPoolExecutor(1) for _ in range(size))
    for kind in crypten.generators.values():
        kind.setdefault(torch.device("cpu"), torch.Generator())
    crypten_party._meter = None
    for rank, thread in enumerate(_threads):
        thread.submit(crypten.communicator._init, use_threads=True, rank=rank, world_size=size).result()
    crypten_party._meter = PartyMeter()  # the state of a process after `start`


class ThreadPeers(Peers):
    """Peers with a queue from each party to each other one."""

    def __init__(
        self,
        me: Address,
        parties: Sequence[Address],
        queues: Mapping[tuple[Address, Address], Queue[bytes]],
        patience_s: float,
    ) -> None:
        self._me = me
        self._parties = parties
        self._queues = queues
        self._patience_s = patience_s

    def exchange(self, message: bytes) -> list[bytes]:
        for party in self._parties:
            self._queues[self._me, party].put(message)
        return [self._from(party) for party in self._parties]

    def _from(self, party: Address) -> bytes:
        try:
            return self._queues[party, self._me].get(timeout=self._patience_s)
        except Empty:
            raise RuntimeFailure(f"{party} did not answer within {self._patience_s:g} s") from None

    def costs(self) -> dict[str, float]:
        return {}


def peers_among(parties: Sequence[Address], patience_s: float = PATIENCE_S) -> dict[Address, ThreadPeers]:
    """The peers of each party, with empty queues."""
    queues: dict[tuple[Address, Address], Queue[bytes]] = {(a, b): Queue() for a in parties for b in parties}
    return {party: ThreadPeers(party, parties, queues, patience_s) for party in parties}
