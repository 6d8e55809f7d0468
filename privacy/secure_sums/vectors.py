"""Vectors of bounded values, their checks, and their sum. D is the length of a vector."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.addresses import Address
from privacy.errors import ConfigError, MalformedContribution, NonFiniteContribution

Vector = NDArray[Any]  # float32 values, or int64 residues where the spec has a modulus
Sum = NDArray[Any]  # float64 values, or int64 residues


@dataclass(frozen=True)
class Segment:
    """A part of the vector whose values have one common bound (on the absolute value; infinite: no bound)."""

    name: str
    length: int
    bound: float = math.inf


@dataclass(frozen=True)
class VectorSpec:
    """The layout of a contribution: its segments in order, the cohort size, and the least number of contributors.

    The last segment is called `weight` and has length 1: a client contributes `[v * update, v]`, in float32. With
    `modulus_bits` a contribution is int64 residues in [0, 2^modulus_bits), and so is the sum.
    """

    segments: tuple[Segment, ...]
    cohort_size: int
    min_contributors: int = 1
    modulus_bits: int | None = None

    @cached_property
    def length(self) -> int:
        """D, the sum of the segments' lengths."""
        return sum(segment.length for segment in self.segments)

    @property
    def least(self) -> int:
        """The least number of contributors of a sum that is opened, as `require_contributors` enforces it."""
        return max(1, self.min_contributors)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy type of a contribution."""
        return np.dtype(np.float32 if self.modulus_bits is None else np.int64)

    @cached_property
    def bounds_D(self) -> NDArray[np.float64]:
        """The bound of each value, shape (D,)."""
        return np.concatenate([np.full(segment.length, segment.bound) for segment in self.segments])

    def require_bounds(self, key: str) -> None:
        """Refuse segments without a bound, for protocols with a limited range. `key` names a sum's own configuration.

        Raises:
            ConfigError: a segment has no bound.
        """
        for segment in self.segments:
            if not math.isfinite(segment.bound):
                raise ConfigError.of(f"{key}.bound", None, f"the {segment.name} needs a bound: give the largest value")

    def check(self, vector: object) -> Vector:
        """Check a contribution and return it, shape (D,): finite values within their bounds, or residues.

        Raises:
            MalformedContribution: another type or length, or a value beyond its segment's bound or the modulus.
            NonFiniteContribution: the vector holds NaN or infinity.
        """
        vector = self._shaped("a contribution", vector, self.dtype)
        if self.modulus_bits is not None:
            if vector.min() < 0 or int(vector.max()) >> self.modulus_bits:
                raise MalformedContribution(f"a contribution must be residues of {self.modulus_bits} bits")
            return vector
        start = 0
        for segment in self.segments:
            _check_bound(vector[start : start + segment.length], segment)
            start += segment.length
        return vector

    def check_sum(self, vector: object) -> Sum:
        """Check an opened sum and return it, shape (D,): finite float64, or int64 residues.

        Raises:
            MalformedContribution: anything else.
        """
        wanted = np.dtype(np.float64 if self.modulus_bits is None else np.int64)
        vector = self._shaped("an opened sum", vector, wanted)
        if not np.isfinite(vector).all():
            raise NonFiniteContribution("an opened sum holds NaN or infinity")
        return vector

    def _shaped(self, what: str, vector: object, dtype: np.dtype[np.generic]) -> Vector:
        if not isinstance(vector, np.ndarray) or vector.dtype != dtype or vector.shape != (self.length,):
            got = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
            raise MalformedContribution(f"{what} must be {dtype} ({self.length},), got {got}")
        return vector

    def total(self, sum_D: Sum, survivors: Iterable[Address], clipped: int = 0) -> "Total":
        """Name the parts of an opened sum."""
        assert sum_D.shape == (self.length,)
        return Total(sum_D[:-1], float(sum_D[-1]), tuple(survivors), clipped)


def _check_bound(values: NDArray[np.generic], segment: Segment) -> None:
    # minimum and maximum take one pass each and allocate nothing; both propagate NaN
    extremes = (np.minimum.reduce(values), np.maximum.reduce(values)) if values.size > 1 else values
    peak = max((abs(float(value)) for value in extremes), default=0.0)
    if not math.isfinite(peak):
        raise NonFiniteContribution(
            f"the {segment.name} of a contribution holds NaN or infinity (where training diverged, lower training.lr)"
        )
    if peak > segment.bound:
        raise MalformedContribution(f"the {segment.name} of a contribution reaches {peak:g}, over {segment.bound:g}")


@dataclass(frozen=True)
class Total:
    """The server's result: the sum of `v * update`, (D - 1,), float64 or residues; the sum of `v`; the contributors."""

    update_D: Sum
    weight: float
    survivors: tuple[Address, ...]
    clipped: int = 0


class OrderedSum:
    """Add vectors in cohort order, in whatever order they arrive, so that a float sum is the same in every runtime.

    Only vectors that arrive before their turn are held in memory.
    """

    def __init__(self, cohort: Sequence[Address], spec: VectorSpec) -> None:
        self._modulus_bits = spec.modulus_bits
        self.sum_D: Sum = np.zeros(spec.length, np.float64 if spec.modulus_bits is None else np.int64)
        self._turn = deque(cohort)
        self._held: dict[Address, Vector] = {}

    def add(self, address: Address, vector: Vector) -> None:
        """Take one vector of shape (D,)."""
        self._held[address] = vector
        while self._turn and self._turn[0] in self._held:
            self._add(self._held.pop(self._turn.popleft()))

    def _add(self, vector: Vector) -> None:
        self.sum_D += vector
        if self._modulus_bits is not None:
            self.sum_D &= (1 << self._modulus_bits) - 1

    def close(self) -> Sum:
        """The sum of all vectors that arrived, shape (D,); addresses without a vector are skipped."""
        for address in self._turn:
            if address in self._held:
                self._add(self._held.pop(address))
        return self.sum_D
