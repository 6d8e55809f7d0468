"""Distributed differential privacy: each client adds a share of integer noise, so the *sum* carries all of it.

Each client clips, rotates, scales, rounds conditionally, adds a share of Skellam (Agarwal, Kairouz and Liu 2021,
Algorithm 1) or discrete Gaussian noise (Kairouz, Liu and Steinke 2021, Algorithm 1), and reduces modulo 2^bits. Under a
secure sum that hides contributions the guarantee holds against the server too, and no party ever holds the sum without
its noise. Under a plain sum the server sees each client's vector under one noise share alone, so the guarantee holds
against outsiders only.

Epsilon is charged for the noise of `min_contributors - colluders` honest shares, however many clients answer: the
opener of the sum refuses fewer than `min_contributors`, and further shares only add noise. The relation is zero-out:
the neighbour's vector becomes zero, while its noise share and the number of survivors, by which the sum is divided,
stay.

Shapes: D is the number of model parameters, P the least power of two that is not below it.
"""

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from dp_accounting import DpEvent
from numpy.typing import NDArray

from privacy.accounting.charges import Charge
from privacy.checks import check_noise, clip_norm
from privacy.errors import ConfigError
from privacy.mechanisms.client_clipping import clip_update, require_uniform, solve
from privacy.mechanisms.contract import CLIENT, ClientJob, Mechanism, Plan, ServerJob
from privacy.mechanisms.signal import signal_to_noise
from privacy.noise import cost_of_integer_noise as noise
from privacy.noise.integer_encoding import (
    MAX_MODULUS_BITS,
    Rotation,
    conditional_round,
    from_modulus,
    padded_length,
    rotation,
    rounded_norm_bound,
    to_modulus,
)
from privacy.noise.samplers import VARIANCE_RANGE, discrete_gaussian, skellam

DISTRIBUTIONS = ("skellam", "discrete_gaussian")
BETA = math.exp(-0.5)  # parameter of conditional rounding: both papers' choice
MOST_INFLATION = 2.0  # largest factor by which rounding may raise the sensitivity
LEAST_BITS = 4
MOST_L2 = 2.0**50  # doubles are integers beyond 2^52
log = logging.getLogger("fedveil")


@dataclass(frozen=True)
class RoundingGrid:
    """The grid of integers for updates: `scale` integers per unit. All other fields are in units of the integers."""

    scale: float
    l2: float  # sensitivity: the norm bound of conditional rounding
    variance: float  # variance of one client's share, on each coordinate
    bits: int  # bits of the modulus that the sum needs


class DistributedDp(Mechanism):
    """Distributed differential privacy by integer noise shares.

    `noise_multiplier` is the noise of the honest shares' sum over the clip, and `bits` the bits of the sum's modulus.
    The scale is the finest at which a coordinate of the sum wraps with probability at most 2^-40 per coordinate and
    round, and at which the noise can be drawn. `colluders` is the number of clients that may tell the server their
    shares.
    """

    name = "distributed_dp"
    unit = "client"
    noised_by = CLIENT
    floating_noise = False

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        clip: float = 1.0,
        bits: int = 16,
        colluders: int = 0,
        distribution: str = "skellam",
    ) -> None:
        key = f"mechanism.{self.name}"
        check_noise(key, noise_multiplier, target_epsilon)
        clip_norm(f"{key}.clip", clip)
        if not LEAST_BITS <= bits <= MAX_MODULUS_BITS:
            raise ConfigError.of(f"{key}.bits", bits, f"must be from {LEAST_BITS} to {MAX_MODULUS_BITS}")
        if distribution not in DISTRIBUTIONS:
            raise ConfigError.of(f"{key}.distribution", distribution, f"allowed are {', '.join(DISTRIBUTIONS)}")
        if colluders < 0:
            raise ConfigError.of(f"{key}.colluders", colluders, "must be at least 0")
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.clip = float(clip)
        self.modulus_bits = bits
        self._colluders = colluders
        self._distribution = distribution
        self._dimension = 0
        self._grid: RoundingGrid | None = None
        self._charge: Charge | None = None

    def settle(self, plan: Plan) -> None:
        """Check the plan, solve the noise, choose the scale.

        Raises:
            ConfigError: weights by examples, delta, fewer than two honest shares, too few bits, or an epsilon out of
                reach.
        """
        require_uniform(self.name, plan)
        self._require_shares(plan)
        self._dimension = plan.dimension
        if plan.hidden:
            several = f"server with {self._colluders} clients"
            self.holds_against = ("outsider", "server", *([several] if self._colluders else []))
        else:
            self.holds_against = ("outsider",)
        if self.target_epsilon is not None:
            self.noise_multiplier = solve(
                self.name,
                plan,
                self.target_epsilon,
                lambda sigma: self._event(plan, self._finest(plan, sigma)),
                "zero_out",
            )
        assert self.noise_multiplier is not None
        self._grid = self._finest(plan, self.noise_multiplier)
        self._charge = Charge(self.name, self.unit, "zero_out", self._event(plan, self._grid))
        inflation = self._grid.l2 / (self.clip * self._grid.scale)
        log.info("distributed_dp: scale=%.6g, rounding raises the sensitivity by %.2g", self._grid.scale, inflation)

    def _require_shares(self, plan: Plan) -> None:
        if plan.min_contributors - self._colluders < 2:
            raise ConfigError.of(
                "server.min_contributors",
                plan.min_contributors,
                f"must be at least colluders + 2 = {self._colluders + 2}: at least two honest clients share the noise",
            )

    def _grid_at(self, plan: Plan, sigma: float, scale: float) -> RoundingGrid:
        """Return the grid of a scale; a scale that is far too fine gives more bits than any modulus has."""
        scaled = self.clip * scale
        padded = padded_length(plan.dimension)
        l2 = rounded_norm_bound(scaled, padded, BETA)
        variance = noise.share_variance(sigma, l2, plan.min_contributors, self._colluders)
        bound = noise.coordinate_bound(plan.cohort_size, scaled, padded, variance)
        return RoundingGrid(scale, l2, variance, 1 + math.ceil(math.log2(bound)))

    def _finest(self, plan: Plan, sigma: float) -> RoundingGrid:
        """Return the largest scale at which sums fit the modulus, by bisection of its logarithm.

        Raises:
            ConfigError: too few bits.
        """
        least = math.sqrt(padded_length(plan.dimension)) / self.clip / 4
        low = math.log2(least)
        high = math.log2(least) + MAX_MODULUS_BITS
        if not self._fits(plan, sigma, 2.0**low):
            self._refuse_bits(plan, sigma, least)
        while high - low > 2**-20:
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(plan, sigma, 2.0**middle) else (low, middle)
        grid = self._grid_at(plan, sigma, 2.0**low)
        if grid.variance < VARIANCE_RANGE[0]:
            raise ConfigError.of(f"mechanism.{self.name}.noise_multiplier", sigma, "too small to be drawn: raise it")
        if grid.l2 > MOST_INFLATION * self.clip * grid.scale:
            self._refuse_bits(plan, sigma, grid.scale)
        return grid

    def _fits(self, plan: Plan, sigma: float, scale: float) -> bool:
        grid = self._grid_at(plan, sigma, scale)
        assert self.modulus_bits is not None
        return grid.bits <= self.modulus_bits and grid.variance <= VARIANCE_RANGE[1] and grid.l2 <= MOST_L2

    def _refuse_bits(self, plan: Plan, sigma: float, scale: float) -> None:
        while self._grid_at(plan, sigma, scale).l2 > MOST_INFLATION * self.clip * scale:
            scale *= 1.1
        needed = self._grid_at(plan, sigma, scale).bits
        allowed = f"too few: rounding would more than double the sensitivity; needs {needed}"
        raise ConfigError.of(f"mechanism.{self.name}.bits", self.modulus_bits, allowed)

    def _event(self, plan: Plan, grid: RoundingGrid) -> DpEvent:
        """Return the event of one participation under the honest shares' noise: the cheapest bound over the run."""
        padded = padded_length(plan.dimension)
        honest = noise.honest_shares(plan.min_contributors, self._colluders)
        if self._distribution == "skellam":
            bounds: Any = noise.skellam_zcdp(noise.l1_bound(grid.l2, padded), grid.l2, grid.variance * honest)
        else:
            bounds = noise.discrete_gaussian_zcdp(grid.l2, padded, math.sqrt(grid.variance), honest)
        return noise.tightest(bounds, max(1, *plan.participations), plan.delta)

    def summed_length(self, dimension: int) -> int:
        """Return P: the rotation works on a power of two."""
        return padded_length(dimension)

    def charge(self, client: int) -> Charge | None:  # noqa: ARG002
        """Return the charge of one participation, equal for all clients."""
        return self._charge

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Return the residues of the clipped, rotated, rounded and noised update, int64, shape (P,), on the host."""
        grid = self._grid
        bits = self.modulus_bits
        assert grid is not None
        assert bits is not None
        clipped_D, _ = clip_update(job, self.name, update_D, self.clip)
        rotated_P = rotation_of(len(clipped_D), job.round).apply(clipped_D.cpu().numpy())
        generator = job.randomness.generator()
        rounded_P = conditional_round(rotated_P * grid.scale, grid.l2, generator)
        rounded_P += self._share(generator, grid, len(rounded_P))
        return torch.from_numpy(to_modulus(rounded_P, bits))

    def _share(self, generator: np.random.Generator, grid: RoundingGrid, size: int) -> NDArray[np.int64]:
        if self._distribution == "skellam":
            return skellam(generator, grid.variance, size)
        return discrete_gaussian(generator, math.sqrt(grid.variance), size)

    def on_total(self, job: ServerJob, total_D: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum of updates, noise included, shape (D,), from residues of shape (P,)."""
        grid = self._grid
        bits = self.modulus_bits
        assert grid is not None
        assert bits is not None
        rotated_P = from_modulus(total_D, bits) / grid.scale
        noise_norm = math.sqrt(len(rotated_P) * grid.variance * len(job.survivors)) / grid.scale
        job.diagnostics["distributed_dp.signal_to_noise"] = signal_to_noise(rotated_P, noise_norm)
        return rotation_of(self._dimension, job.round).invert(rotated_P)


@lru_cache(maxsize=2)  # all clients of a round share it
def rotation_of(dimension: int, number: int) -> Rotation:
    """Return the public rotation of a round."""
    return rotation(dimension, "distributed_dp", number)
