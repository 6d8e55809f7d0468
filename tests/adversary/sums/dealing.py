"""A dealer of CrypTen's that does not follow the protocol, and two honest parties: three processes, asked many times.

A dealer speaks with party 0 alone, and every act is an answer to one of its requests. The streams from which the
parties draw their own parts are derived by the parties: no act reaches them.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from privacy.errors import FedveilError
from privacy.secure_sums.meeting import Meeting
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.crypten import bit_circuits
from privacy.secure_sums.mpc.crypten import party as crypten_party
from privacy.secure_sums.mpc.crypten.compat import crypten
from privacy.secure_sums.mpc.crypten.dealer import Dealer
from privacy.secure_sums.mpc.crypten.streams import Stream
from tests.privacy.secure_sums.mpc.committee import pair_keys, shared

PARTIES = 2
PATIENCE_S = 10.0  # of the parties, which share a busy machine
HANG_S = 240.0


@dataclass
class Known:
    """What a dealer has at the end: the requests, and the sums of the masks that it dealt, in their order."""

    requests: list[tuple[str, Sequence[Any]]] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Heard:
    """What a party has at the end: the result, or the error; all opened words; its own parts of the words' masks."""

    result: np.ndarray | Exception
    opened: list[np.ndarray]
    own_masks: list[np.ndarray]


@dataclass(frozen=True)
class Played:
    """A round under a dealer."""

    parties: list[Heard]
    dealer: Known


class Rogue(Dealer):
    """A dealer whose answers pass through an act."""

    def __init__(self, streams: Mapping[int, Stream], act: "Act", known: Known) -> None:
        super().__init__(streams)
        self.act = act
        self.known = known

    def answer(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Deal honestly until the parties have checked their keys, then act."""
        self.known.requests.append((function, tuple(args)))
        words = getattr(self, function)(*args, **kwargs)
        if len(self.known.requests) == 1:
            self.send(words)
        else:
            self.act(self, function, words)

    def words(self, size: torch.Size) -> torch.Tensor:
        mask = self._get_additive_PRSS(size)
        self.known.masks.append(mask.numpy().copy())
        return mask ^ self._get_binary_PRSS(size, remove_rank=True)


Act = Callable[[Rogue, str, torch.Tensor], None]  # the last argument is the honest answer


# ---- acts


def honest(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    dealer.send(words)


def wrong(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    generator = np.random.default_rng(len(dealer.known.requests))
    dealer.send(torch.from_numpy(generator.integers(-(2**63), 2**63, tuple(words.size()), np.int64)))


def zeros(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    dealer.send(torch.zeros_like(words))


_first: dict[tuple[int, str, torch.Size], torch.Tensor] = {}


def same(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    """The first answer of this kind and size, again and again."""
    dealer.send(_first.setdefault((id(dealer), function, words.size()), words))


def twice(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    """Two answers to one request."""
    dealer.send(words)
    dealer.send(words)


def nothing(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    pass


def gone(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    raise RuntimeError("the dealer ends")


def late(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    time.sleep(0.05)
    dealer.send(words)


def fewer(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    dealer.send(words.flatten()[:1])


def fewer_than_said(dealer: Rogue, function: str, words: torch.Tensor) -> None:
    _say(words.size(), words.flatten()[:-1])


def said(size: Any, dealer: Rogue, function: str, words: torch.Tensor) -> None:
    """Any object in the place of the shape."""
    _say(size, words)


def shifted(shift_CN: np.ndarray, dealer: Rogue, function: str, words: torch.Tensor) -> None:
    """Bits of another mask than the one that hides the values: each value comes out moved by as much."""
    if function == "words":
        mask = torch.from_numpy(dealer.known.masks[-1])
        moved = mask - torch.from_numpy(shift_CN)
        words = words ^ mask ^ moved
    dealer.send(words)


def _say(size: Any, words: torch.Tensor) -> None:
    communicator = crypten.communicator.get()
    communicator.send_obj(size, 0, communicator.ttp_group)
    communicator.send_words(words, 0)


# ---- the three processes


class Table:
    """Two parties and a dealer, whose processes outlive a round; each round is a session with keys of its own."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, spawn) for _ in range(PARTIES + 1)]
        wait([pool.submit(_ready) for pool in self._pools], HANG_S)  # the imports take longer than a party waits

    def play(self, act: Act, contributions_CL: np.ndarray, aggregate: Mapping[str, Any]) -> Played:
        """A round of an aggregate over integers, under a dealer that does `act`."""
        roles = tuple(f"party/{rank}" for rank in range(PARTIES))
        meeting = Meeting(roles, PATIENCE_S / 0.75, dealer="dealer")
        *parties, dealer = self._pools
        with TemporaryDirectory() as folder:
            terms = meeting, Path(folder)
            dealing = dealer.submit(_deal, *terms, act)
            shares = enumerate(shared(contributions_CL, PARTIES))
            heard = [parties[rank].submit(_compute, rank, *terms, own, aggregate) for rank, own in shares]
            wait([*heard, dealing], HANG_S)  # so that nobody comes late to the next round
            return Played([one.result(HANG_S) for one in heard], dealing.result(HANG_S))

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown()


def _ready() -> None:
    importlib.import_module("torch.distributed.tensor")  # gloo imports it at a meeting, and the others would wait
    torch.set_num_threads(1)


def _deal(meeting: Meeting, private: Path, act: Act) -> Known:
    known = Known()
    try:
        with patch.object(crypten_party, "Dealer", partial(Rogue, act=act, known=known)):
            crypten_party.serve_dealer(meeting, private, pair_keys(PARTIES, PARTIES))
    except (RuntimeError, FedveilError):  # the parties have left, or the act ends the dealer
        pass
    return known


def _compute(rank: int, meeting: Meeting, private: Path, shares_CL: np.ndarray, aggregate: Mapping[str, Any]) -> Heard:
    opened: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    reduce = crypten_party.Communicator.all_reduce
    deal = bit_circuits.word_masks

    def noted_reduce(self: Any, input: Any, *args: Any, batched: bool = False, **kwargs: Any) -> Any:
        result = reduce(self, input, *args, batched=batched, **kwargs)
        opened.extend(one.numpy().copy() for one in (result if batched else [result]))
        return result

    def noted_masks(size: torch.Size, device: Any) -> Any:
        additive, bits = deal(size, device)
        masks.append(additive.share.numpy().copy())
        return additive, bits

    try:
        crypten_party.start(rank, meeting, private, pair_keys(rank, PARTIES))
        with (
            patch.object(crypten_party.Communicator, "all_reduce", noted_reduce),
            patch.object(bit_circuits, "word_masks", noted_masks),
        ):
            result = named(**aggregate).reveal(torch.from_numpy(shares_CL), 0, None)  # type: ignore[arg-type]
    except Exception as error:  # the test says which are allowed
        result = error if isinstance(error, FedveilError) else AssertionError(f"{type(error).__name__}: {error}")
    finally:
        if crypten_party._meter is not None:
            crypten_party.stop()
    return Heard(result, opened, masks)
