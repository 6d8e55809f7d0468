"""`noised_sum`: the sum with noise on the update. Each party adds a share of the noise before the sum is opened.

Nobody ever holds the sum without noise. It is linear, so it needs no dealer, and it costs as much as the plain sum. The
weight carries no noise: under the zero-out relation the set of participants is public. The mechanism
`privacy.PartyDp` clips the updates and computes the privacy cost.
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
    """The sum with noise.

    `noise_multiplier`, in units of `clip`, is the noise that is left when `colluders` of the `parties` subtract theirs.
    """

    name = "noised_sum"
    linear = True
    uniform = True

    def __init__(self, noise_multiplier: float, clip: float, colluders: int = 1) -> None:
        self._arguments = noise_multiplier, clip, colluders

    def noise(self, parties: int, fractional_bits: int) -> PartyNoise:
        """The noise that the parties add, in steps of 2^-fractional_bits.

        Raises:
            ConfigError: a value is out of range, or there are as many colluders as parties.
        """
        return PartyNoise(*self._arguments, parties, fractional_bits)

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:
        """Check that the cohort's sum and the noise fit the ring.

        Raises:
            ConfigError: they do not fit, or the noise cannot be drawn.
        """
        require_updates(self.name, spec)
        noise = self.noise(parties, fractional_bits)
        noise.require_drawable()
        require_range(spec, fractional_bits, noise.reach)

    def _revealed(
        self,
        shares_CL: torch.Tensor,
        fractional_bits: int,
        randomness: Randomness,
        least: int,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

        noise = self.noise(mpc.parties(), fractional_bits)
        share_L = shares_CL.sum(0)
        drawn_D = skellam(randomness.generator(), noise.share_variance, len(share_L) - 1)
        share_L[:-1] += torch.from_numpy(drawn_D).to(share_L.device)
        return decoded(mpc.opened(share_L), fractional_bits)
