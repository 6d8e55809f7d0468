import math
from decimal import localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chisquare, kstest
from scipy.stats import skellam as scipy_skellam

from privacy.errors import ConfigError
from privacy.noise import samplers as discrete_noise
from privacy.noise.samplers import SIGMA_RANGE, VARIANCE_RANGE, discrete_gaussian, skellam
from privacy.randomness import OsRandomness, SeededRandomness

DRAWS = 200_000


def generator(*labels: int | str | float) -> np.random.Generator:
    return SeededRandomness("discrete noise", *map(str, labels)).generator()


def gaussian_pmf(sigma: float) -> dict[int, float]:
    reach = math.ceil(12 * sigma) + 3
    weights = {k: math.exp(-k * k / (2 * sigma * sigma)) for k in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


def skellam_pmf(variance: float) -> dict[int, float]:
    """e^-v I_k(v), the exponentially scaled Bessel function."""
    reach = math.ceil(12 * math.sqrt(variance)) + 12
    support = np.arange(-reach, reach + 1)
    return dict(zip(support.tolist(), ive(np.abs(support), variance).tolist(), strict=True))


def p_value(drawn: np.ndarray, pmf: dict[int, float]) -> float:
    """Chi-square over cells that expect at least 20 draws each; values outside the table count in the last cell."""
    edges = []
    cells = []
    mass = 0.0
    for k, p in pmf.items():
        mass += p
        if mass * len(drawn) >= 20:
            edges.append(k)
            cells.append(mass)
            mass = 0.0
    cells[-1] = 1 - math.fsum(cells[:-1])
    found = np.bincount(np.minimum(np.searchsorted(edges, drawn), len(cells) - 1), minlength=len(cells))
    return float(chisquare(found, np.array(cells) * len(drawn)).pvalue)


@pytest.mark.parametrize("variance", [0.05, 1.0, 7.3, 2500.0])
def test_the_oracles_agree(variance):
    pmf = skellam_pmf(variance)
    assert math.fsum(pmf.values()) == pytest.approx(1, abs=1e-12)
    for k in (-1, 0, 2, 5):
        assert pmf[k] == pytest.approx(scipy_skellam.pmf(k, variance / 2, variance / 2), rel=1e-8)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.97, 1.0, 2.0, 5.5, 50.0, 1234.5])
def test_discrete_gaussian_has_its_distribution(sigma):
    drawn = discrete_gaussian(generator("gaussian", sigma), sigma, DRAWS)
    assert drawn.dtype == np.int64
    assert p_value(drawn, gaussian_pmf(sigma)) > 1e-3


@pytest.mark.parametrize("variance", [0.05, 1.0, 1.99, 2.0, 7.3, 2500.0, 2.0**21 - 1, 2.0**21, 3.3e6])
def test_skellam_has_its_distribution(variance):
    """The last three stand on both sides of the change to Stirling's series."""
    drawn = skellam(generator("skellam", variance), variance, DRAWS)
    assert drawn.dtype == np.int64
    assert p_value(drawn, skellam_pmf(variance)) > 1e-3


@pytest.mark.parametrize("variance", [1e10, 1e15, 2.0**60])
def test_skellam_of_a_large_variance_is_normal_to_the_last_bit(variance):
    drawn = skellam(generator("large", variance), variance, DRAWS)
    assert kstest(drawn / math.sqrt(variance), "norm").pvalue > 1e-3
    assert chisquare(np.bincount(drawn & 7, minlength=8)).pvalue > 1e-3


def test_numpys_poisson_would_not_do():
    """The reason for our own sampler: if this test fails, NumPy's may serve."""
    assert not (np.random.default_rng(1).poisson(1e17, 1000) & 7).any()


@pytest.mark.parametrize(("total", "shares"), [(3.0, 5), (400.0, 20)])
def test_a_sum_of_skellams_is_skellam(total, shares):
    source = SeededRandomness("shares")
    drawn = sum(skellam(source.generator(), total / shares, 50_000) for _ in range(shares))
    assert p_value(drawn, skellam_pmf(total)) > 1e-3


def test_a_sum_of_discrete_gaussians_is_not_one():
    """The chi-square test sees what the accounting pays tau for."""
    drawn = sum(discrete_gaussian(generator("sum", i), 0.4, DRAWS) for i in range(2))
    assert p_value(drawn, gaussian_pmf(0.4 * math.sqrt(2))) < 1e-9


@pytest.mark.parametrize("value", [0.7, 4.0])
def test_what_is_decided_in_decimals_has_the_same_distribution(value, monkeypatch):
    """With a slack this wide no double is believed, so every coin and every step takes the exact way."""
    monkeypatch.setattr(discrete_noise, "_SLACK", 1e6)
    assert p_value(discrete_gaussian(generator("exact", value), value, 500), gaussian_pmf(value)) > 1e-3
    assert p_value(skellam(generator("exact", value), value, 500), skellam_pmf(value)) > 1e-3


def log_ratio(mean: float, y: int) -> float:
    """ln p(m + y)/p(m) of a Poisson variable with mode m, factor by factor."""
    mode = math.floor(mean)
    if y >= 0:
        return -math.fsum(math.log1p((mode - mean + i) / mean) for i in range(1, y + 1))
    return math.fsum(math.log1p((mode - mean - i) / mean) for i in range(-y))


@pytest.mark.parametrize("mean", [0.3, 5.5, 1000.25, 2.0**20 - 0.5, 2.0**20 + 0.5, 1e9 + 0.75, 1e15, 2.0**59])
def test_acceptance_is_within_its_stated_error(mean):
    target = discrete_noise._Poisson(mean)
    offsets = [y for y in (-30_000, -999, -3, -1, 0, 1, 2, 5, 40, 1000, 30_000) if target.mode + y >= 0]
    found, error = target.log_accept(np.array(offsets), np.zeros(len(offsets), np.int64))
    for y, value, bound in zip(offsets, found, error, strict=True):
        expected = log_ratio(mean, y) - target.offset
        assert abs(value - expected) <= bound
        with localcontext(discrete_noise._PRECISE):
            exact = float(target.exact(y, 0))
        assert abs(exact - expected) <= 1e-12 * (1 + abs(expected))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.5, 1e4, 2.0**30])
def test_gaussian_acceptance_is_that_of_the_paper(sigma):
    """Two coins of Canonne et al., Algorithms 2 and 3, multiplied: exp(-U/t) and exp(-(|y| - s^2/t)^2 / (2 s^2))."""
    target = discrete_noise._Gaussian(sigma)
    t = math.floor(sigma) + 1
    y = np.array([0, 1, -1, t - 1, t, -t, 3 * t + t // 2, -8 * t])
    found, error = target.log_accept(y, np.abs(y) // t)
    for value, logarithm, bound in zip(y.tolist(), found, error, strict=True):
        spread = Fraction(sigma) ** 2
        expected = -Fraction(abs(value) % t, t) - (abs(value) - spread / t) ** 2 / (2 * spread)
        assert abs(logarithm - float(expected)) <= bound
        with localcontext(discrete_noise._PRECISE):
            assert float(target.exact(value, abs(value) // t)) == pytest.approx(float(expected), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("mean", [1e-9, 0.3, 1.0, 5.5, 1000.25, 2.0**20 + 0.5, 1e15, 2.0**59])
def test_nothing_would_have_to_be_accepted_more_often_than_always(mean):
    """Else the proposal would not dominate the target, and the draws would be cut there."""
    target = discrete_noise._Poisson(mean)
    y = np.unique(np.linspace(-5 * target.width, 5 * target.width, 20_001).astype(np.int64))
    found, _ = target.log_accept(y, np.abs(y) // target.width)
    assert -1.1 < found.max() <= 0


@pytest.mark.parametrize("sample", [discrete_gaussian, skellam])
def test_a_seed_gives_the_same_again(sample):
    first, second = (sample(generator("again"), 12.5, 1000) for _ in range(2))
    assert (first == second).all()
    assert (first != sample(generator("other"), 12.5, 1000)).any()
    assert (first != sample(OsRandomness().generator(), 12.5, 1000)).any()


@pytest.mark.parametrize("sample", [discrete_gaussian, skellam])
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_there_are_as_many_values_as_were_asked_for(sample, size):
    assert sample(generator("size"), 3.0, size).shape == (size,)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_out_of_range_is_refused(value):
    with pytest.raises(ConfigError, match=r"sigma=.*2\^-10 to 2\^30"):
        discrete_gaussian(generator(), value, 1)
    with pytest.raises(ConfigError, match=r"variance=.*2\^-40 to 2\^60"):
        skellam(generator(), value, 1)


def test_the_ends_of_the_ranges_work():
    assert not discrete_gaussian(generator("end"), SIGMA_RANGE[0], 1000).any()
    assert not skellam(generator("end"), VARIANCE_RANGE[0], 1000).any()
    wide = discrete_gaussian(generator("end"), SIGMA_RANGE[1], DRAWS)
    assert kstest(wide / SIGMA_RANGE[1], "norm").pvalue > 1e-3
