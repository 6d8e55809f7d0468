"""The noise multiplier that a target epsilon requires: the inverse of `privacy.accounting.epsilon`."""

import math
from collections.abc import Callable
from contextlib import suppress

from dp_accounting import DpEvent, get_sigma_gaussian

from privacy.accounting.epsilon import check_delta, epsilon
from privacy.checks import positive
from privacy.errors import ConfigError

LEAST_SIGMA = 1e-3
MOST_SIGMA = 1e6
SIGMA_TOLERANCE = 1e-3
LEAST_SPENT = 0.9  # of the target: a solved noise that costs less hides a jump of the accountant's epsilon


def analytic_gaussian_sigma(epsilon: float, delta: float) -> float:
    """Return the least standard deviation at which a Gaussian of sensitivity 1 is (epsilon, delta)-DP.

    dp-accounting solves Theorem 8 of Balle and Wang (2018), as their Algorithm 1 does, up to 1e-12 on either side.

    Raises:
        ConfigError: epsilon is not above 0, or delta is not between 0 and 1.
    """
    positive("epsilon", epsilon)
    check_delta(delta)
    return float(get_sigma_gaussian(epsilon, delta)) * (1 + 1e-9)


def solve_noise_multiplier(
    event_of: Callable[[float], DpEvent],
    target_epsilon: float,
    delta: float,
    accountant: str,
    relation: str = "add_remove",
    key: str = "target_epsilon",
) -> float:
    """Return the smallest noise multiplier at which `event_of` costs at most the target, up to a thousandth above it.

    Raises:
        ConfigError: target_epsilon is out of reach (the message names the smallest reachable epsilon), or is met with
            almost no noise; the noise that meets it costs far less; or one of the errors of `epsilon`.
    """
    positive(key, target_epsilon)

    def gap(name: str, under: str) -> Callable[[float], float]:
        return lambda sigma: _gap(epsilon(event_of(sigma), delta, name, under), target_epsilon)

    start = 1.0
    if accountant != "rdp":  # rdp is cheap and close: it saves the expensive accountant the search and large domains
        with suppress(ConfigError):
            start = _root(gap("rdp", "add_remove"), 1.0, 10 * SIGMA_TOLERANCE)
    sigma = _root(gap(accountant, relation), start if LEAST_SIGMA < start < MOST_SIGMA else 1.0, SIGMA_TOLERANCE)
    if sigma < LEAST_SIGMA:
        allowed = f"a noise multiplier of {LEAST_SIGMA} costs less; give noise_multiplier itself"
        raise ConfigError.of(key, target_epsilon, allowed)
    if sigma > MOST_SIGMA:
        least = epsilon(event_of(MOST_SIGMA), delta, accountant, relation)
        allowed = f"the smallest epsilon of accountant={accountant} at delta={delta} is {least:.4g}, whatever the noise"
        raise ConfigError.of(key, target_epsilon, allowed)
    spent = epsilon(event_of(sigma), delta, accountant, relation)
    if spent < LEAST_SPENT * target_epsilon:
        allowed = (
            f"accountant={accountant} jumps over it at delta={delta:g}: it finds epsilon {spent:.3g} at a noise "
            f"multiplier of {sigma:.4g}, and more than the target below; use another, or give noise_multiplier itself"
        )
        raise ConfigError.of(key, target_epsilon, allowed)
    return sigma


def _gap(cost: float, target: float) -> float:
    """Return the logarithm of cost over target: above 0 exactly if the cost is above the target."""
    if cost == 0:
        return -math.inf
    ratio = math.log(cost / target)
    return max(ratio, 1e-300) if cost > target else min(ratio, 0.0)


def _root(gap: Callable[[float], float], start: float, tolerance: float) -> float:
    """Return the least sigma without a positive gap, up to a factor of 1 + tolerance above it.

    0 or infinity if it lies outside the searched range. Regula falsi with halving (the Illinois rule) in logarithms,
    in which epsilon over sigma is nearly a line: about six evaluations.
    """
    low, high, gap_low, gap_high = _bracket(gap, start)
    while low > 0 and high < math.inf and high > low * (1 + tolerance):
        sigma = _between(low, high, gap_low, gap_high, tolerance)
        found = gap(sigma)
        if found > 0:
            low = sigma
            gap_low = found
            gap_high = gap_high / 2
        else:
            high = sigma
            gap_high = found
            gap_low = gap_low / 2
    return high if low > 0 else 0.0


def _bracket(gap: Callable[[float], float], start: float) -> tuple[float, float, float, float]:
    """Return a sigma with a positive gap, one without, and the two gaps."""
    sigma = start
    found = gap(start)
    while True:
        step = 1.02 * math.exp(min(abs(found), 2.0))  # epsilon falls about as 1 / sigma
        limit = MOST_SIGMA if found > 0 else LEAST_SIGMA
        if sigma == limit:
            return (sigma, math.inf, found, 0.0) if found > 0 else (0.0, sigma, 0.0, found)
        other = min(sigma * step, limit) if found > 0 else max(sigma / step, limit)
        there = gap(other)
        if (there > 0) != (found > 0):
            return (sigma, other, found, there) if found > 0 else (other, sigma, there, found)
        sigma = other
        found = there


def _between(low: float, high: float, gap_low: float, gap_high: float, tolerance: float) -> float:
    """Return the zero of a line through both ends, a little above it so that the next step closes in from below."""
    share = gap_low / (gap_low - gap_high) if math.isfinite(gap_low - gap_high) else 0.5
    sigma = low * math.pow(high / low, share) * (1 + tolerance / 4)
    edge = 1 + 0.9 * tolerance
    return min(max(sigma, low * edge), high / edge)
