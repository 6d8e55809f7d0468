import math
from functools import reduce

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp
from scipy.stats import norm as normal
from scipy.stats import skellam as scipy_skellam

from privacy.accounting.epsilon import INTEGER_ORDERS
from privacy.errors import ConfigError
from privacy.noise.cost_of_integer_noise import (
    coordinate_bound,
    discrete_gaussian_epsilon,
    discrete_gaussian_zcdp,
    epsilon_of_rdp,
    honest_shares,
    l1_bound,
    modulus_bits,
    rdp_of,
    share_variance,
    skellam_epsilon,
    skellam_rdp,
    skellam_zcdp,
    sum_distance,
    tightest,
)
from privacy.noise.integer_encoding import conditional_round, from_modulus, rotation, rounded_norm_bound, to_modulus
from privacy.noise.samplers import discrete_gaussian, skellam
from privacy.randomness import SeededRandomness

DELTA = 1e-5


def log_skellam(variance: float) -> np.ndarray:
    """ln e^-v I_k(v) for k = -K..K, as far as doubles reach."""
    reach = math.ceil(45 * math.sqrt(variance)) + 150
    with np.errstate(divide="ignore"):
        return np.log(ive(np.abs(np.arange(-reach, reach + 1)), variance))


def log_gaussian_sum(sigma: float, shares: int) -> np.ndarray:
    """The sum's logarithmic probabilities, by convolution of the definition."""
    support = np.arange(-math.ceil(36 * sigma), math.ceil(36 * sigma) + 1)
    one = np.exp(-(support**2) / (2 * sigma**2))
    with np.errstate(divide="ignore"):
        return np.log(reduce(np.convolve, [one / one.sum()] * shares))


def renyi(log_p: np.ndarray, shift: int, alpha: float) -> float:
    """D_alpha(P || P + shift), by its definition, where both probabilities are representable.

    Truncation would make it too small, so the last terms on both sides must be negligible beside the greatest.
    """
    p = log_p[shift:]
    q = log_p[: len(log_p) - shift]
    held = np.isfinite(p) & np.isfinite(q)
    terms = alpha * p[held] + (1 - alpha) * q[held]
    assert max(terms[0], terms[-1]) < terms.max() - 40
    return float(logsumexp(terms)) / (alpha - 1)


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0, 30.0, 1000.0])
@pytest.mark.parametrize("alpha", [2, 3, 8, 32])
def test_the_skellam_bound_is_above_the_exact_divergence(variance, alpha):
    log_p = log_skellam(variance)
    reach = max(1, int(15 * math.sqrt(variance) / alpha))
    for shift in sorted({1, 2, reach // 2 or 1, reach}):
        exact = renyi(log_p, shift, alpha)
        assert 0 < exact <= skellam_rdp(alpha, shift, shift, variance)


@pytest.mark.parametrize("alpha", [2, 8, 32])
@pytest.mark.parametrize("shift", [10, 30])
def test_the_skellam_bound_is_close_where_the_variance_is_large(alpha, shift):
    variance = 1e4
    exact = renyi(log_skellam(variance), shift, alpha)
    assert exact <= skellam_rdp(alpha, shift, shift, variance) <= 1.02 * exact


def test_the_skellam_bound_holds_for_vectors():
    """Coordinates are independent, so their divergences add up; the norms are those of the whole shift."""
    shift = (5, 3, 1, 1, 1)
    variance = 400.0
    alpha = 6
    exact = sum(renyi(log_skellam(variance), step, alpha) for step in shift)
    assert exact <= skellam_rdp(alpha, sum(shift), math.sqrt(sum(step**2 for step in shift)), variance) <= 1.02 * exact


def test_the_skellam_bound_is_the_papers():
    """By hand, alpha 2, l1 6, l2 2: with variance 2, 2 + min(48/16, 9/2) = 5; with 1/2, 8 + min(48, 18) = 26."""
    assert skellam_rdp(2, 6.0, 2.0, 2.0) == pytest.approx(2 + 3)
    assert skellam_rdp(2, 6.0, 2.0, 0.5) == pytest.approx(8 + 18)


@pytest.mark.parametrize("alpha", [1, 2.5, 0])
def test_an_order_without_a_theorem_is_no_order(alpha):
    with pytest.raises(AssertionError):
        skellam_rdp(alpha, 1.0, 1.0, 1.0)
    assert all(type(order) is int and order >= 2 for order in INTEGER_ORDERS)
    assert sorted(set(INTEGER_ORDERS)) == list(INTEGER_ORDERS)


scales = st.floats(0.1, 1e6)


@settings(deadline=None)
@given(st.floats(1, 1e4), st.integers(1, 10**7), scales, st.sampled_from(INTEGER_ORDERS))
def test_skellam_events_cost_what_the_bound_says(l2, dimension, variance, alpha):
    """Never less; and more only where xi would be below zero, which an event may not be."""
    l1 = l1_bound(l2, dimension)
    curve = rdp_of(skellam_zcdp(l1, l2, variance))(alpha)
    bound = skellam_rdp(alpha, l1, l2, variance)
    assert curve >= bound * (1 - 1e-12)
    assert curve <= bound + l2**2 / (4 * variance**2) + 1e-12 * bound


@pytest.mark.parametrize("sigma", [0.5, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("shares", [1, 2, 7, 20])
def test_discrete_gaussian_bounds_are_above_the_exact_divergence(sigma, shares):
    log_p = log_gaussian_sum(sigma, shares)
    spread = sigma * math.sqrt(shares)
    compared = 0
    for alpha in (1.01, 1.5, 2, 5, 16):
        for shift in sorted({1, 2, max(1, int(10 * spread / alpha))}):
            if alpha * shift > 25 * spread:  # the terms lie around there, and doubles reach to 36 deviations
                continue
            exact = renyi(log_p, shift, alpha)
            compared += 1
            for event in discrete_gaussian_zcdp(shift, 1, sigma, shares):
                assert exact <= (event.rho * alpha + event.xi) * (1 + 1e-9)
    assert compared >= 8


def test_without_tau_the_discrete_gaussian_bound_would_be_wrong():
    """A shift by one, at sigma 0.5 and two shares, costs more than the Gaussian's alpha / (2 n sigma^2)."""
    log_p = log_gaussian_sum(0.5, 2)
    assert max(renyi(log_p, 1, alpha) / (alpha / (2 * 2 * 0.25)) for alpha in (1.01, 2, 5, 16)) > 1.001


def test_tau_is_the_papers():
    """10 exp(-pi^2 sigma^2) for two shares; 0 for one; it vanishes as sigma grows."""
    assert sum_distance(0.7, 1) == 0
    assert sum_distance(0.7, 2) == pytest.approx(10 * math.exp(-(math.pi**2) * 0.49))
    assert sum_distance(0.7, 3) == pytest.approx(
        10 * (math.exp(-(math.pi**2) * 0.49) + math.exp(-4 * math.pi**2 * 0.49 / 3))
    )
    assert sum_distance(3.0, 1000) < 1e-34


@pytest.mark.parametrize("sigma", [0.49, 0.0, math.nan])
def test_a_share_too_small_for_the_proposition_is_refused(sigma):
    with pytest.raises(ConfigError, match="sigma_local"):
        discrete_gaussian_zcdp(1.0, 1, sigma, 2)


def gaussian_epsilon(noise_multiplier: float, rounds: int) -> float:
    accountant = RdpAccountant(INTEGER_ORDERS)
    accountant.compose(GaussianDpEvent(noise_multiplier), rounds)
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize("noise_multiplier", [0.7, 2.0, 20.0])
@pytest.mark.parametrize("rounds", [1, 100])
def test_epsilon_tends_to_the_gaussian_mechanisms_from_above(noise_multiplier, rounds):
    limit = gaussian_epsilon(noise_multiplier, rounds)
    dimension = 1 << 20
    found = [skellam_epsilon(l2, dimension, (noise_multiplier * l2) ** 2, rounds, DELTA) for l2 in (10.0, 1e3, 1e5)]
    assert found == sorted(found, reverse=True)
    assert limit * (1 - 1e-12) <= found[2] <= limit * (1 + 1e-6)
    local = noise_multiplier * 1e3 / math.sqrt(80)
    found_gaussian = discrete_gaussian_epsilon(1e3, dimension, local, 80, rounds, DELTA)
    assert found_gaussian == pytest.approx(limit, rel=1e-9)


@pytest.mark.parametrize("events", [skellam_zcdp(50.0, 12.0, 40.0), discrete_gaussian_zcdp(12.0, 1000, 0.7, 9)])
def test_the_tightest_event_is_the_one_that_dp_accounting_finds(events):
    """Composed by dp-accounting's own accountant."""
    for rounds in (1, 30):
        costs = []
        for event in events:
            accountant = RdpAccountant(INTEGER_ORDERS)
            accountant.compose(event, rounds)
            costs.append(float(accountant.get_epsilon(DELTA)))
        best = tightest(events, rounds, DELTA)
        assert best == events[int(np.argmin(costs))]
        assert epsilon_of_rdp(rdp_of([best]), rounds, DELTA) == pytest.approx(min(costs), rel=1e-12)
        assert epsilon_of_rdp(rdp_of(events), rounds, DELTA) <= min(costs)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_without_meaning_is_refused(delta):
    with pytest.raises(ConfigError, match="delta="):
        skellam_epsilon(1.0, 1, 1.0, 1, delta)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=50))
def test_integers_keep_to_their_l1_bound(values):
    l2 = math.sqrt(sum(value * value for value in values))
    assert sum(map(abs, values)) <= l1_bound(l2, len(values)) * (1 + 1e-12)


@given(st.integers(1, 1000), st.integers(0, 999), st.floats(0.01, 100), scales)
def test_honest_shares_alone_carry_the_noise(n_min, colluders, noise_multiplier, l2):
    if colluders >= n_min:
        with pytest.raises(ConfigError, match="colluders="):
            share_variance(noise_multiplier, l2, n_min, colluders)
        return
    share = share_variance(noise_multiplier, l2, n_min, colluders)
    assert share * (n_min - colluders) == pytest.approx((noise_multiplier * l2) ** 2)
    assert honest_shares(n_min, colluders) == n_min - colluders


@pytest.mark.parametrize(("noise_multiplier", "l2"), [(0.0, 1.0), (math.nan, 1.0), (1.0, -1.0), (1.0, math.inf)])
def test_noise_of_no_size_is_refused(noise_multiplier, l2):
    with pytest.raises(ConfigError, match=r"noise_multiplier=|l2="):
        share_variance(noise_multiplier, l2, 2, 0)
    with pytest.raises(ConfigError, match="colluders=-1"):
        honest_shares(5, -1)


# Cohort, norm before rounding, noise variance of a share: noise is most of it, the vectors are, rounding is.
SETTINGS = [(20, 10.0, 400.0), (20, 500.0, 4.0), (200, 3.0, 0.05)]


def sums(cohort: int, norm: float, variance: float, sampler: str, rounds: int) -> np.ndarray:
    """The sums at the server without a modulus, with all clients aligned (the worst case), shape (rounds, P)."""
    dimension = 256
    source = SeededRandomness("modulus", cohort)
    generator = source.generator()
    direction = generator.standard_normal(dimension)
    direction *= norm / np.linalg.norm(direction)
    bound = rounded_norm_bound(norm, dimension, math.exp(-0.5))
    totals = np.zeros((rounds, dimension), np.int64)
    for turn in range(rounds):
        rotated = rotation(dimension, "modulus", turn).apply(direction)
        totals[turn] = sum(conditional_round(rotated, bound, generator) for _ in range(cohort))
    size = cohort * rounds * dimension
    noise = (
        skellam(generator, variance, size)
        if sampler == "skellam"
        else discrete_gaussian(generator, math.sqrt(variance), size)
    )
    return totals + noise.reshape(cohort, rounds, dimension).sum(axis=0)


@pytest.mark.parametrize(("cohort", "norm", "variance"), SETTINGS)
@pytest.mark.parametrize("sampler", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("log2_failure", [-4.0, -8.0])
def test_sums_wrap_no_more_often_than_allowed(cohort, norm, variance, sampler, log2_failure):
    bits = modulus_bits(cohort, norm, 256, variance, log2_failure)
    totals = sums(cohort, norm, variance, sampler, rounds=20)
    wrapped = [np.mean(from_modulus(to_modulus(totals.ravel(), b), b) != totals.ravel()) for b in (bits, bits - 4)]
    assert wrapped[0] <= 2**log2_failure
    assert wrapped[1] > 2**log2_failure


@pytest.mark.parametrize("variance", [1e-6, 0.01, 1.0, 100.0, 1e4])
def test_the_tail_is_that_of_skellam_noise_and_not_a_gaussians(variance):
    """With hardly a vector in the sum. Small variances have the heavier tail."""
    cohort = 3
    bound = coordinate_bound(cohort, 1e-9, 1, variance) - cohort
    mean = cohort * variance / 2
    assert 2 * scipy_skellam.sf(math.ceil(bound) - 1, mean, mean) <= 2.0**-40
    assert 2 * scipy_skellam.sf(math.ceil(0.75 * bound) - 2, mean, mean) > 2.0**-40


def test_where_all_is_gaussian_the_bound_is_near_the_quantile():
    found = coordinate_bound(10, 1e6, 10**4, 1e10) - 10
    exact = normal.isf(2.0**-41) * math.sqrt((10 * 1e6) ** 2 / 10**4 + 10 * 1e10)
    assert exact < found < 1.1 * exact


def test_the_bits_are_the_least_that_hold_the_bound():
    for cohort, norm, variance in SETTINGS:
        bits = modulus_bits(cohort, norm, 256, variance)
        bound = coordinate_bound(cohort, norm, 256, variance)
        assert 2 ** (bits - 2) < bound <= 2 ** (bits - 1)


def test_a_sum_too_wide_for_the_modulus_is_refused():
    with pytest.raises(ConfigError, match="bits for a sum"):
        modulus_bits(1000, 1e18, 1, 1.0)
