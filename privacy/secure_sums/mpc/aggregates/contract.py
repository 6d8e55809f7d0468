"""What parties that hold additive shares compute together and open: an aggregate, and the range that it must keep to.

A contribution is `[v * update, v]` in fixed point: an integer x stands for x / 2^fractional_bits, and its shares add up
to it modulo 2^64. Shapes: C contributors, L = D + 1 the length of a contribution, D that of an update.
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
SIGNED_LIMIT = 1 << (RING_BITS - 1)  # what a value stays below, or it comes out negative
BLOCK = 64  # circuits work on so many coordinates at a time, or a multiple
BYTES_PER_VALUE = 240  # of a circuit at its peak, as measured: some 30 tensors
MIB = 1 << 20
UPDATE_AND_WEIGHT = 2  # segments of a spec to which no mechanism adds


class Aggregate(ABC):
    """One function of all contributions, which the parties open and nothing beside it.

    `linear` says that it needs no products, so no dealer; `uniform`, that it needs equal weights, all of them 1. A
    linear aggregate may also be given contributions that are added up already, as one.
    """

    name: str
    linear = False
    uniform = False

    @abstractmethod
    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:
        """Before anything is shared among so many parties.

        Raises:
            ConfigError: a value or a sum may leave its range; the line says by which arithmetic.
        """

    def reveal(self, shares_CL: torch.Tensor, fractional_bits: int, randomness: Randomness) -> NDArray[np.float64]:
        """The opened aggregate, a sum of so much total weight, shape (L,): called alike by every party.

        `shares_CL` are this party's, int64, on the device to compute on; `randomness` is this party's own.

        Raises:
            PeerLost: a peer or the dealer is dead or stalled.
            TooFewContributors: fewer than the aggregate can take.
        """
        from privacy.secure_sums.mpc.crypten import party as crypten_party

        assert shares_CL.dtype == torch.int64
        with crypten_party.computing():
            return self._revealed(shares_CL, fractional_bits, randomness)

    def noise(self, parties: int, fractional_bits: int) -> "PartyNoise | None":  # noqa: ARG002
        """What so many parties add, in steps of so many fractional bits; None where they add nothing.

        Raises:
            ConfigError: they cannot.
        """
        return None

    @abstractmethod
    def _revealed(self, shares_CL: torch.Tensor, fractional_bits: int, randomness: Randomness) -> NDArray[np.float64]:
        """`reveal`, while the parties are known to be there."""


def decoded(integers: torch.Tensor, fractional_bits: int) -> NDArray[np.float64]:
    """What integers stand for."""
    values: NDArray[np.float64] = integers.cpu().numpy() / 2.0**fractional_bits
    return values


def require_range(spec: VectorSpec, fractional_bits: int, noise: float = 0.0) -> None:
    """Every sum over the cohort, with some noise in integers on top, must stay below 2^63.

    Raises:
        ConfigError: it may not, or a segment has no bound.
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
    """Residues have no size that could be compared, and a mechanism's own values are none of an update.

    Raises:
        ConfigError: the spec declares either.
    """
    if spec.modulus_bits is not None:
        allowed = "compares or noises values, and the mechanism releases residues: use secure_sum/aggregate=sum"
        raise ConfigError.of("secure_sum/aggregate", aggregate, allowed)
    if len(spec.segments) > UPDATE_AND_WEIGHT:
        allowed = "an adaptive clip adds values that it would treat as the update's: set adaptive=false"
        raise ConfigError.of("secure_sum/aggregate", aggregate, allowed)


def blocks(length: int, contributors: int, memory_mib: float) -> Iterator[slice]:
    """Slices of some coordinates, a multiple of 64 of them, which the circuits work on within so much memory."""
    size = max(BLOCK, int(memory_mib * MIB / (BYTES_PER_VALUE * contributors)) // BLOCK * BLOCK)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
