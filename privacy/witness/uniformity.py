"""Whether numbers are uniform, by tests whose probability of a false alarm is exact.

Counts of uniform numbers that fall into one of B intervals (or that agree in their lowest bits) are binomial. A test
takes the largest count; its threshold is where the binomial's tail, times B, is what was allowed (Bonferroni). No
distribution is fitted, so a bound of 1e-20 is as good as one of 1e-2, for ten numbers as for ten million.

What is tested beside the numbers themselves are differences of successive ones. Of independent uniform numbers those
are independent and uniform, too: (x0, x1 - x0, x2 - x1, ...) is a bijection of (x0, x1, x2, ...).

Shapes: R rows (ciphertexts of a message, or one), N numbers in each.
"""

from functools import lru_cache

import numpy as np
from scipy.special import bdtrc

from privacy.secure_sums.declarations import LONG, Integers

TESTS = 3  # of one series of numbers
SERIES = 5  # at most, of `Numbers`: themselves, along rows, between rows, to the last upload, to a second protection
_SLACK = 1 + 2.0**-12  # over uniform: what a rounding, or a remainder below its modulus, adds to a probability


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
