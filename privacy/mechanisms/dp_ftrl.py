"""Client-level differential privacy with correlated noise, for cohorts without sampling.

DP-FTRL (Kairouz et al. 2021, "Practical and Private (Deep) Learning without Sampling or Shuffling") as a matrix
mechanism with a banded strategy (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization"): the server
releases C x + z and its post-processing, with x the sums of the rounds, so its noise on the sum of round t is row t of
C^-1 z. Later rounds subtract most of a round's noise again, so the sum over rounds, which is the model, has less noise.

C is lower-triangular and Toeplitz with the first `bands` coefficients of (1 - x)^(-1/2), the square root of the
prefix-sum workload (Kalinin and Lampert 2024, "Banded Square Root Matrix Factorization"). The coefficients decrease, so
the noise of a round stays bounded over any number of rounds (Eneström and Kakeya: the polynomial has no root within the
unit disc).

**Price.** A client that takes part in round j adds to x_j, which C puts into rows j to j + bands - 1 with weights c.
If no client returns within `bands` rounds, the columns of C that a client touches have disjoint supports: each row of
C x + z is a Gaussian mechanism that depends on at most one of its participations, and the rows of one participation
together cost as much as a Gaussian of sensitivity |c| clip. So k participations cost exactly k Gaussians of
`noise_multiplier` (a participation in the last bands - 1 rounds lacks rows, and costs less than its charge). This also
holds if the clients' contributions depend on earlier releases (Denisov et al. 2022, Theorem 2.1).

A repeated round releases its row once more with fresh noise. The row depends on all participants of the last `bands`
rounds (`window`); the server charges them all once more, which is at least the cost of the row.

Shapes: D is the number of values of the model, B of bands, R of rounds, H of remembered rounds, at most B - 1.
"""

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter

from privacy.accounting import charges
from privacy.accounting.charges import Charge
from privacy.checks import check_noise, clip_norm
from privacy.errors import ConfigError
from privacy.mechanisms.client_clipping import clip_update, require_uniform, solve
from privacy.mechanisms.contract import SERVER, ClientJob, Mechanism, Plan, ServerJob
from privacy.mechanisms.signal import signal_to_noise
from privacy.secure_sums.trust import Sentences

HISTORY = "dp_ftrl.noise"
log = logging.getLogger("fedveil")


def coefficients(bands: int) -> NDArray[np.float64]:
    """Return the coefficients c_0 = 1, c_j = c_{j-1} (2 j - 1) / (2 j) of (1 - x)^(-1/2), shape (B,)."""
    steps = np.arange(1, bands, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


class DpFtrl(Mechanism):
    """DP-FTRL with a banded strategy matrix.

    `noise_multiplier` is the noise over the sensitivity of one participation, as in the other mechanisms, so the same
    value costs the same. `bands` (null: as many as the schedule's separation allows) is the number of rounds over which
    noise is correlated. The server keeps bands - 1 vectors of noise, 8 bytes a value, in memory and in each checkpoint.
    """

    name = "dp_ftrl"
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
        bands: int | None = None,
    ) -> None:
        check_noise("mechanism.dp_ftrl", noise_multiplier, target_epsilon)
        clip_norm("mechanism.dp_ftrl.clip", clip)
        if bands is not None and bands < 1:
            raise ConfigError.of("mechanism.dp_ftrl.bands", bands, "must be at least 1")
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.clip = float(clip)
        self._bands = bands
        self._coefficients_B = coefficients(1)
        self._std = 0.0  # standard deviation of a value of z
        self._round_std_R = np.zeros(0)  # standard deviation of a value of C^-1 z, by round
        self._charge: Charge | None = None
        self._rounding = 0.0

    def settle(self, plan: Plan) -> None:
        """Check the plan, choose the bands, solve the noise.

        Raises:
            ConfigError: weights by examples, delta, more bands than rounds from one participation to the next, or an
                epsilon out of reach.
        """
        require_uniform(self.name, plan)
        self._rounding = plan.rounding
        self.window = self._settled_bands(plan)
        if self.target_epsilon is not None:
            self.noise_multiplier = solve(self.name, plan, self.target_epsilon, charges.gaussian_event, "zero_out")
        assert self.noise_multiplier is not None
        self._charge = Charge(self.name, self.unit, "zero_out", charges.gaussian_event(self.noise_multiplier))
        c_B = self._coefficients_B = coefficients(self.window)
        self._std = float(self.noise_multiplier * self.clip * np.linalg.norm(c_B))
        inverse_R = lfilter([1.0], c_B, np.eye(1, plan.rounds)[0])  # the first column of C^-1
        self._round_std_R = self._std * np.sqrt(np.cumsum(np.square(inverse_R)))

    def _settled_bands(self, plan: Plan) -> int:
        wanted = plan.separation if self._bands is None else self._bands
        if wanted > plan.separation:
            raise ConfigError.of(
                "mechanism.dp_ftrl.bands",
                wanted,
                f"some client returns after {plan.separation} rounds: take at most as many bands, or "
                "sampler.name=separated and a larger sampler.min_separation",
            )
        bands = min(wanted, plan.rounds)  # a band beyond the last round would hold nothing
        log.info("dp_ftrl: bands=%d, %.3g MB of noise are kept", bands, (bands - 1) * plan.dimension * 8e-6)
        return bands

    def sentences(self) -> Sentences:
        """Return the sentence about the noise that the server keeps, where it keeps any."""
        kept = "The server's checkpoints hold the noise of the last rounds: whoever reads them takes it off the models."
        return {"noise": (kept,)} if self.window > 1 else {}

    def charge(self, client: int) -> Charge | None:  # noqa: ARG002
        """Return one Gaussian for each participation; the unit is the client, whose contributions are zeroed out."""
        return self._charge

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Clip the update, and record its norm and whether it was clipped."""
        return clip_update(job, self.name, update_D, self.clip, self._rounding)[0]

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add row t of C^-1 z to the sum: noise_t = z_t - sum_j c_j noise_{t-j}.

        The diagnostics compare the noised sum with the expected norm of this round's noise, before later rounds
        subtract it.
        """
        history_HD = self._history(job, len(total_D))
        noise_D = job.randomness.generator().standard_normal(len(total_D))
        noise_D *= self._std
        for weight, earlier_D in zip(self._coefficients_B[1:], history_HD, strict=False):
            noise_D -= weight * earlier_D  # in a fixed order, no matrix product: the same for any number of threads
        kept_HD = np.concatenate([noise_D[None], history_HD])[: self.window - 1]
        job.secrets[HISTORY] = torch.from_numpy(kept_HD)  # a new tensor: a failed round leaves the old one unchanged
        expected = float(self._round_std_R[job.round - 1]) * math.sqrt(len(total_D))
        noised_D: NDArray[np.float64] = total_D + noise_D
        job.diagnostics["dp_ftrl.signal_to_noise"] = signal_to_noise(noised_D, expected)
        return noised_D

    def _history(self, job: ServerJob, dimension: int) -> NDArray[np.float64]:
        """Return the noise of the last rounds, latest first, shape (H, D)."""
        none = torch.empty(0, dimension, dtype=torch.float64)
        history_HD: NDArray[np.float64] = job.secrets.get(HISTORY, none).numpy()
        assert history_HD.shape == (min(job.round, self.window) - 1, dimension), "noise of another round"
        return history_HD
