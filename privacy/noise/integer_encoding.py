"""Encoding of an update as bounded integers, and its inverse: clip, rotate, scale, round, wrap. Pure functions.

The encoding of Kairouz, Liu and Steinke 2021 ("The Distributed Discrete Gaussian Mechanism", Algorithms 1 and 2), which
Agarwal, Kairouz and Liu 2021 ("The Skellam Mechanism", Algorithm 1) use too. `conditional_round` alone bounds a
client's contribution to the sum of integers, in exact arithmetic: no rounding error of an earlier step can exceed it.

Shapes: D is the number of model parameters, P the least power of two that is not below it. The rotation works on P
coordinates, so P is the dimension in every bound below.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.checks import positive
from privacy.errors import ConfigError, NonFiniteContribution, PrivacyRefusal
from privacy.randomness import SeededRandomness

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Update = TypeVar("Update", NDArray[np.float32], NDArray[np.float64])

MAX_MODULUS_BITS = 62  # sums of two residues stay within int64

_MARGIN = 1e-12  # relative; far above the rounding of a norm in float64 (pairwise sums: 1e-14 at 2^40 coordinates)
_ATTEMPTS = 1000  # at the paper's beta = exp(-1/2) all attempts fail once in 2^720 vectors
_SQUARE_LIMIT = (1 << 62) - 1
_MAX_BOUND = 2.0**52  # doubles beyond it are integers already


def clip_l2(update_D: Update, norm: float) -> Update:
    """Return the update, scaled down to an L2 norm of at most `norm`, in exact arithmetic on the returned values.

    Takes float32 or float64 of shape (D,) and returns the same type; the same array if it is within the norm already.
    The computation neither overflows nor underflows: all values are relative to the largest coordinate. Coordinates
    are rounded towards zero, and a factor of 1 - 1e-12 covers the rounding of the norm itself.

    Raises:
        NonFiniteContribution: the update holds NaN or infinity.
        ConfigError: the norm is not finite and above 0.
    """
    positive("norm", norm)
    if not np.isfinite(update_D).all():
        raise NonFiniteContribution("the update holds NaN or infinity (where training diverged, lower training.lr)")
    largest = float(np.abs(update_D).max(initial=0))
    if largest == 0:
        return update_D
    unit_D = update_D.astype(np.float64) / largest
    length = math.sqrt(float(np.square(unit_D).sum()))
    if length * (1 + _MARGIN) <= norm / largest:
        return update_D
    unit_D *= norm / length * (1 - 3 * _MARGIN)  # three margins, so that a clipped update passes the test above
    clipped_D = np.nextafter(unit_D.astype(update_D.dtype), update_D.dtype.type(0))
    # a coordinate that was denormal relative to the largest has lost digits: it must not grow
    return np.copysign(np.minimum(np.abs(clipped_D), np.abs(update_D)), update_D)


@dataclass(frozen=True)
class Rotation:
    """The map x -> H S x / sqrt(P): random signs S, then the Walsh-Hadamard matrix H. Orthonormal, and it flattens x.

    Each coordinate of a rotated vector that does not depend on the signs is sub-Gaussian with variance proxy |x|^2 / P
    (Hoeffding): that keeps the modulus small.
    """

    dimension: int  # D
    signs_P: Floats

    @property
    def padded(self) -> int:
        """P, the length of a rotated vector."""
        return len(self.signs_P)

    def apply(self, update_D: NDArray[np.floating]) -> Floats:
        """Rotate a vector of shape (D,) to one of shape (P,), in float64."""
        padded_P = np.zeros(self.padded)
        padded_P[: self.dimension] = update_D
        padded_P *= self.signs_P
        return _walsh_hadamard(padded_P)

    def invert(self, rotated_P: NDArray[np.floating]) -> Floats:
        """Rotate a vector of shape (P,) back to shape (D,), in float64: the transpose, which is the inverse."""
        restored_P = _walsh_hadamard(np.array(rotated_P, np.float64))
        restored_P *= self.signs_P
        return restored_P[: self.dimension]


def padded_length(dimension: int) -> int:
    """Return P, the least power of two that is not below D."""
    return 1 << (dimension - 1).bit_length()


def rotation(dimension: int, *seed: int | str) -> Rotation:
    """Return the rotation of a *public* seed (labels such as a run and a round): the same on every machine.

    The signs are bits of a ChaCha20 stream. All clients of a round must use the same rotation, or their sum is useless.
    """
    assert dimension >= 1, dimension
    padded = padded_length(dimension)
    stream = np.frombuffer(SeededRandomness("rotation", *seed).bytes(-(-padded // 8)), np.uint8)
    return Rotation(dimension, 1 - 2 * np.unpackbits(stream, count=padded).astype(np.float64))


def _walsh_hadamard(x_P: Floats) -> Floats:
    """Return H x / sqrt(P); the argument may be overwritten. As a matrix of R rows: along the columns, then the rows.

    Additions in a fixed order, no matrix product: the result is the same whatever the number of threads.
    """
    size = len(x_P)
    rows = 1 << (size.bit_length() // 2)
    x_RC = _butterflies(x_P.reshape(rows, -1))
    x_CR = _butterflies(np.ascontiguousarray(x_RC.T))
    x_CR *= 1 / math.sqrt(size)
    return np.ascontiguousarray(x_CR.T).reshape(size)


def _butterflies(x_RC: Floats) -> Floats:
    """Transform along the first axis, so that each addition runs over whole rows."""
    rows, columns = x_RC.shape
    half = 1
    while half < rows:
        pairs = x_RC.reshape(-1, 2, half, columns)
        x_RC = np.empty_like(pairs)
        np.add(pairs[:, 0], pairs[:, 1], out=x_RC[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=x_RC[:, 1])
        half *= 2
    return x_RC.reshape(rows, columns)


def rounded_norm_bound(scaled_norm: float, dimension: int, beta: float) -> float:
    """Return a bound on the norm of a vector of norm c after rounding to integers (Kairouz et al. 2021, Theorem 1).

    min{ c + sqrt(d), sqrt(c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2)) }. Rounding exceeds the second bound with
    probability at most beta, and `conditional_round` then tries again, which causes a small bias. With beta = 0 only
    the first bound counts, which rounding never exceeds.

    Raises:
        ConfigError: the norm is not above 0, or beta is outside [0, 1).
    """
    positive("scaled_norm", scaled_norm)
    if not 0 <= beta < 1:
        raise ConfigError.of("beta", beta, "must be at least 0 and below 1")
    always = scaled_norm + math.sqrt(dimension)
    if beta == 0:
        return always
    spread = math.sqrt(2 * math.log(1 / beta)) * (scaled_norm + math.sqrt(dimension) / 2)
    return min(always, math.sqrt(scaled_norm**2 + dimension / 4 + spread))


def conditional_round(scaled_P: NDArray[np.floating], bound_l2: float, generator: np.random.Generator) -> Ints:
    """Round each coordinate up or down without bias; repeat until the L2 norm of the integers is within the bound.

    The norm is compared in exact arithmetic: the sensitivity of the sum depends on it.

    Raises:
        NonFiniteContribution: the vector holds NaN or infinity.
        PrivacyRefusal: no attempt succeeds, because the vector was not clipped to the norm that the bound assumes.
    """
    if not np.isfinite(scaled_P).all():
        raise NonFiniteContribution("the vector to round holds NaN or infinity: lower the learning rate")
    assert 0 <= bound_l2 <= _MAX_BOUND, bound_l2
    limit = Fraction(bound_l2) ** 2
    if not _can_fit(scaled_P, bound_l2, limit):
        raise PrivacyRefusal(f"no rounding has an L2 norm within {bound_l2:g}: clip the vector before it is scaled")
    low_P = np.floor(scaled_P).astype(np.int64)
    fraction_P = scaled_P - low_P
    for _ in range(_ATTEMPTS):
        rounded_P: Ints = low_P + (generator.random(len(low_P)) < fraction_P)
        if squared_norm(rounded_P) <= limit:
            return rounded_P
    raise PrivacyRefusal(
        f"{_ATTEMPTS} roundings had an L2 norm above {bound_l2:g}: clip the vector before it is scaled"
    )


def _can_fit(scaled_P: NDArray[np.floating], bound_l2: float, limit: Fraction) -> bool:
    """Tell whether rounding towards zero is within the bound; otherwise no attempt can succeed."""
    nearest_P = np.trunc(scaled_P)
    return float(np.abs(nearest_P).max(initial=0)) <= bound_l2 and squared_norm(nearest_P.astype(np.int64)) <= limit


def squared_norm(int_P: Ints) -> int:
    """Return the exact squared L2 norm, of any size."""
    largest = max(int(int_P.max(initial=1)), -int(int_P.min(initial=-1)))
    if largest**2 > _SQUARE_LIMIT:
        return sum(value * value for value in int_P.tolist())
    step = _SQUARE_LIMIT // largest**2
    return sum(int(np.dot(part, part)) for part in (int_P[i : i + step] for i in range(0, len(int_P), step)))


def to_modulus(int_D: Ints, bits: int) -> Ints:
    """Convert signed integers to residues in [0, 2^bits).

    Raises:
        ConfigError: bits outside 1 to 62.
    """
    return int_D & _mask(bits)


def from_modulus(residues_D: Ints, bits: int) -> Ints:
    """Convert residues, or an unreduced sum of residues, to the integers in [-2^(bits-1), 2^(bits-1)) they represent.

    Raises:
        ConfigError: bits outside 1 to 62.
    """
    half = (_mask(bits) + 1) >> 1
    return ((residues_D + half) & _mask(bits)) - half


def _mask(bits: int) -> int:
    if not 1 <= bits <= MAX_MODULUS_BITS:
        raise ConfigError.of("bits", bits, f"must be from 1 to {MAX_MODULUS_BITS}")
    return (1 << bits) - 1
