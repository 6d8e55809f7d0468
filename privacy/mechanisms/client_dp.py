"""Client-level differential privacy, central (McMahan et al. 2018).

Each client clips its update, and the server adds Gaussian noise to the *sum* before any other use of it. The guarantee
holds against everyone who sees the models, but not against the server. It claims no amplification by sampling of
cohorts: the server draws cohorts of a fixed size, and the theorems of amplification do not cover that.
Shapes: D is the number of values of the model.
"""

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.accounting import charges
from privacy.accounting.charges import Charge
from privacy.checks import LEAST_CLIP, MOST_CLIP, check_noise, clip_norm, positive, within
from privacy.errors import ConfigError
from privacy.mechanisms.client_clipping import clip_update, require_uniform, solve
from privacy.mechanisms.contract import SERVER, ClientJob, Mechanism, Plan, ServerJob
from privacy.mechanisms.signal import signal_to_noise

log = logging.getLogger("fedveil")


class ClientDp(Mechanism):
    """Clip at the client, Gaussian noise of `noise_multiplier` times the clip on the sum at the server.

    With `adaptive=true` the clip follows the `quantile` of the update norms (Andrew et al. 2021): each client adds to
    its vector a bit for whether it stayed below the clip, and the sum of these bits is noised too. `noise_multiplier`
    is the cost of both releases together (their Theorem 1). `clip` is the initial clip.
    """

    name = "client_dp"
    unit = "client"
    noised_by = SERVER
    floating_noise = True
    holds_against = ("outsider",)
    fixed_denominator = True

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        clip: float = 1.0,
        adaptive: bool = False,
        quantile: float = 0.5,
        clip_learning_rate: float = 0.2,
        bit_noise_fraction: float = 0.05,
    ) -> None:
        check_noise("mechanism.client_dp", noise_multiplier, target_epsilon)
        clip_norm("mechanism.client_dp.clip", clip)
        positive("mechanism.client_dp.clip_learning_rate", clip_learning_rate)
        positive("mechanism.client_dp.bit_noise_fraction", bit_noise_fraction)
        within("mechanism.client_dp.quantile", quantile)
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.clip = float(clip)
        self.adaptive = adaptive
        self._quantile = quantile
        self._clip_learning_rate = clip_learning_rate
        self._bit_noise_fraction = bit_noise_fraction
        self._bit_std = 0.0
        self._charge: Charge | None = None
        self._rounding = 0.0
        self.extra_values = 1 if adaptive else 0

    def initial_state(self) -> dict[str, float]:
        """Return the clip, which the server sends to the clients each round."""
        return {"client_dp.clip": self.clip}

    def settle(self, plan: Plan) -> None:
        """Check the plan, solve the noise, and split it between the sum and the bits.

        Raises:
            ConfigError: weights by examples, delta, an epsilon out of reach, or a bit noise below half of sigma.
        """
        require_uniform(self.name, plan)
        self._rounding = plan.rounding
        if self.target_epsilon is not None:
            self.noise_multiplier = solve(self.name, plan, self.target_epsilon, charges.gaussian_event, "zero_out")
        assert self.noise_multiplier is not None
        self._charge = Charge(self.name, self.unit, "zero_out", charges.gaussian_event(self.noise_multiplier))
        self._bit_std = self._bit_noise_fraction * plan.cohort_size
        if self.adaptive and self.noise_multiplier >= 2 * self._bit_std:
            raise ConfigError.of(
                "mechanism.client_dp.bit_noise_fraction",
                self._bit_noise_fraction,
                f"must be above noise_multiplier / (2 cohort) = {self.noise_multiplier / (2 * plan.cohort_size):.3g}",
            )

    @property
    def sum_multiplier(self) -> float:
        """Noise of the sum over the clip, raised to pay for the bits too (Andrew et al. 2021, Theorem 1)."""
        assert self.noise_multiplier is not None
        if not self.adaptive:
            return self.noise_multiplier
        return float((self.noise_multiplier**-2 - (2 * self._bit_std) ** -2) ** -0.5)

    def charge(self, client: int) -> Charge | None:  # noqa: ARG002
        """Return one Gaussian for each participation; the unit is the client, whose contribution is zeroed out."""
        return self._charge

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Clip the update, and record its norm and whether it was clipped."""
        clip = job.state["client_dp.clip"]
        clipped_D, norm = clip_update(job, self.name, update_D, clip, self._rounding)
        if self.adaptive:
            job.extra.append(float(norm <= clip) - 0.5)  # half the sensitivity of a bit
        return clipped_D

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add noise to the sum, and adapt the clip."""
        generator = job.randomness.generator()
        clip = job.state["client_dp.clip"]
        std = self.sum_multiplier * clip
        job.diagnostics["client_dp.clip"] = clip
        if self.adaptive:
            job.state["client_dp.clip"] = self._moved(clip, job.take_extra(1)[0], job.cohort_size, generator)
        noised_D = total_D + std * generator.standard_normal(len(total_D))
        job.diagnostics["client_dp.signal_to_noise"] = signal_to_noise(noised_D, std * math.sqrt(len(total_D)))
        return noised_D

    def _moved(self, clip: float, below: float, cohort_size: int, generator: np.random.Generator) -> float:
        """Return the clip after a geometric step towards the quantile (Andrew et al. 2021, section 2.1)."""
        std = self._bit_std * (1 + 2 * self._rounding)  # a bit is rounded too, and may be a little more than a half
        fraction = 0.5 + (below + float(generator.normal(0.0, std))) / cohort_size
        moved = clip * math.exp(-self._clip_learning_rate * (fraction - self._quantile))
        return float(min(max(moved, LEAST_CLIP), MOST_CLIP))
