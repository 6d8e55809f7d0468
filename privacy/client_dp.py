"""Client-level differential privacy, central (McMahan et al. 2018) and local (Balle and Wang 2018).

Central: each client clips its update, and the server adds Gaussian noise to the *sum* before any other use of it. The
guarantee holds against everyone who sees the models, but not against the server. Local: each client adds noise to its
own update. Neither claims amplification by sampling of cohorts: the server draws cohorts of a fixed size, and the
theorems of amplification do not cover that.
Shapes: D is the number of values of the model.
"""

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from dp_accounting import DpEvent, SelfComposedDpEvent
from numpy.typing import NDArray

from privacy import calibration, charges
from privacy.charges import Charge
from privacy.encoding import clip_l2
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.mechanism import ClientJob, Mechanism, Plan, ServerJob
from privacy.parameters import LEAST_CLIP, MOST_CLIP, check_noise, clip_norm, positive, within

log = logging.getLogger("fedveil")


def clip_to(update_D: torch.Tensor, bound: float) -> tuple[torch.Tensor, float]:
    """Return the update scaled to an L2 norm of at most `bound`, and its norm before; a zero update stays zero.

    Raises:
        NonFiniteContribution: the update holds NaN or infinity, which scaling cannot repair.
    """
    host_D = update_D.cpu().numpy()
    clipped_D = clip_l2(host_D, bound)
    norm = float(np.linalg.norm(host_D.astype(np.float64)))  # in float32 the square of 1e20 is infinite
    return (update_D if clipped_D is host_D else torch.from_numpy(clipped_D).to(update_D.device)), norm


def clip_within(update_D: torch.Tensor, clip: float, rounding: float) -> tuple[torch.Tensor, float]:
    """Clip like `clip_to`, but leave room for the secure sum's rounding: the sum's sensitivity is `clip`.

    Raises:
        PrivacyRefusal: rounding alone takes more than half of the clip.
        NonFiniteContribution: the update holds NaN or infinity.
    """
    if 2 * rounding > clip:
        raise PrivacyRefusal(
            f"the secure sum may move an update by {rounding:.3g}, over half the clip of {clip:.3g}: "
            "raise secure_sum.value_bits, or lower secure_sum.bound"
        )
    return clip_to(update_D, clip - rounding)


def require_uniform(mechanism: str, plan: Plan) -> None:
    """Refuse a plan with weights by examples: they would let one client count for more than the clip.

    Raises:
        ConfigError: weights by examples; delta too large for the number of clients.
    """
    if not plan.uniform_weights:
        raise ConfigError.of("training.weighting", "examples", f"{mechanism} needs training.weighting=uniform")
    if plan.delta >= 1 / plan.clients:
        raise ConfigError.of("delta", plan.delta, f"must be below 1/clients = {1 / plan.clients:.2g}")


def solve(
    mechanism: str, plan: Plan, target_epsilon: float, event_of: Callable[[float], DpEvent], relation: str
) -> float:
    """Return the noise multiplier at which the client with the most participations pays `target_epsilon`."""
    times = max(plan.participations)

    def run_of(sigma: float) -> DpEvent:
        return SelfComposedDpEvent(event_of(sigma), times)

    sigma = calibration.solve_noise_multiplier(run_of, target_epsilon, plan.delta, plan.accountant, relation)
    log.info("%s: noise_multiplier=%.4f for epsilon=%g", mechanism, sigma, target_epsilon)
    return sigma


class ClientDp(Mechanism):
    """Clip at the client, Gaussian noise of `noise_multiplier` times the clip on the sum at the server.

    With `adaptive=true` the clip follows the `quantile` of the update norms (Andrew et al. 2021): each client adds to
    its vector a bit for whether it stayed below the clip, and the sum of these bits is noised too. `noise_multiplier`
    is the cost of both releases together (their Theorem 1). `clip` is the initial clip.
    """

    name = "client_dp"
    unit = "client"
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
        clipped_D, norm = clip_within(update_D, clip, self._rounding)
        job.diagnostics |= {"client_dp.update_norm": norm, "client_dp.clipped_fraction": float(norm > clip)}
        if self.adaptive:
            job.extra.append(float(norm <= clip) - 0.5)  # half the sensitivity of a bit
        return clipped_D

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add noise to the sum, and adapt the clip."""
        generator = job.randomness.generator()
        clip = job.state["client_dp.clip"]
        std = self.sum_multiplier * clip
        noise = std * math.sqrt(len(total_D))
        job.diagnostics["client_dp.signal_to_noise"] = float(np.linalg.norm(total_D)) / noise if noise else math.inf
        job.diagnostics["client_dp.clip"] = clip
        if self.adaptive:
            job.state["client_dp.clip"] = self._moved(clip, job.take_extra(1)[0], job.cohort_size, generator)
        return total_D + std * generator.standard_normal(len(total_D))

    def _moved(self, clip: float, below: float, cohort_size: int, generator: np.random.Generator) -> float:
        """Return the clip after a geometric step towards the quantile (Andrew et al. 2021, section 2.1)."""
        std = self._bit_std * (1 + 2 * self._rounding)  # a bit is rounded too, and may be a little more than a half
        fraction = 0.5 + (below + float(generator.normal(0.0, std))) / cohort_size
        moved = clip * math.exp(-self._clip_learning_rate * (fraction - self._quantile))
        return float(min(max(moved, LEAST_CLIP), MOST_CLIP))


class LocalDp(Mechanism):
    """Clipping and noise at each client: no other party has to be trusted, and averaging alone reduces the noise.

    `noise_multiplier`, or `epsilon_per_round` by the analytic Gaussian mechanism (Balle and Wang 2018, Algorithm 1), or
    `target_epsilon` for the whole run. Under replacement two clipped updates are 2 clip apart.
    """

    name = "local_dp"
    unit = "client"
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
        clipped_D, norm = clip_to(update_D, self.clip)
        std = 2 * self.clip * self.noise_multiplier
        noise_D = job.randomness.generator().standard_normal(len(clipped_D), np.float32)
        job.diagnostics |= {"local_dp.update_norm": norm, "local_dp.clipped_fraction": float(norm > self.clip)}
        return clipped_D + torch.from_numpy(noise_D).mul_(std).to(clipped_D.device)
