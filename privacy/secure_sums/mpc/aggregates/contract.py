"""The interface of the aggregates that parties compute over additive shares and open, and the checks of their range.

A contribution is `[v * update, v]` in fixed point: an integer x stands for x / 2^fractional_bits, and its shares add up
to x modulo 2^64. Shapes: C contributors, L = D + 1 values of a contribution, D values of an update.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ConfigError
from privacy.randomness import Randomness
from privacy.secure_sums.vectors import VectorSpec

if TYPE_CHECKING:
    from privacy.noise.parties import PartyNoise

RING_BITS = 64
SIGNED_LIMIT = 1 << (RING_BITS - 1)  # a value must stay below this, or it comes out negative
BLOCK = 64  # circuits work on this number of coordinates at a time, or on a multiple
BYTES_PER_VALUE = 240  # measured peak memory of a circuit: some 30 tensors
MIB = 1 << 20
UPDATE_AND_WEIGHT = 2  # number of segments of a spec when no mechanism adds values


class Aggregate(ABC):
    """One function of all contributions. The parties open its value and nothing else.

    `linear` is True where it needs no products, so no dealer. `uniform` is True where it needs equal weights, all of
    them 1. A linear aggregate also accepts contributions that are already added up, as one contribution.
    """

    name: str
    linear = False
    uniform = False

    @abstractmethod
    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:
        """Check the range of all values before anything is shared among the parties.

        Raises:
            ConfigError: a value or a sum may leave its range; the message gives the arithmetic.
        """

    def reveal(
        self, shares_CL: torch.Tensor, fractional_bits: int, randomness: Randomness, least: int = 0
    ) -> NDArray[np.float64]:
        """The opened aggregate, shape (L,): a sum of updates, then the total weight. Every party makes the same call.

        `shares_CL` are this party's shares, int64, on the device to compute on; `randomness` is this party's own. At
        `least` so many contributions must count in what is opened.

        Raises:
            PeerLost: a peer or the dealer is dead or stalled.
            TooFewContributors: fewer contributors than the aggregate needs.
        """
        from privacy.secure_sums.mpc.crypten import party as crypten_party

        assert shares_CL.dtype == torch.int64
        with crypten_party.computing():
            return self._revealed(shares_CL, fractional_bits, randomness, least)

    def noise(self, parties: int, fractional_bits: int) -> "PartyNoise | None":  # noqa: ARG002
        """The noise that the parties add, in steps of 2^-fractional_bits; None where they add none.

        Raises:
            ConfigError: they cannot add it.
        """
        return None

    def limits(self, spec: VectorSpec) -> Iterator[str]:  # noqa: ARG002
        """Sentences for the threat card about what the opened value tells of few clients."""
        yield from ()

    @abstractmethod
    def _revealed(
        self, shares_CL: torch.Tensor, fractional_bits: int, randomness: Randomness, least: int
    ) -> NDArray[np.float64]:
        """Compute `reveal` while all parties are known to be connected."""


def decoded(integers: torch.Tensor, fractional_bits: int) -> NDArray[np.float64]:
    """The values that fixed-point integers stand for."""
    values: NDArray[np.float64] = integers.cpu().numpy() / 2.0**fractional_bits
    return values


def require_range(spec: VectorSpec, fractional_bits: int, noise: float = 0.0) -> None:
    """Refuse a spec under which a sum over the cohort plus `noise` (in integer steps) may reach 2^63.

    Raises:
        ConfigError: a sum may reach it, or a segment has no bound.
    """
    key = "secure_sum"
    spec.require_bounds(key)
    bound = max(segment.bound for segment in spec.segments)
    if fractional_bits < 0 or spec.cohort_size * _steps(bound, fractional_bits) + noise >= SIGNED_LIMIT:
        most = int(math.log2((SIGNED_LIMIT - noise) / spec.cohort_size / bound)) if noise < SIGNED_LIMIT else 0
        arithmetic = f"{spec.cohort_size} contributions up to {bound:g}" + (" and the noise" if noise else "")
        allowed = f"{arithmetic} must stay below 2^63 / 2^fractional_bits: from 0 to {most}"
        raise ConfigError.of(f"{key}.fractional_bits", fractional_bits, allowed)


def _steps(bound: float, fractional_bits: int) -> float:
    return math.ldexp(bound, fractional_bits) + 1


def require_updates(aggregate: str, spec: VectorSpec) -> None:
    """Refuse residues, which have no size to compare, and values that a mechanism adds, which are not of the update.

    Raises:
        ConfigError: the spec declares either.
    """
    if spec.modulus_bits is not None:
        allowed = "compares or noises values, and the mechanism releases residues: use secure_sum/aggregate=sum"
        raise ConfigError.of("secure_sum/aggregate", aggregate, allowed)
    if len(spec.segments) > UPDATE_AND_WEIGHT:
        allowed = "an adaptive clip adds values, and they would be treated as part of the update: set adaptive=false"
        raise ConfigError.of("secure_sum/aggregate", aggregate, allowed)


def blocks(length: int, contributors: int, memory_mib: float) -> Iterator[slice]:
    """Slices of coordinates, each a multiple of 64 long but the last, that the circuits can process in `memory_mib`."""
    size = max(BLOCK, int(memory_mib * MIB / (BYTES_PER_VALUE * contributors)) // BLOCK * BLOCK)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
