"""Clipping of whole updates, and the checks that every client-level mechanism makes.

Shapes: D is the number of values of the model.
"""

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from dp_accounting import DpEvent, SelfComposedDpEvent

from privacy.accounting import calibration
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.mechanisms.contract import ClientJob, Plan
from privacy.noise.integer_encoding import clip_l2

log = logging.getLogger("fedveil")
Clipped = tuple[torch.Tensor, float]  # the clipped update, shape (D,), and its norm before: infinite if not finite


def clip_to(update_D: torch.Tensor, bound: float) -> Clipped:
    """Return the update scaled to an L2 norm of at most `bound`, and its norm before; a zero update stays zero.

    An update that holds NaN or infinity, which scaling cannot repair, becomes zero, and its norm is infinite: to refuse
    it would tell the server something of the client's examples, which no noise covers.
    """
    host_D = update_D.cpu().numpy()
    if not np.isfinite(host_D).all():
        return torch.zeros_like(update_D), math.inf
    clipped_D = clip_l2(host_D, bound)
    norm = float(np.linalg.norm(host_D.astype(np.float64)))  # in float32 the square of 1e20 is infinite
    return (update_D if clipped_D is host_D else torch.from_numpy(clipped_D).to(update_D.device)), norm


def clip_update(job: ClientJob, mechanism: str, update_D: torch.Tensor, clip: float, rounding: float = 0.0) -> Clipped:
    """Clip like `clip_to`, but leave room for the secure sum's rounding: the sum's sensitivity is `clip`.

    Whether the update was clipped, its norm and whether it was finite go into the job's diagnostics.

    Raises:
        PrivacyRefusal: rounding alone takes more than half of the clip.
    """
    if 2 * rounding > clip:
        raise PrivacyRefusal(
            f"the secure sum may move an update by {rounding:.3g}, over half the clip of {clip:.3g}: "
            "raise secure_sum.value_bits, or lower secure_sum.bound"
        )
    clipped_D, norm = clip_to(update_D, clip - rounding)
    told = ("update_norm", norm) if math.isfinite(norm) else ("not_finite", 1.0)
    job.diagnostics |= {f"{mechanism}.{told[0]}": told[1], f"{mechanism}.clipped_fraction": float(norm > clip)}
    return clipped_D, norm


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

    sigma = calibration.solve_noise_multiplier(
        run_of, target_epsilon, plan.delta, plan.accountant, relation, f"mechanism.{mechanism}.target_epsilon"
    )
    log.info("%s: noise_multiplier=%.4f for epsilon=%g", mechanism, sigma, target_epsilon)
    return sigma
