"""`norm_bounded`: the sum of contributions with a bound on each update's norm. The others are left out or scaled down.

Everything is exact in integers: nothing is truncated, and there is no iteration. A contribution is [x, v] with
x = v * update, all in steps of 2^-f. It counts only if |x_j| <= B for every coordinate and 0 <= v <= 1. Then
n = sum x_j^2 <= D B^2 cannot wrap; without this check a few huge coordinates could wrap n to 0. An update within the
norm N has, after rounding,

    |x| <= R = N (v + 1/2) + sqrt(D) / 2     (in steps)

because x and v are off by half a step each. `zero` compares n with R^2. `rescale` compares n with (R / L)^2 for a grid
of factors 1 = L_0 > L_1 > ..., some 64 per octave, and multiplies by the largest factor that fits. This needs no
reciprocal root, so it holds over the whole range, and a contribution that was over the norm ends within 3 % below it.
The grid goes down to the factor that fits |x_j| = B for all j at v = 1; a contribution beyond the grid is left out.

Both sides are scaled by the largest 2^H for which they stay below 2^63, and N^2 2^H is rounded up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.checks import positive
from privacy.errors import ConfigError, PrivacyRefusal, TooFewContributors
from privacy.randomness import Randomness
from privacy.secure_sums.mpc.aggregates.contract import (
    SIGNED_LIMIT,
    Aggregate,
    blocks,
    decoded,
    require_range,
    require_updates,
)
from privacy.secure_sums.vectors import VectorSpec

MODES = ("zero", "rescale")
FACTOR_BITS = 20
STEPS_PER_OCTAVE = 64
LEAST_FACTOR = 64  # in units of 2^-FACTOR_BITS: smaller factors are too coarse
LEAST_NORM = 64  # least value of N^2 2^H: the norm is then off by less than 1 %


@dataclass(frozen=True)
class NormGrid:
    """The comparisons: the factor L / 2^g fits where the polynomial (a2, a1, a0) at v is at least 2^H n. See `grid`."""

    bound: int  # B
    headroom: int  # H
    factor_bits: int  # g
    factors_M: tuple[int, ...]  # in descending order, from 2^g
    coefficients_M3: tuple[tuple[int, int, int], ...]

    @property
    def drops_M(self) -> list[int]:
        """The differences L_j - L_(j + 1): summed over the factors that fit, they give the largest such factor."""
        return [here - after for here, after in zip(self.factors_M, (*self.factors_M[1:], 0), strict=True)]


def _radius(dimension: int, norm: float) -> tuple[Fraction, Fraction]:
    """Slope and intercept of R = slope v + intercept, in steps; the root is rounded up."""
    half_root = Fraction(math.isqrt((dimension << 64) - 1) + 1, 1 << 33)
    return Fraction(norm), Fraction(norm) / 2 + half_root


def _coefficients(dimension: int, norm: float, headroom: int, factor: Fraction) -> tuple[int, int, int]:
    """The coefficients of 2^H (R / L)^2 as a polynomial in v, each rounded up."""
    slope, intercept = _radius(dimension, norm)
    squares = slope**2, 2 * slope * intercept, intercept**2
    second, first, constant = (math.ceil(square / factor**2 * (1 << headroom)) for square in squares)
    return second, first, constant


def _factors(dimension: int, norm: float, fractional_bits: int, bound: int) -> tuple[int, ...]:
    """The factors from 2^g down to one that fits weight 1 with every coordinate at the bound; empty if too small."""
    slope, intercept = _radius(dimension, norm)
    reach = float((slope * (1 << fractional_bits) + intercept) / bound) / math.sqrt(dimension)
    count = max(0, math.ceil(-math.log2(reach) * STEPS_PER_OCTAVE)) + 1
    factors = [math.floor(2 ** (FACTOR_BITS - j / STEPS_PER_OCTAVE)) for j in range(count)]
    return tuple(factors) if factors[-1] >= LEAST_FACTOR else ()


@lru_cache(maxsize=16)
def grid(dimension: int, fractional_bits: int, norm: float, coordinate_bound: float, rescale: bool) -> NormGrid | None:
    """The comparisons for updates of `dimension` coordinates; None where the ring has no room for them."""
    bound = math.ceil(math.ldexp(coordinate_bound, fractional_bits))  # the largest value after rounding to a step
    factors = _factors(dimension, norm, fractional_bits, bound) if rescale else (1,)
    bits = FACTOR_BITS if rescale else 0
    for headroom in range(62, -1, -1):
        if not factors or math.ldexp(norm * norm, headroom) < LEAST_NORM:
            return None
        last = _coefficients(dimension, norm, headroom, Fraction(factors[-1], 1 << bits))
        largest = sum(c << (2 - i) * fractional_bits for i, c in enumerate(last))
        if max(largest, dimension * bound**2 << headroom) < SIGNED_LIMIT:
            scaled = [Fraction(factor, 1 << bits) for factor in factors]
            coefficients = (_coefficients(dimension, norm, headroom, factor) for factor in scaled)
            return NormGrid(bound, headroom, bits, factors, tuple(coefficients))
    return None


class NormBounded(Aggregate):
    """`norm` bounds the update, whatever its weight; `coordinate_bound` is B, by default the norm in mode `zero`.

    The weight of a contribution that is left out does not count either. The parties first open the number of
    contributions that count and, if these are enough, the sum and the total weight. The factor bits of the sum are
    rounded off before, to half a step.
    """

    name = "norm_bounded"

    def __init__(
        self, norm: float, mode: str = "zero", coordinate_bound: float | None = None, memory_mib: float = 256.0
    ) -> None:
        positive("secure_sum.aggregate.norm", norm)
        positive("secure_sum.aggregate.memory_mib", memory_mib)
        if mode not in MODES:
            raise ConfigError.of("secure_sum.aggregate.mode", mode, f"allowed are {', '.join(MODES)}")
        if coordinate_bound is None and mode == "rescale":
            allowed = "mode=rescale needs it: the largest value of an honest coordinate before it is scaled down"
            raise ConfigError.of("secure_sum.aggregate.coordinate_bound", None, allowed)
        self._bound = norm if coordinate_bound is None else coordinate_bound
        positive("secure_sum.aggregate.coordinate_bound", self._bound)
        self._norm = float(norm)
        self._mode = mode
        self._memory_mib = memory_mib

    def _grid(self, dimension: int, fractional_bits: int) -> NormGrid | None:
        return grid(dimension, fractional_bits, self._norm, self._bound, self._mode == "rescale")

    def _fits(self, spec: VectorSpec, fractional_bits: int) -> bool:
        """True where the ring has room for the comparisons, and for the sum with its factor bits."""
        made = self._grid(spec.length - 1, fractional_bits)
        return made is not None and spec.cohort_size * (made.bound + 1) << made.factor_bits < SIGNED_LIMIT

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:  # noqa: ARG002
        """Check that the cohort's sum, and D B^2 with the precision of the comparison, stay below 2^63.

        Raises:
            ConfigError: one of them does not fit.
        """
        require_updates(self.name, spec)
        require_range(spec, fractional_bits)
        if self._fits(spec, fractional_bits):
            return
        fitting = [bits for bits in range(fractional_bits) if self._fits(spec, bits)]
        arithmetic = f"{spec.length - 1} * ({self._bound:g} * 2^fractional_bits)^2, with 6 bits for norm={self._norm:g}"
        remedy = f"at most {fitting[-1]}" if fitting else "lower secure_sum.aggregate.coordinate_bound"
        raise ConfigError.of("secure_sum.fractional_bits", fractional_bits, f"{arithmetic}, must fit 63 bits: {remedy}")

    def _revealed(
        self,
        shares_CL: torch.Tensor,
        fractional_bits: int,
        randomness: Randomness,  # noqa: ARG002
        least: int,
    ) -> NDArray[np.float64]:
        from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

        made = self._grid(shares_CL.shape[1] - 1, fractional_bits)
        assert made is not None, "check refused this"
        update_CD = shares_CL[:, :-1]
        weight_C = shares_CL[:, -1]
        step = list(blocks(update_CD.shape[1], len(shares_CL), self._memory_mib))
        valid_C = self._valid(update_CD, weight_C, step, made, 1 << fractional_bits)
        norms_C = sum(mpc.squared(update_CD[:, block]).sum(1) for block in step)
        assert isinstance(norms_C, torch.Tensor)
        factors_2C = mpc.product(_fitting(norms_C, weight_C, made), valid_C.expand(2, -1).contiguous())
        _require_counted(int(mpc.opened(factors_2C[1].sum(0, keepdim=True))[0]), len(weight_C), least)
        sums = [mpc.matrix_product(factors_2C[:1], update_CD[:, block])[0] for block in step]
        weight = mpc.opened(mpc.product(factors_2C[1], weight_C).sum(0, keepdim=True))
        opened = [mpc.rounded_shift(one, made.factor_bits) if made.factor_bits else mpc.opened(one) for one in sums]
        return decoded(torch.cat([*opened, weight]), fractional_bits)

    def limits(self, spec: VectorSpec) -> Iterator[str]:  # noqa: ARG002
        """The sentence about the number of contributions that count."""
        yield (
            "The parties learn how many contributions keep to the norm, and open nothing over fewer than the least "
            "number."
        )

    @staticmethod
    def _valid(
        update_CD: torch.Tensor, weight_C: torch.Tensor, step: list[slice], made: NormGrid, one: int
    ) -> torch.Tensor:
        """Additive shares of 1 where every coordinate and the weight are in range, of 0 elsewhere; shape (C,)."""
        from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

        hidden = mpc.masked(mpc.padded(weight_C))
        valid_C = mpc.unpacked(mpc.both(hidden.at_least(0), hidden.at_most(one)))[: len(weight_C)]
        for block in step:
            hidden = mpc.masked(mpc.padded(update_CD[:, block]))
            within_CW = mpc.both(hidden.at_least(-made.bound), hidden.at_most(made.bound))
            valid_C = mpc.both(valid_C, mpc.all_set(within_CW))
        return mpc.bits_to_integers(valid_C)


def _require_counted(counted: int, contributors: int, least: int) -> None:
    if not 0 <= counted <= contributors:
        raise PrivacyRefusal(f"{counted} of {contributors} contributions kept to the norm: what was dealt is wrong")
    if counted < least:
        raise TooFewContributors(f"{counted} contributions kept to the norm, {least} are needed")


def _fitting(norms_C: torch.Tensor, weight_C: torch.Tensor, made: NormGrid) -> torch.Tensor:
    """Additive shares, shape (2, C): the largest factor that fits, and 1; both are 0 where no factor fits."""
    from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

    second_M, first_M, constant_M = torch.tensor(made.coefficients_M3, device=norms_C.device).T
    allowed_CM = mpc.squared(weight_C)[:, None] * second_M + weight_C[:, None] * first_M
    slack_CM = mpc.plus(allowed_CM - (norms_C << made.headroom)[:, None], constant_M)
    fits_CM = mpc.unpacked(mpc.masked(mpc.padded(slack_CM)).at_least(0))[:, : len(made.factors_M)]
    fits_CM = mpc.bits_to_integers(fits_CM)
    drops_M = torch.tensor(made.drops_M, device=norms_C.device)
    return torch.stack([(fits_CM * drops_M).sum(1), fits_CM[:, -1]])
