"""`noised_sum`: the sum, with noise on the update that each party adds a share of before it is opened.

Nobody ever holds the sum without noise. It is linear, so it needs no dealer, and costs what the sum costs. The weight
carries no noise: under zero-out who took part is no secret. `privacy.mechanisms.party_dp`, the mechanism beside it,
clips and says what the noise costs in privacy.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.noise.parties import PartyNoise
from privacy.noise.samplers import skellam
from privacy.randomness import Randomness
from privacy.secure_sums.mpc.aggregates.contract import Aggregate, decoded, require_range, require_updates
from privacy.secure_sums.vectors import VectorSpec


class NoisedSum(Aggregate):
    """`noise_multiplier` is the noise, over `clip`, that stays when `colluders` of the `parties` take theirs off."""

    name = "noised_sum"
    linear = True
    uniform = True

    def __init__(self, noise_multiplier: float, clip: float, colluders: int = 1) -> None:
        self._arguments = noise_multiplier, clip, colluders

    def noise(self, parties: int, fractional_bits: int) -> PartyNoise:
        """What so many parties add, in steps of so many fractional bits.

        Raises:
            ConfigError: a value out of range, or as many colluders as parties.
        """
        return PartyNoise(*self._arguments, parties, fractional_bits)

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:
        """The cohort's sum and the noise.

        Raises:
            ConfigError: they do not fit, or the noise cannot be drawn.
        """
        require_updates(self.name, spec)
        noise = self.noise(parties, fractional_bits)
        noise.require_drawable()
        require_range(spec, fractional_bits, noise.reach)

    def _revealed(self, shares_CL: torch.Tensor, fractional_bits: int, randomness: Randomness) -> NDArray[np.float64]:
        from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

        noise = self.noise(mpc.parties(), fractional_bits)
        share_L = shares_CL.sum(0)
        drawn_D = skellam(randomness.generator(), noise.share_variance, len(share_L) - 1)
        share_L[:-1] += torch.from_numpy(drawn_D).to(share_L.device)
        return decoded(mpc.opened(share_L), fractional_bits)
