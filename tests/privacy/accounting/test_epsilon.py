"""The accounting against published figures, exact formulas, numerical integrals, and a second accountant."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from privacy.accounting import epsilon as accounting
from privacy.accounting.calibration import analytic_gaussian_sigma, solve_noise_multiplier
from privacy.accounting.charges import RELATIONS, Charge, compose, gaussian_event, poisson_steps
from privacy.accounting.epsilon import ACCOUNTANTS, epsilon, epsilon_pre_2020
from privacy.errors import ConfigError
from tests.privacy.accounting.exact import gaussian_delta, gaussian_epsilon

PRV_ERROR = 0.01
STEPS = poisson_steps(1.0, 0.01, 10)


def sampled_delta(sigma: float, rate: float, at: float, other: float, eps: float) -> float:
    """Hockey-stick divergence, by quadrature, of two Gaussians with mean `at` or `other` if sampled."""

    def density(x: float, mean: float) -> float:
        sampled, not_sampled = (math.exp(-(((x - m) / sigma) ** 2) / 2) for m in (mean, 0.0))
        return (rate * sampled + (1 - rate) * not_sampled) / (sigma * math.sqrt(2 * math.pi))

    def excess(x: float) -> float:
        return max(0.0, density(x, at) - math.exp(eps) * density(x, other))

    edges = np.linspace(-10 * sigma - 1, 10 * sigma + 1, 30)
    return sum(quad(excess, a, b, epsabs=1e-13, limit=200)[0] for a, b in pairwise(edges))


def configurations(number: int) -> list[tuple[float, float, int, float]]:
    """Random (sigma, rate, steps, delta), with a useful epsilon: at most 50 by Renyi DP."""
    rng = np.random.default_rng(3)
    found = []
    while len(found) < number:
        sigma = float(rng.uniform(0.6, 4))
        delta = float(10 ** rng.uniform(-7, -4))
        rate = 1.0 if rng.random() < 0.2 else float(10 ** rng.uniform(-4, math.log10(0.2)))
        steps = int(10 ** rng.uniform(0, math.log10(5000)))
        if epsilon(poisson_steps(sigma, rate, steps), delta, "rdp") <= 50:
            found.append((sigma, rate, steps, delta))
    return found


def mostly_slow(found: list[tuple[float, float, int, float]]) -> list[Any]:
    """Mark all but six cases as slow."""
    return [pytest.param(*one, marks=[pytest.mark.slow] if i >= 6 else [], id=str(i)) for i, one in enumerate(found)]


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta"), mostly_slow(configurations(30)))
def test_prv_and_pld_agree(sigma, rate, steps, delta):
    event = poisson_steps(sigma, rate, steps)
    prv = epsilon(event, delta, "prv")
    pld = epsilon(event, delta, "pld")
    assert abs(prv - pld) <= 0.02 * pld + 0.011
    assert epsilon(event, delta, "rdp") >= pld - 1e-9


@pytest.mark.parametrize(
    ("epochs", "sigma", "published", "prv", "rdp"),
    [(45, 0.7, 6.86, 5.44, 6.09), (60, 1.1, 2.91, 2.31, 2.50), (15, 1.3, 1.16, 0.84, 0.92)],
)
def test_the_figures_of_the_opacus_readme(epochs, sigma, published, prv, rdp):
    event = poisson_steps(sigma, 240 / 60_000, epochs * 250)
    assert epsilon_pre_2020(event, 1e-5) == pytest.approx(published, rel=0.01)
    assert epsilon(event, 1e-5, "prv") == pytest.approx(prv, abs=0.01)
    assert epsilon(event, 1e-5, "rdp") == pytest.approx(rdp, abs=0.01)


@pytest.mark.parametrize("eps", [0.01, 0.5, 1.0, 8.0, 60.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_analytic_gaussian_reaches_delta_exactly(eps, delta):
    sigma = analytic_gaussian_sigma(eps, delta)
    found = gaussian_delta(sigma, eps)
    assert found == pytest.approx(delta, rel=1e-4)
    assert found <= delta * (1 + 1e-6)  # the oracle subtracts nearly equal numbers
    assert gaussian_delta(0.999 * sigma, eps) > delta


def test_analytic_gaussian_against_pld():
    sigma = analytic_gaussian_sigma(1.0, 1e-5)
    assert epsilon(gaussian_event(sigma), 1e-5, "pld") == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_an_unsampled_gaussian_costs_the_same_under_each_relation(accountant, relation):
    """Its noise is in units of the sensitivity; eight of sigma 4 are one of sigma sqrt(2)."""
    found = epsilon(SelfComposedDpEvent(gaussian_event(4.0), 8), 1e-5, accountant, relation)
    exact = gaussian_epsilon(4 / math.sqrt(8), 1e-5)
    assert exact - 1e-6 <= found <= exact * (1.10 if accountant == "rdp" else 1.0001)


@pytest.mark.parametrize("relation", ["add_remove", "zero_out"])
@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_a_sampled_gaussian_against_an_integral(accountant, relation):
    sigma = 0.8
    rate = 0.1
    delta = 1e-4
    found = epsilon(poisson_steps(sigma, rate, 1), delta, accountant, relation)
    slack = 2 * PRV_ERROR if accountant == "prv" else 1e-3
    assert sampled_delta(sigma, rate, 1, 0, found) <= delta
    assert sampled_delta(sigma, rate, 0, 1, found) <= delta
    assert sampled_delta(sigma, rate, 1, 0, found - slack) > delta


def test_replacing_in_a_sample_against_an_integral():
    """One value moves from -1 to 1, so the sensitivity is 2 and noise of 2 sigma is sigma times it."""
    sigma = 0.8
    rate = 0.1
    delta = 1e-4
    found = epsilon(poisson_steps(sigma, rate, 1), delta, "pld", "replace")
    assert sampled_delta(2 * sigma, rate, -1, 1, found) <= delta < sampled_delta(2 * sigma, rate, -1, 1, found - 1e-3)


def test_a_sample_without_replacement_costs_less_than_the_whole_set():
    gaussian = gaussian_event(1.0)
    few, all_ = (epsilon(SampledWithoutReplacementDpEvent(100, m, gaussian), 1e-5, "rdp", "replace") for m in (1, 100))
    assert 0 < few < all_ == pytest.approx(epsilon(gaussian, 1e-5, "rdp"))


def test_laplace_is_pure_and_zcdp_converts():
    assert epsilon(LaplaceDpEvent(2.0), 1e-9, "pld") == pytest.approx(0.5, abs=1e-3)
    # a Gaussian of sigma 1 has (alpha, alpha / 2)-RDP; an event of zCDP is converted at integer orders
    gaussian = RdpAccountant(list(range(2, 100))).compose(GaussianDpEvent(1.0)).get_epsilon(1e-5)
    assert epsilon(ZCDpEvent(0.5), 1e-5, "rdp") == pytest.approx(gaussian)
    assert epsilon(gaussian_event(1.0), 1e-5, "rdp") < gaussian


@pytest.mark.parametrize("accountant", ["prv", "rdp", pytest.param("pld", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("target", "rate", "steps", "delta"), [(1.0, 0.01, 300, 1e-5), (5.0, 1.0, 40, 1e-6), (0.3, 0.05, 50, 1e-4)]
)
def test_the_solved_noise_is_the_smallest(accountant, target, rate, steps, delta):
    sigma = solve_noise_multiplier(lambda s: poisson_steps(s, rate, steps), target, delta, accountant)
    assert epsilon(poisson_steps(sigma, rate, steps), delta, accountant) <= target
    assert epsilon(poisson_steps(0.995 * sigma, rate, steps), delta, accountant) > target


def test_the_solver_agrees_with_the_analytic_gaussian():
    for relation in RELATIONS:
        sigma = solve_noise_multiplier(gaussian_event, 2.0, 1e-6, "pld", relation)
        assert sigma == pytest.approx(analytic_gaussian_sigma(2.0, 1e-6), rel=2e-3)


def test_the_solver_asks_the_accountant_a_few_times():
    before = accounting._epsilon.cache_info().misses
    asked = []

    def event_of(sigma: float) -> DpEvent:
        asked.append(sigma)
        return poisson_steps(sigma, 0.02, 77)

    solve_noise_multiplier(event_of, 3.0, 1e-5, "rdp")
    assert len(asked) <= 12
    assert accounting._epsilon.cache_info().misses - before <= len(asked)


@pytest.mark.parametrize(
    ("target", "accountant", "message"),
    [
        (0.005, "prv", r"target_epsilon=0.005: the smallest .* is 0.00999"),
        (1e9, "rdp", "give noise_multiplier itself"),
        (0.0, "rdp", "target_epsilon=0.0: must be a finite number above 0"),
        (math.nan, "rdp", "target_epsilon=nan"),
    ],
)
def test_a_target_out_of_reach_is_refused(target, accountant, message):
    with pytest.raises(ConfigError, match=message):
        solve_noise_multiplier(gaussian_event, target, 1e-5, accountant)


def test_what_is_spent_already_may_be_more_than_the_target():
    spent = poisson_steps(0.7, 0.01, 1000)
    with pytest.raises(ConfigError, match="target_epsilon=1"):
        solve_noise_multiplier(lambda s: ComposedDpEvent([spent, gaussian_event(s)]), 1.0, 1e-5, "rdp")


def test_different_noises_compose_alike_in_prv_and_pld():
    event = ComposedDpEvent([poisson_steps(1.0, 0.05, 40), poisson_steps(2.0, 1.0, 3), poisson_steps(0.8, 0.001, 9)])
    assert epsilon(event, 1e-5, "prv") == pytest.approx(epsilon(event, 1e-5, "pld"), abs=0.015)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_nothing_costs_nothing(accountant, relation):
    for event in (
        compose([]).event,
        compose([(Charge("dp_sgd", "record", "add_remove", STEPS), 0)]).event,
        NoOpDpEvent(),
        poisson_steps(1.0, 0.1, 0),
        poisson_steps(0.0, 0.0, 5),
        PoissonSampledDpEvent(0.5, NoOpDpEvent()),
    ):
        assert epsilon(event, 1e-5, accountant, relation) == 0.0


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_no_noise_costs_everything(accountant):
    for event in (
        gaussian_event(0.0),
        poisson_steps(0.0, 0.1, 5),
        LaplaceDpEvent(0.0),
        PoissonSampledDpEvent(0.1, ComposedDpEvent([GaussianDpEvent(0.0), GaussianDpEvent(1.0)])),
        ComposedDpEvent([gaussian_event(5.0), gaussian_event(0.0)]),
    ):
        assert epsilon(event, 1e-5, accountant) == math.inf
        assert epsilon_pre_2020(event, 1e-5) == math.inf


@pytest.mark.parametrize(
    ("event", "accountant", "relation", "message"),
    [
        (LaplaceDpEvent(1.0), "prv", "add_remove", "accountant=prv: cannot account Laplace .* pld or rdp can do it"),
        (STEPS, "prv", "replace", "accountant=prv: .* relation=replace; pld can do it"),
        (ZCDpEvent(0.1), "pld", "add_remove", "accountant=pld: cannot account ZC .* rdp can do it"),
        (STEPS, "rdp", "replace", "accountant=rdp: cannot account PoissonSampled .* pld can do it"),
        (LaplaceDpEvent(1.0), "pld", "replace", "rdp can do it"),
        (SampledWithoutReplacementDpEvent(9, 3, gaussian_event(1.0)), "prv", "add_remove", "no accountant can do it"),
        (poisson_steps(0.02, 0.01, 1000), "prv", "add_remove", "points.*use accountant=rdp"),
        (poisson_steps(0.02, 0.01, 1000), "pld", "add_remove", "points.*use accountant=rdp"),
        (poisson_steps(1.0, 0.01, 10**6), "prv", "add_remove", "points.*use accountant=rdp"),
    ],
)
def test_what_an_accountant_cannot_do_it_refuses(event, accountant, relation, message):
    with pytest.raises(ConfigError, match=message):
        epsilon(event, 1e-5, accountant, relation)


@pytest.mark.parametrize(
    ("delta", "accountant", "relation", "key"),
    [
        (0.0, "rdp", "add_remove", "delta"),
        (1.0, "rdp", "add_remove", "delta"),
        (math.nan, "rdp", "add_remove", "delta"),
        (1e-5, "gdp", "add_remove", "accountant"),
        (1e-5, "rdp", "swap", "relation"),
        (1e-11, "prv", "add_remove", "accountant=prv: .*precision.* use accountant=rdp"),
    ],
)
def test_bad_settings_are_refused(delta, accountant, relation, key):
    with pytest.raises(ConfigError, match=key):
        epsilon(STEPS, delta, accountant, relation)


@pytest.mark.parametrize("sigma", [-1.0, math.inf, math.nan])
def test_noise_that_is_no_number_is_refused(sigma):
    with pytest.raises(ConfigError, match="noise_multiplier"):
        gaussian_event(sigma)
    with pytest.raises(ConfigError, match="noise_multiplier"):
        epsilon(GaussianDpEvent(sigma), 1e-5, "rdp")


@pytest.mark.parametrize("accountant", ["rdp", pytest.param("prv", marks=pytest.mark.slow)])
@given(
    sigma=st.floats(-2, 6).map(lambda power: 10**power),
    rate=st.floats(-9, 0).map(lambda power: 10**power),
    steps=st.integers(0, 7).map(lambda power: 10**power),
    delta=st.floats(-12, -1).map(lambda power: 10**power),
)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_extremes_give_a_bound_or_a_refusal(accountant, sigma, rate, steps, delta):
    try:
        found = epsilon(poisson_steps(sigma, rate, steps), delta, accountant)
    except ConfigError as error:
        found = 0.0
        refusal = str(error)
    else:
        refusal = ""
    assert found >= 0
    assert not refusal or (accountant == "prv" and "use accountant=rdp" in refusal)


def test_an_equal_event_is_not_computed_again():
    event = poisson_steps(1.234, 0.01, 10)
    first = epsilon(event, 1e-5, "rdp")
    before = accounting._epsilon.cache_info()
    assert epsilon(ComposedDpEvent([event, NoOpDpEvent()]), 1e-5, "rdp") == first
    after = accounting._epsilon.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
