"""Noise that the parties of an MPC add to a sum before they open it: its size, and its privacy cost.

Each of P parties adds Skellam noise of variance sigma^2 / (P - c) from its own randomness, in integers. The opened sum
carries P shares of noise. If c parties collude, they can subtract theirs, and the rest has the variance sigma^2, with
sigma = noise_multiplier * clip. A sum of Skellam noise is Skellam noise, so there is an exact event for any number of
known shares (Agarwal, Kairouz and Liu 2021, Theorem 3.5). The relation is zero-out: in the neighbouring data set the
client's update is zero.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.checks import clip_norm, positive
from privacy.errors import ConfigError
from privacy.noise.samplers import VARIANCE_RANGE

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclass(frozen=True)
class PartyNoise:
    """The parties' noise. Its properties are in steps of 2^-fractional_bits; `clip` bounds the L2 norm of an update.

    Raises:
        ConfigError: a value is out of range.
    """

    noise_multiplier: float
    clip: float
    colluders: int
    parties: int
    fractional_bits: int

    def __post_init__(self) -> None:
        """Check the values."""
        positive("secure_sum.aggregate.noise_multiplier", self.noise_multiplier)
        clip_norm("secure_sum.aggregate.clip", self.clip)
        if not 0 <= self.colluders < self.parties:
            allowed = f"must be from 0 to parties - 1 = {self.parties - 1}: the noise of at least one party must stay"
            raise ConfigError.of("secure_sum.aggregate.colluders", self.colluders, allowed)

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of one update, in steps."""
        return math.ldexp(self.clip, self.fractional_bits)

    @property
    def share_variance(self) -> float:
        """The variance of one party's noise on one coordinate, in steps squared."""
        return (self.noise_multiplier * self.sensitivity) ** 2 / (self.parties - self.colluders)

    def require_drawable(self) -> None:
        """Refuse a step size at which a party's share of the noise is too small or too large to be drawn.

        Raises:
            ConfigError: the share is too small or too large.
        """
        low, high = VARIANCE_RANGE
        if not low <= self.share_variance <= high:
            allowed = f"a party's noise has the variance {self.share_variance:.3g} in steps: {low:.3g} to {high:.3g} do"
            raise ConfigError.of("secure_sum.fractional_bits", self.fractional_bits, allowed)

    @property
    def reach(self) -> float:
        """A bound on the noise of all parties on one coordinate, in steps; it fails with probability 2^-40."""
        from privacy.noise.cost_of_integer_noise import coordinate_bound

        return coordinate_bound(self.parties, 0.0, 1, self.share_variance)

    def event(self, dimension: int, known: int, rounds: int, delta: float) -> "DpEvent":
        """The event of one participation, against an adversary that knows the noise of `known` parties.

        Of the two bounds, it is the one that costs less over `rounds` rounds.

        Raises:
            ConfigError: delta lies outside (0, 1).
        """
        from privacy.noise.cost_of_integer_noise import l1_bound, skellam_zcdp, tightest

        assert known < self.parties
        l1 = l1_bound(self.sensitivity, dimension)
        variance = self.share_variance * (self.parties - known)
        return tightest(skellam_zcdp(l1, self.sensitivity, variance), rounds, delta)
