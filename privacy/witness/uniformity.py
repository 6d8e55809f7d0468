"""Tests of uniformity with an exact bound on the probability of a false alarm.

The count of uniform numbers in one of B intervals (or with the same lowest bits) is binomial. A test takes the largest
count. Its threshold is the point at which the binomial's tail, times B, is the allowed probability (Bonferroni). No
distribution is fitted, so a bound of 1e-20 is as reliable as one of 1e-2, for ten numbers as for ten million.

The differences of successive numbers are tested as well. For independent uniform numbers these differences are
independent and uniform, too: (x0, x1 - x0, x2 - x1, ...) is a bijection of (x0, x1, x2, ...).

Shapes: R rows (ciphertexts of a message, or one), N numbers in each.
"""

from functools import lru_cache

import numpy as np

from privacy.secure_sums.declarations import LONG, Integers

TESTS = 3  # number of tests of one series of numbers
SERIES = 5  # most series of `Numbers`: themselves, along rows, between rows, to the last upload, to a second protection
_SLACK = 1 + 2.0**-12  # factor on a uniform probability, for rounding, or for a remainder below its modulus


def too_regular(numbers: Integers, modulus: int, allowed: float) -> bool:
    """True where numbers, shape (N,), are not uniform in [0, modulus); a false alarm has at most the `allowed` chance.

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
    """The interval in which each number lies, and the number of values in an interval."""
    shift = max(0, bits - bucket_bits)
    return numbers >> np.uint64(shift), 1 << shift


def _crowded(buckets: Integers, width: int, modulus: int, allowed: float) -> bool:
    """True where a bucket holds too many numbers; a bucket covers at most `width` of the values below the modulus."""
    counts = np.bincount(buckets.astype(np.intp), minlength=1)
    most = _most(len(buckets), min(1.0, _SLACK * width / modulus), allowed / -(-modulus // width))
    return bool(counts.max() > most)


@lru_cache(maxsize=256)
def _most(count: int, probability: float, allowed: float) -> int:
    """The least m with P[Binomial(count, probability) > m] <= allowed."""
    from scipy.special import bdtrc  # uploads in the clear do not need it

    low = int(count * probability)
    high = count
    while low < high:
        middle = (low + high) // 2
        if bdtrc(middle, count, probability) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
