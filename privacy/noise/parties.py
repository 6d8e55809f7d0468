"""Noise that the parties of an MPC add to a sum before they open it: its size, and what it costs.

Each of P parties adds Skellam noise of variance sigma^2 / (P - c) from its own randomness, in integers. What is opened
carries P shares; c parties that collude can take theirs off, and what is left has the variance sigma^2, with
sigma = noise_multiplier * clip. Skellam noise adds up to Skellam noise, so each of these counts has an exact event
(Agarwal, Kairouz and Liu 2021, Theorem 3.5). The relation is zero-out: the neighbour's update becomes zero.
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
    """In steps of 2^-fractional_bits, but for `clip`, which bounds the L2 norm of an update.

    Raises:
        ConfigError: a value out of range.
    """

    noise_multiplier: float
    clip: float
    colluders: int
    parties: int
    fractional_bits: int

    def __post_init__(self) -> None:
        """Check what was given."""
        positive("secure_sum.aggregate.noise_multiplier", self.noise_multiplier)
        clip_norm("secure_sum.aggregate.clip", self.clip)
        if not 0 <= self.colluders < self.parties:
            allowed = f"must be from 0 to parties - 1 = {self.parties - 1}: somebody's noise must stay"
            raise ConfigError.of("secure_sum.aggregate.colluders", self.colluders, allowed)

    @property
    def sensitivity(self) -> float:
        """The L2 norm that one update has at most."""
        return math.ldexp(self.clip, self.fractional_bits)

    @property
    def share_variance(self) -> float:
        """Of one party's noise on one coordinate."""
        return (self.noise_multiplier * self.sensitivity) ** 2 / (self.parties - self.colluders)

    def require_drawable(self) -> None:
        """Refuse steps at which a party's share is too small or too large to be drawn.

        Raises:
            ConfigError: it is.
        """
        low, high = VARIANCE_RANGE
        if not low <= self.share_variance <= high:
            allowed = f"a party's noise has the variance {self.share_variance:.3g} in steps: {low:.3g} to {high:.3g} do"
            raise ConfigError.of("secure_sum.fractional_bits", self.fractional_bits, allowed)

    @property
    def reach(self) -> float:
        """What the noise of all parties stays below on a coordinate, but with probability 2^-40."""
        from privacy.noise.cost_of_integer_noise import coordinate_bound

        return coordinate_bound(self.parties, 0.0, 1, self.share_variance)

    def event(self, dimension: int, known: int, rounds: int, delta: float) -> "DpEvent":
        """One participation, against who knows the noise of so many parties: the cheaper bound over so many rounds.

        Raises:
            ConfigError: delta outside (0, 1).
        """
        from privacy.noise.cost_of_integer_noise import l1_bound, skellam_zcdp, tightest

        assert known < self.parties
        l1 = l1_bound(self.sensitivity, dimension)
        variance = self.share_variance * (self.parties - known)
        return tightest(skellam_zcdp(l1, self.sensitivity, variance), rounds, delta)
