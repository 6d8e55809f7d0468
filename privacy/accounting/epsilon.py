"""The epsilon that mechanisms cost: three accountants compute it from events (`privacy.accounting.charges`).

- `prv`, Opacus (Gopi et al. 2021): Gaussians, alone or Poisson sampled. Its errors of epsilon (0.01) and delta (a
  thousandth) are added, so it is an upper bound.
- `pld`, dp-accounting (Doroshenko et al. 2022): Gaussian and Laplace, alone or Poisson sampled. Tight, and rounded up
  but for the rounding of its convolutions, which is taken from delta (`PLD_ROUNDING`).
- `rdp`, dp-accounting (Mironov 2017, Canonne et al. 2020): accounts the most kinds of events. Looser, but never
  expensive. `ZCDp` events are composed at integer orders, because the theorem about Skellam noise is stated for those.

**Noise is in units of the sensitivity under the named relation.** With vectors clipped to C that sensitivity is C
under `add_remove` and `zero_out`, and 2 C under `replace`. So an unsampled mechanism costs the same under each.

- `zero_out` (Kairouz et al. 2021, Definition 1.1): a record that becomes zero gives a Gaussian, sampled or not, the
  same two distributions as a removed record. dp-accounting treats it so (`pld.from_gaussian_mechanism`), and so does
  this module.
- `replace` with `pld`: dp-accounting takes noise in units of C there, so the noise is doubled before the call.
- `replace` with `rdp`: a Gaussian of the full sensitivity, or sampled without replacement (Wang et al. 2019, Theorem
  27, with noise in units of the sensitivity too); dp-accounting refuses Poisson sampling.
- `replace` with `prv`: a Gaussian of the full sensitivity. Sampled Gaussians are refused: Opacus accounts for adding
  and removing only.
- Both directions: `pld` takes the worse one. `prv` and `rdp` take removal, which is the worse direction of a single
  sampled Gaussian (Mironov et al. 2019, Theorem 5); a test compares `prv` with `pld` under composition.
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    ZCDpEvent,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.integrate import IntegrationWarning

from privacy.accounting.charges import RELATIONS, Leaves, kind_of, leaves_of, one_of
from privacy.checks import ACCOUNTANTS
from privacy.errors import ConfigError

NEIGHBORS = {
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace": NeighboringRelation.REPLACE_ONE,
}

PRV_EPSILON_ERROR = 0.01
PRV_DELTA_ERROR = 1e-3  # times delta
PRV_LEAST_DELTA = 1e-10  # below it the FFT's rounding exceeds the stated error: at 1e-11 it gave less than pld
PLD_INTERVAL = 1e-4  # dp-accounting's default
PLD_TAIL = 1e-15  # dp-accounting's default: this mass counts as an infinite loss after each composition
PLD_ROUNDING = 1e-13  # of delta, by convolutions in floating point: at most 3e-14 was seen, on the wrong side
PLD_LEAST_DELTA = 1e-10  # below it, rounding and tail are no small part of delta
MOST_POINTS = 2**23  # largest number of points of a discretised privacy loss: about 1.5 GB and 10 s

# Orders for bounds that are stated for integer orders alone: dense where epsilon is large, and high enough for 1e-3.
INTEGER_ORDERS = (*range(2, 129), *(round(2 ** (k / 8)) for k in range(57, 129)))

# dp-accounting leaves out a low order at which Renyi DP does not converge (still a bound), and warns each time.
logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith("_compute_log_a_frac"))


def check_delta(delta: float) -> None:
    """Refuse a delta that is not a probability.

    Raises:
        ConfigError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ConfigError.of("delta", delta, "must be between 0 and 1")


def epsilon(event: DpEvent, delta: float, accountant: str, relation: str = "add_remove") -> float:
    """Return the epsilon of an event at `delta`: 0 if nothing is released, infinity if a release has no noise.

    Never NaN. Results are cached.

    Raises:
        ConfigError: the accountant cannot account the event under this relation, or would need too much memory or
            precision. The message names an accountant that can account it.
    """
    check_delta(delta)
    one_of("accountant", accountant, ACCOUNTANTS)
    one_of("relation", relation, RELATIONS)
    return _epsilon(leaves_of(event), delta, accountant, relation)


@lru_cache(maxsize=4096)
def _epsilon(leaves: Leaves, delta: float, accountant: str, relation: str) -> float:
    if not leaves:
        return 0.0
    if any(_is_bare(leaf) for leaf, _ in leaves):
        return math.inf
    _refuse_unsupported(leaves, accountant, relation)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Opacus searches for a large enough domain; a best order at the end of its list only enlarges the domain
            warnings.filterwarnings("ignore", "Optimal order is the")
            # the mean of a loss that is almost always 0, which it integrates to more digits than doubles have
            warnings.filterwarnings("ignore", category=IntegrationWarning)
            value = float(ACCOUNT[accountant](leaves, delta, relation))
    except ConfigError:
        raise
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise _too_much(accountant, str(error)) from error
    if math.isnan(value):
        raise _too_much(accountant, "epsilon is not a number")
    return max(0.0, value)


def _is_bare(leaf: DpEvent) -> bool:
    """Tell whether the event releases a value without noise."""
    if isinstance(leaf, PoissonSampledDpEvent | SampledWithoutReplacementDpEvent):
        return any(_is_bare(inner) for inner, _ in leaves_of(leaf.event))
    return isinstance(leaf, NonPrivateDpEvent) or getattr(leaf, "noise_multiplier", None) == 0


def _too_much(accountant: str, why: str) -> ConfigError:
    remedy = "raise the noise" if accountant == "rdp" else "use accountant=rdp"
    return ConfigError.of("accountant", accountant, f"cannot compute this epsilon ({why}); {remedy}")


def _supports(accountant: str, leaf: DpEvent, relation: str) -> bool:
    gaussian = isinstance(_released(leaf), GaussianDpEvent)
    if accountant == "prv":
        return gaussian and (relation != "replace" or isinstance(leaf, GaussianDpEvent))  # in units of its sensitivity
    if accountant == "pld":
        return bool(PLDAccountant(NEIGHBORS[relation]).supports(leaf)) and (gaussian or relation != "replace")
    return bool(RdpAccountant(neighboring_relation=NEIGHBORS[relation]).supports(leaf))


def _released(leaf: DpEvent) -> DpEvent:
    return leaf.event if isinstance(leaf, PoissonSampledDpEvent) else leaf


def _refuse_unsupported(leaves: Leaves, accountant: str, relation: str) -> None:
    able = [name for name in ACCOUNTANTS if all(_supports(name, leaf, relation) for leaf, _ in leaves)]
    if accountant in able:
        return
    kinds = ", ".join(sorted({kind_of(leaf) for leaf, _ in leaves if not _supports(accountant, leaf, relation)}))
    remedy = f"{' or '.join(reversed(able))} can do it" if able else "no accountant can do it"
    raise ConfigError.of("accountant", accountant, f"cannot account {kinds} under relation={relation}; {remedy}")


class _BoundedPrv(PRVAccountant):  # type: ignore[misc]
    """Opacus's accountant, which refuses an event that would take too much memory."""

    def _get_domain(self, prvs: list[Any], **settings: Any) -> Any:
        domain = super()._get_domain(prvs=prvs, **settings)
        if domain.size * len(prvs) > MOST_POINTS:
            raise _too_much("prv", f"{domain.size * len(prvs):.1g} points")
        return domain


def _prv(leaves: Leaves, delta: float, relation: str) -> float:  # noqa: ARG001
    if delta < PRV_LEAST_DELTA:
        raise _too_much("prv", f"delta={delta:g} is below its precision of {PRV_LEAST_DELTA:g}")
    accountant = _BoundedPrv()
    accountant.history = [
        (_released(leaf).noise_multiplier, getattr(leaf, "sampling_probability", 1.0), times) for leaf, times in leaves
    ]
    return float(accountant.get_epsilon(delta, eps_error=PRV_EPSILON_ERROR, delta_error=PRV_DELTA_ERROR * delta))


def _rdp(leaves: Leaves, delta: float, relation: str) -> float:
    orders = INTEGER_ORDERS if any(isinstance(leaf, ZCDpEvent) for leaf, _ in leaves) else None
    return float(_renyi(leaves, relation, orders).get_epsilon(delta))


def _renyi(leaves: Leaves, relation: str, orders: Sequence[float] | None) -> RdpAccountant:
    accountant = RdpAccountant(orders, NEIGHBORS[relation])
    for leaf, times in leaves:
        accountant.compose(leaf, times)
    return accountant


def _pld(leaves: Leaves, delta: float, relation: str) -> float:
    if delta < PLD_LEAST_DELTA:
        raise _too_much("pld", f"delta={delta:g} is below its precision of {PLD_LEAST_DELTA:g}")
    _bound_pld(leaves)
    accountant = PLDAccountant(NEIGHBORS[relation], PLD_INTERVAL)
    for leaf, times in leaves:
        accountant.compose(_in_clips(leaf) if relation == "replace" else leaf, times)
    return float(accountant.get_epsilon(delta - PLD_ROUNDING))


def _in_clips(leaf: DpEvent) -> DpEvent:
    """Convert a Gaussian's noise from units of the sensitivity 2 C to units of C."""
    if isinstance(leaf, PoissonSampledDpEvent):
        return PoissonSampledDpEvent(leaf.sampling_probability, _in_clips(leaf.event))
    return GaussianDpEvent(2 * leaf.noise_multiplier)


def _bound_pld(leaves: Leaves) -> None:
    """Refuse a privacy loss with too wide a support; Renyi DP bounds the support, up to the truncated tail."""
    known = tuple((leaf, times) for leaf, times in leaves if _supports("rdp", leaf, "add_remove"))
    points = 2 * _rdp(known, PLD_TAIL, "add_remove") / PLD_INTERVAL
    if points > MOST_POINTS:
        raise _too_much("pld", f"{points:.1g} points")


ACCOUNT: dict[str, Callable[[Leaves, float, str], float]] = {"prv": _prv, "rdp": _rdp, "pld": _pld}


def epsilon_pre_2020(event: DpEvent, delta: float) -> float:
    """Return epsilon as libraries printed it before 2020: min over alpha of RDP(alpha) - ln(delta) / (alpha - 1).

    Mironov (2017), Proposition 3, at Opacus's orders, under add/remove. For comparison with published values.

    Raises:
        ConfigError: Renyi DP does not account the event under add/remove.
    """
    check_delta(delta)
    leaves = leaves_of(event)
    orders = np.array(RDPAccountant.DEFAULT_ALPHAS)
    if not leaves:
        return 0.0
    if any(_is_bare(leaf) for leaf, _ in leaves):
        return math.inf
    _refuse_unsupported(leaves, "rdp", "add_remove")
    rdp = _renyi(leaves, "add_remove", RDPAccountant.DEFAULT_ALPHAS).rdp
    return float(np.min(rdp - math.log(delta) / (orders - 1)))
