"""The privacy cost of a sum under the clients' integer noise shares, and the modulus that the sum needs.

Units: all quantities are in units of the summed integers. `l2` is the sensitivity (`encoding.rounded_norm_bound` of
clip times scale), `dimension` the length of the rotated vector, `variance` the variance of the noise on one coordinate
of the sum. The relation is zero-out: the neighbour's vector becomes zero, its noise share stays. (If a client and its
share leave together, charge one honest share less.) Shares beyond the charged ones are post-processing.

Both mechanisms have bounds that are affine in the order, xi + rho alpha. So each bound is a `ZCDpEvent` of
dp-accounting and composes there, at the integer orders of privacy/accounting/epsilon.py: the theorem about Skellam
noise is stated for integer orders.
"""

import math
from collections.abc import Callable, Iterable

from dp_accounting import ZCDpEvent
from dp_accounting.rdp import compute_epsilon
from scipy.optimize import minimize_scalar

from privacy.accounting.epsilon import INTEGER_ORDERS
from privacy.checks import positive
from privacy.errors import ConfigError
from privacy.noise.integer_encoding import MAX_MODULUS_BITS

Curve = Callable[[int], float]


def l1_bound(l2: float, dimension: int) -> float:
    """Return the L1 sensitivity of integers within an L2 norm: at most sqrt(d) l2, and |x| <= x^2 for integers."""
    return min(math.sqrt(dimension) * l2, l2**2)


def honest_shares(n_min: int, colluders: int) -> int:
    """Return the number of noise shares that the server cannot subtract: n_min survivors less the colluders.

    The colluders tell the server their shares.

    Raises:
        ConfigError: no share would be left.
    """
    if colluders < 0 or n_min - colluders < 1:
        raise ConfigError.of("colluders", colluders, f"must be from 0 to min_contributors - 1 = {n_min - 1}")
    return n_min - colluders


def share_variance(noise_multiplier: float, l2: float, n_min: int, colluders: int) -> float:
    """Return the variance of each client's share such that the honest shares sum to (noise_multiplier * l2)^2.

    Raises:
        ConfigError: there is no honest share, or the noise multiplier or sensitivity is not positive.
    """
    positive("noise_multiplier", noise_multiplier)
    positive("l2", l2)
    return (noise_multiplier * l2) ** 2 / honest_shares(n_min, colluders)


def skellam_rdp(alpha: int, l1: float, l2: float, variance: float) -> float:
    """Return the Renyi divergence of order alpha of the Skellam mechanism (Agarwal et al. 2021, Theorem 3.5), in nats.

    alpha l2^2 / (2 mu) + min{((2 alpha - 1) l2^2 + 6 l1) / (4 mu^2), 3 l1 / (2 mu)}, mu the variance, alpha an integer.
    """
    assert alpha == int(alpha) >= 2, alpha
    surcharge = min(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    return alpha * l2**2 / (2 * variance) + surcharge


def skellam_zcdp(l1: float, l2: float, variance: float) -> tuple[ZCDpEvent, ZCDpEvent]:
    """Return the two bounds of `skellam_rdp`; each holds alone, at integer orders from 2."""
    rho = l2**2 / (2 * variance)
    fine = ZCDpEvent(rho + l2**2 / (2 * variance**2), max(0.0, (6 * l1 - l2**2) / (4 * variance**2)))
    return fine, ZCDpEvent(rho, 3 * l1 / (2 * variance))


def discrete_gaussian_zcdp(
    l2: float, dimension: int, sigma_local: float, n_honest: int
) -> tuple[ZCDpEvent, ZCDpEvent, ZCDpEvent]:
    """Return the three bounds for the sum of discrete Gaussians (Kairouz et al. 2021, Proposition 14).

    Each holds alone. A sum of n discrete Gaussians of parameter sigma is not a discrete Gaussian: tau bounds its
    distance from the discrete Gaussian with parameter sqrt(n) sigma. With D2 = l2 / (sqrt(n) sigma) and D1 likewise
    from the L1 sensitivity: alpha D2^2 / 2 + tau d; alpha (D2^2 + 2 D1 tau + tau^2 d) / 2; and
    alpha (D2 + tau sqrt(d))^2 / 2.

    Raises:
        ConfigError: sigma_local is below 1/2, to which the proposition does not apply.
    """
    if not (math.isfinite(sigma_local) and sigma_local >= 0.5):
        raise ConfigError.of("sigma_local", sigma_local, "must be at least 0.5: raise the scale or the noise")
    tau = sum_distance(sigma_local, n_honest)
    sigma = math.sqrt(n_honest) * sigma_local
    scaled_l2 = l2 / sigma
    scaled_l1 = l1_bound(l2, dimension) / sigma
    return (
        ZCDpEvent(scaled_l2**2 / 2, tau * dimension),
        ZCDpEvent((scaled_l2**2 + 2 * scaled_l1 * tau + tau**2 * dimension) / 2),
        ZCDpEvent((scaled_l2 + tau * math.sqrt(dimension)) ** 2 / 2),
    )


def sum_distance(sigma_local: float, n_honest: int) -> float:
    """Return tau_n = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)) (Kairouz et al. 2021, Proposition 14)."""
    return 10 * sum(math.exp(-2 * (math.pi * sigma_local) ** 2 * k / (k + 1)) for k in range(1, n_honest))


def rdp_of(events: Iterable[ZCDpEvent]) -> Curve:
    """Return the least of some bounds on the same mechanism, as a curve over the orders."""
    bounds = [(event.rho, event.xi) for event in events]
    return lambda alpha: min(rho * alpha + xi for rho, xi in bounds)


def epsilon_of_rdp(curve: Curve, rounds: int, delta: float) -> float:
    """Return epsilon after `rounds` rounds, by the conversion of Canonne, Kamath and Steinke 2020, Proposition 12.

    Raises:
        ConfigError: delta outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ConfigError.of("delta", delta, "must be above 0 and below 1")
    return float(compute_epsilon(INTEGER_ORDERS, [rounds * curve(order) for order in INTEGER_ORDERS], delta)[0])


def tightest(events: Iterable[ZCDpEvent], rounds: int, delta: float) -> ZCDpEvent:
    """Return the cheapest of some bounds on the same mechanism after `rounds` rounds: one event for the ledger.

    Raises:
        ConfigError: delta outside (0, 1).
    """
    return min(events, key=lambda event: epsilon_of_rdp(rdp_of([event]), rounds, delta))


def skellam_epsilon(l2: float, dimension: int, variance: float, rounds: int, delta: float) -> float:
    """Return epsilon of `rounds` rounds of the Skellam mechanism, with noise of this variance on each coordinate.

    Raises:
        ConfigError: delta outside (0, 1).
    """
    l1 = l1_bound(l2, dimension)
    return epsilon_of_rdp(lambda alpha: skellam_rdp(alpha, l1, l2, variance), rounds, delta)


def discrete_gaussian_epsilon(
    l2: float, dimension: int, sigma_local: float, n_honest: int, rounds: int, delta: float
) -> float:
    """Return epsilon of `rounds` rounds of the distributed discrete Gaussian, n_honest shares of sigma_local each.

    Raises:
        ConfigError: delta outside (0, 1), or sigma_local below 1/2.
    """
    return epsilon_of_rdp(rdp_of(discrete_gaussian_zcdp(l2, dimension, sigma_local, n_honest)), rounds, delta)


def coordinate_bound(
    cohort: int, scaled_norm: float, dimension: int, variance: float, log2_failure: float = -40.0
) -> float:
    """Return a bound on the absolute value of a coordinate of the noisy sum, exceeded with probability 2^log2_failure.

    Each of `cohort` clients adds a rotated vector of norm c = `scaled_norm` before rounding, and a share of noise of
    this `variance` per coordinate. Chernoff's bound, m = min_t (K(t) + ln(2 / failure)) / t, on

    - the rotated sum, whose norm is n c at worst: sub-Gaussian with proxy (n c)^2 / d over the public signs;
    - the noise: ln E exp(t X) = n variance (cosh t - 1) for Skellam, an upper bound for the discrete Gaussian too.

    Rounding moves each coordinate by at most 1, whichever rounding the condition on the norm accepts: n in all.
    """
    proxy = (cohort * scaled_norm) ** 2 / dimension
    noise = cohort * variance
    nats = (1 - log2_failure) * math.log(2)

    def tail(log_t: float) -> float:
        t = math.exp(log_t)
        return (proxy * t**2 / 2 + noise * 2 * math.sinh(t / 2) ** 2 + nats) / t

    guess = math.log(math.sqrt(2 * nats / (proxy + noise)))  # the minimum for Gaussians; any t gives a bound
    return (
        float(minimize_scalar(tail, bounds=(min(guess, 3.0) - 5, min(guess, 3.0) + 3), method="bounded").fun) + cohort
    )


def modulus_bits(cohort: int, scaled_norm: float, dimension: int, variance: float, log2_failure: float = -40.0) -> int:
    """Return the least bits such that a coordinate of the sum wraps with probability at most 2^log2_failure a round.

    Parameters as for `coordinate_bound`; `variance` is the variance of one client's share.

    Raises:
        ConfigError: the sum needs more than 62 bits.
    """
    bound = coordinate_bound(cohort, scaled_norm, dimension, variance, log2_failure)
    bits = 1 + math.ceil(math.log2(bound))
    if bits > MAX_MODULUS_BITS:
        raise ConfigError.of("scale", scaled_norm, f"needs {bits} bits for a sum: choose a scale that needs at most 62")
    return bits
