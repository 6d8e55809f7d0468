"""Small deltas: an accountant gives a bound or refuses, and a solved noise costs what was asked for."""

import math

import mpmath
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

from privacy.accounting import calibration
from privacy.accounting.calibration import solve_noise_multiplier
from privacy.accounting.charges import poisson_steps
from privacy.accounting.epsilon import epsilon
from privacy.errors import ConfigError


def exact_epsilon(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian at sensitivity 1 (Balle and Wang 2018, Theorem 8), in 40 digits."""
    with mpmath.workdps(40):
        low = mpmath.mpf(0)
        high = mpmath.mpf(500)
        for _ in range(120):
            middle = (low + high) / 2
            half = 1 / (2 * mpmath.mpf(sigma))
            there = mpmath.ncdf(half - middle * sigma) - mpmath.exp(middle) * mpmath.ncdf(-half - middle * sigma)
            low, high = (middle, high) if there > delta else (low, middle)
        return float(high)


@pytest.mark.parametrize(("sigma", "times"), [(1, 1), (8, 1000), (30, 10_000)])
def test_pld_never_falls_below_the_exact_epsilon(sigma, times):
    """A sample of nearly everything is a Gaussian, and is composed as samples are: by convolutions."""
    event = SelfComposedDpEvent(PoissonSampledDpEvent(1 - 1e-12, GaussianDpEvent(float(sigma))), times)
    for delta in (1e-10, 1e-8, 1e-5):
        exact = exact_epsilon(sigma / math.sqrt(times), delta)
        assert exact - 1e-9 <= epsilon(event, delta, "pld") <= exact * 1.001


@pytest.mark.parametrize("accountant", ["prv", "pld"])
@pytest.mark.parametrize("delta", [9e-11, 1e-14, 1e-15, 1e-20])
def test_a_delta_below_its_precision_is_refused(accountant, delta):
    for event in (poisson_steps(1.0, 0.01, 10), GaussianDpEvent(2.0)):
        with pytest.raises(ConfigError, match=r"is below its precision of 1e-10.*use accountant=rdp"):
            epsilon(event, delta, accountant)


def test_rdp_takes_any_delta():
    event = GaussianDpEvent(2.0)
    for delta in (1e-12, 1e-15, 1e-20, 1e-30):
        assert exact_epsilon(2.0, delta) <= epsilon(event, delta, "rdp") <= 1.1 * exact_epsilon(2.0, delta)


@pytest.mark.parametrize("delta", [1e-11, 1e-15])
def test_no_noise_is_solved_at_a_delta_that_its_accountant_refuses(delta):
    with pytest.raises(ConfigError, match=r"accountant=pld: .*use accountant=rdp"):
        solve_noise_multiplier(lambda sigma: poisson_steps(sigma, 0.01, 100), 3.0, delta, "pld")
    sigma = solve_noise_multiplier(lambda sigma: poisson_steps(sigma, 0.01, 100), 3.0, delta, "rdp")
    assert 0.99 * 3 <= epsilon(poisson_steps(sigma, 0.01, 100), delta, "rdp") <= 3


def test_noise_that_costs_far_less_than_its_target_is_an_error(monkeypatch):
    """An accountant whose epsilon jumps from infinity to a hundredth, as one with a mass at infinity does."""

    def jumping(event, *_):
        return math.inf if event.noise_multiplier < 500 else 0.01

    monkeypatch.setattr(calibration, "epsilon", jumping)
    with pytest.raises(ConfigError, match=r"target_epsilon=3.0: accountant=pld jumps over it .* 0.01 at a noise"):
        solve_noise_multiplier(GaussianDpEvent, 3.0, 1e-5, "pld")
