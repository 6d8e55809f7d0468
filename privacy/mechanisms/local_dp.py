"""Client-level differential privacy, local: each client noises its own update (Balle and Wang 2018).

Shapes: D is the number of values of the model.
"""

import numpy as np
import torch

from privacy.accounting import calibration, charges
from privacy.accounting.charges import Charge
from privacy.checks import check_noise, clip_norm, positive
from privacy.errors import ConfigError
from privacy.mechanisms.client_clipping import clip_update, require_uniform, solve
from privacy.mechanisms.contract import CLIENT, ClientJob, Mechanism, Plan


class LocalDp(Mechanism):
    """Clipping and noise at each client: no other party has to be trusted, and averaging alone reduces the noise.

    `noise_multiplier`, or `epsilon_per_round` by the analytic Gaussian mechanism (Balle and Wang 2018, Algorithm 1), or
    `target_epsilon` for the whole run. Under replacement two clipped updates are 2 clip apart.
    """

    name = "local_dp"
    unit = "client"
    noised_by = CLIENT
    floating_noise = True
    holds_against = ("outsider", "server")

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        epsilon_per_round: float | None = None,
        clip: float = 1.0,
    ) -> None:
        if epsilon_per_round is None:
            check_noise("mechanism.local_dp", noise_multiplier, target_epsilon)
        elif noise_multiplier is not None or target_epsilon is not None:
            raise ConfigError.of(
                "mechanism.local_dp.epsilon_per_round",
                epsilon_per_round,
                "noise_multiplier and target_epsilon must be null beside it",
            )
        else:
            positive("mechanism.local_dp.epsilon_per_round", epsilon_per_round)
        clip_norm("mechanism.local_dp.clip", clip)
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.clip = clip
        self._epsilon_per_round = epsilon_per_round
        self._charge: Charge | None = None

    def settle(self, plan: Plan) -> None:
        """Check the plan and solve the noise, in units of the sensitivity 2 clip.

        Raises:
            ConfigError: weights by examples, delta, or an epsilon out of reach.
        """
        require_uniform(self.name, plan)
        if self._epsilon_per_round is not None:
            self.noise_multiplier = calibration.analytic_gaussian_sigma(self._epsilon_per_round, plan.delta)
        elif self.target_epsilon is not None:
            self.noise_multiplier = solve(self.name, plan, self.target_epsilon, charges.gaussian_event, "replace")
        assert self.noise_multiplier is not None
        self._charge = Charge(self.name, self.unit, "replace", charges.gaussian_event(self.noise_multiplier))

    def charge(self, client: int) -> Charge | None:  # noqa: ARG002
        """Return one Gaussian for each participation, over all pairs of updates that a client could have sent."""
        return self._charge

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Clip, and add noise of `noise_multiplier` times twice the clip."""
        assert self.noise_multiplier is not None
        clipped_D, _ = clip_update(job, self.name, update_D, self.clip)
        std = 2 * self.clip * self.noise_multiplier
        noise_D = job.randomness.generator().standard_normal(len(clipped_D), np.float32)
        return clipped_D + torch.from_numpy(noise_D).mul_(std).to(clipped_D.device)
