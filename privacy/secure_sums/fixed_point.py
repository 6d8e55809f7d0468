"""Contributions as unsigned integers of a fixed number of bits, with exact sums: for every sum over integers.

A value x of a segment with bound B becomes round(x / B * H) + H, with H = 2^(value_bits - 1) - 1. The offset H makes
every integer non-negative, so no sum borrows from its neighbour. A sum of n such integers less n H is the sum of the
rounded values. Residues (a spec with `modulus_bits`) are unsigned integers already.

Shapes: D is the length of the vector that the spec declares.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ConfigError
from privacy.secure_sums.vectors import Sum, Vector, VectorSpec
from privacy.spans import span

Unsigned = NDArray[np.uint64]

# the least and most bits of a value: float32 has no more than 24 significant bits
LEAST_BITS = 2
MOST_BITS = 32
WORD_BITS = 64


@dataclass(frozen=True)
class FixedPoint:
    """The conversion of a spec's vectors to integers and back. See `of`."""

    spec: VectorSpec
    value_bits: int

    @classmethod
    def of(cls, spec: VectorSpec, value_bits: int, key: str) -> "FixedPoint":
        """Return the conversion for values of `value_bits` bits, or for the residues that the spec declares.

        `key` is the configuration key of the sum, for messages.

        Raises:
            ConfigError: bits out of range, a segment without a bound, or sums of more than 64 bits.
        """
        bits = value_bits if spec.modulus_bits is None else spec.modulus_bits
        if spec.modulus_bits is None and not LEAST_BITS <= bits <= MOST_BITS:
            raise ConfigError.of(f"{key}.value_bits", value_bits, f"must be from {LEAST_BITS} to {MOST_BITS}")
        if spec.modulus_bits is None:
            spec.require_bounds(key)
        made = cls(spec, bits)
        if spec.modulus_bits is None and made.sum_bits > WORD_BITS:
            allowed = f"a sum of {spec.cohort_size} takes {made.sum_bits} bits, {WORD_BITS} at most"
            raise ConfigError.of(f"{key}.value_bits", bits, allowed)
        return made

    @property
    def sum_bits(self) -> int:
        """Bits of a sum over the whole cohort: the bits of a value and of the carries."""
        return (self.spec.cohort_size * ((1 << self.value_bits) - 1)).bit_length()

    @property
    def levels(self) -> int:
        """H, the number of steps from 0 to the bound."""
        return (1 << (self.value_bits - 1)) - 1

    @cached_property
    def _steps_D(self) -> NDArray[np.float64]:
        """The value of one step, by coordinate."""
        return self.spec.bounds_D / self.levels

    @property
    def tolerance(self) -> float:
        """The largest change of a contribution's value by rounding."""
        if self.spec.modulus_bits is not None:
            return 0.0
        return 0.5000001 * max(segment.bound for segment in self.spec.segments) / self.levels

    def encode(self, vector_D: Vector) -> Unsigned:
        """Convert a vector that the spec allows to integers below 2^value_bits, shape (D,)."""
        if self.spec.modulus_bits is not None:
            return vector_D.view(np.uint64)
        with span("encode"):
            steps_D = np.rint(vector_D / self._steps_D)
            steps_D += self.levels
            return steps_D.astype(np.uint64)

    def decode(self, sums_D: Unsigned, contributors: int) -> Sum:
        """Return the sum of `contributors` contributions from the sum of their integers, shape (D,)."""
        if self.spec.modulus_bits is not None:
            return (sums_D & np.uint64((1 << self.spec.modulus_bits) - 1)).view(np.int64)
        with span("decode"):
            signed_D = sums_D.view(np.int64) - contributors * self.levels
            return signed_D * self._steps_D
