"""Whether numbers are uniform, by tests whose probability of a false alarm is exact.

Counts of uniform numbers that fall into one of B intervals (or that agree in their lowest bits) are binomial. A test
takes the largest count; its threshold is where the binomial's tail, times B, is what was allowed (Bonferroni). No
distribution is fitted, so a bound of 1e-20 is as good as one of 1e-2, for ten numbers as for ten million.

What is tested beside the numbers themselves are differences of successive ones. Of independent uniform numbers those
are independent and uniform, too: (x0, x1 - x0, x2 - x1, ...) is a bijection of (x0, x1, x2, ...).

Shapes: R rows (ciphertexts of a message, or one), N numbers in each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

Integers = NDArray[np.uint64]

LONG = 1 << 16  # numbers of which all tests are made; of longer ones the first test takes all, the others so many
TESTS = 3  # of one series of numbers
SERIES = 5  # at most, of `Numbers`: themselves, along rows, between rows, to the last upload, to a second protection
_SLACK = 1 + 2.0**-12  # over uniform: what a rounding, or a remainder below its modulus, adds to a probability


@dataclass(frozen=True)
class Numbers:
    """Integers in [0, modulus), shape (R, N), that are uniform and independent where protection is on."""

    name: str
    values_RN: Integers
    modulus: int

    @classmethod
    def of(cls, name: str, values: NDArray[Any], modulus: int) -> "Numbers":
        """One row, or several; of any unsigned type."""
        return cls(name, np.atleast_2d(values).astype(np.uint64, copy=False), modulus)

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> "Numbers":
        """Bytes of a key, seed or share."""
        return cls.of(name, np.frombuffer(data, np.uint8), 256)

    def difference(self, left: Integers, right: Integers) -> Integers:
        """What is left of `left` less `right`, modulo the modulus."""
        if self.modulus == 1 << 64:
            return left - right
        modulus = np.uint64(self.modulus)
        # below 2^63 the sum cannot wrap; above it no modulus but a power of two is in use
        return (left + (modulus - right)) % modulus if self.modulus < 1 << 63 else (left - right) & (modulus - 1)

    def series(self) -> Iterator[tuple[str, Integers]]:
        """What is to be uniform of these alone, in words."""
        yield self.name, self.values_RN.reshape(-1)
        row_N = self.values_RN[0, :LONG]
        if len(row_N) > 1:
            yield f"the differences of successive {self.name}", self.difference(row_N[1:], row_N[:-1])
        if len(self.values_RN) > 1:
            columns = max(1, LONG // len(self.values_RN))
            some_RN = self.values_RN[:, :columns]
            between = self.difference(some_RN[1:], some_RN[:-1]).reshape(-1)
            yield f"the differences of {self.name} between ciphertexts", between


def too_regular(numbers: Integers, modulus: int, allowed: float) -> bool:
    """Whether numbers, shape (N,), are not uniform in [0, modulus); a false alarm has at most the `allowed` chance.

    A bucket is one of 16 or 256 equal intervals, or all numbers with the same lowest byte.
    """
    bits = (modulus - 1).bit_length()
    one = allowed / TESTS
    return (
        _crowded(*_by_highest(numbers, bits, 8), modulus, one)
        or _crowded(*_by_highest(numbers[:LONG], bits, 4), modulus, one)
        or (bits > 8 and _crowded(numbers[:LONG] & np.uint64(255), -(-modulus // 256), modulus, one))
    )


def _by_highest(numbers: Integers, bits: int, bucket_bits: int) -> tuple[Integers, int]:
    """The interval that each lies in, and how many numbers an interval has."""
    shift = max(0, bits - bucket_bits)
    return numbers >> np.uint64(shift), 1 << shift


def _crowded(buckets: Integers, width: int, modulus: int, allowed: float) -> bool:
    """Whether any of the buckets, of at most so many of the numbers below the modulus, holds too many."""
    counts = np.bincount(buckets.astype(np.intp), minlength=1)
    most = _most(len(buckets), min(1.0, _SLACK * width / modulus), allowed / -(-modulus // width))
    return bool(counts.max() > most)


@lru_cache(maxsize=256)
def _most(count: int, probability: float, allowed: float) -> int:
    """The least m with P[Binomial(count, probability) > m] <= allowed."""
    low = int(count * probability)
    high = count
    while low < high:
        middle = (low + high) // 2
        if bdtrc(middle, count, probability) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
