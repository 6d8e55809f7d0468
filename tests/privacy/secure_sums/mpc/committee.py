"""Real parties for tests: CrypTen in spawned processes, started once and asked many times."""

import hashlib
import multiprocessing
import socket
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privacy.randomness import SeededRandomness
from privacy.secure_sums.meeting import Meeting
from privacy.secure_sums.mpc.aggregates.contract import Aggregate

TIMEOUT_S = 60.0
PATIENCE_S = 120.0
SPAWN = multiprocessing.get_context("spawn")


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pair_keys(rank: int, parties: int) -> dict[int, bytes]:
    """The same key at both ends; `parties` is the rank of the dealer."""
    return {
        peer: hashlib.sha256(f"{min(rank, peer)} {max(rank, peer)}".encode()).digest()
        for peer in range(parties + 1)
        if peer != rank
    }


class Committee:
    """Parties, and by default a dealer. A function of a module is called in all of them at once.

    Roles in `missing` are never started.
    """

    def __init__(
        self,
        parties: int,
        patience_s: float = TIMEOUT_S,
        dealer: bool = True,
        keys: Callable[[int, int], dict[int, bytes]] = pair_keys,
        missing: int | None = None,
        private: Path | None = None,
        insecure_provider: bool = False,
    ) -> None:
        self.parties = parties
        meeting = Meeting(
            tuple(f"party/{rank}" for rank in range(parties)),
            patience_s / 0.75,
            None if private else f"tcp://127.0.0.1:{free_port()}",
            dealer="dealer" if dealer else None,
            insecure_provider=insecure_provider,
        )
        pipes = [SPAWN.Pipe() for _ in range(parties + dealer)]
        targets = [_party] * parties + [_dealer] * dealer
        self.processes = [
            SPAWN.Process(target=target, args=(rank, meeting, private or Path(), keys(rank, parties), theirs))
            for rank, (target, (_, theirs)) in enumerate(zip(targets, pipes, strict=True))
        ]
        for rank, process in enumerate(self.processes):
            if rank != missing:
                process.start()
        for _, theirs in pipes:
            theirs.close()
        self.pipes = [ours for ours, _ in pipes]
        self._calls = 0

    def started(self) -> list[Any]:
        """The result of each party's start: True, or the error."""
        return [self.answer(rank) for rank in range(self.parties)]

    def answer(self, rank: int) -> Any:
        """The next answer of a party, with a time limit."""
        assert self.pipes[rank].poll(PATIENCE_S), f"party {rank} says nothing"
        return self.pipes[rank].recv()

    def send(self, function: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> None:
        """Let each party call a function with its own arguments."""
        for pipe, own in zip(self.pipes, arguments, strict=False):
            pipe.send((function, own))

    def call(self, function: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """The results, by party; an error is raised here."""
        self.send(function, arguments)
        results = [self.answer(rank) for rank in range(self.parties)]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def reveal(
        self, aggregate: Aggregate, contributions_CL: np.ndarray, fractional_bits: int, least: int = 0
    ) -> np.ndarray:
        """Share integers, aggregate, and check that all parties open the same result."""
        self._calls += 1
        common = fractional_bits, self._calls, least
        own = [(aggregate, shares, *common) for shares in shared(contributions_CL, self.parties)]
        first, *others = self.call(reveal, own)
        for other in others:
            np.testing.assert_array_equal(first, other)
        return first

    def close(self) -> None:
        """End all processes; those that do not stop are killed."""
        for pipe in self.pipes[: self.parties]:
            with suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            if process.pid is None:
                continue
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for pipe in self.pipes:
            pipe.close()


def shared(contributions: np.ndarray, parties: int) -> list[np.ndarray]:
    """Uniform shares that add up to the integers modulo 2^64."""
    generator = np.random.default_rng(np.abs(contributions.ravel()[:1]).astype(np.uint64))
    shares = [generator.integers(-(2**63), 2**63, contributions.shape, np.int64) for _ in range(parties - 1)]
    return [*shares, contributions - sum(shares)]


def reveal(aggregate: Aggregate, shares: np.ndarray, fractional_bits: int, call: int, least: int = 0) -> np.ndarray:
    """Reveal in the process of a party."""
    from privacy.secure_sums.mpc.crypten.compat import crypten

    own = SeededRandomness("reveal", call, crypten.communicator.get().get_rank())
    return aggregate.reveal(torch.from_numpy(shares), fractional_bits, own, least)


def _party(rank: int, meeting: Meeting, private: Path, keys: dict[int, bytes], pipe: Any) -> None:
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        crypten_party.start(rank, meeting, private, keys)
        pipe.send(True)
        while (asked := pipe.recv()) is not None:
            pipe.send(_answer(*asked))
        crypten_party.stop()
    except Exception as error:
        traceback.print_exc()
        pipe.send(error)


def _answer(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return error


def _dealer(rank: int, meeting: Meeting, private: Path, keys: dict[int, bytes], pipe: Any) -> None:
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    crypten_party.serve_dealer(meeting, private, keys)
