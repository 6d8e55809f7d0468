"""The noise of DP-FTRL against the inverse of its strategy, as a dense matrix. T is rounds, D values of the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import solve_triangular
from scipy.stats import kstest, norm

from privacy.mechanisms.client_dp import ClientDp
from tests.privacy.mechanisms.dp_ftrl.matrices import (
    CLIP,
    PLAN,
    SIGMA,
    drawn,
    noise,
    server_job,
    settled,
    strategy,
    whitening,
)


def test_the_strategy_is_the_root_of_the_prefix_sums():
    """M is C over the noise, and C C the workload."""
    m_TT = whitening(30, 30)
    assert np.allclose(m_TT @ m_TT / m_TT[0, 0] ** 2, np.tri(30), atol=1e-9)


@pytest.mark.parametrize("bands", [1, 2, 5, 10])
def test_the_noise_is_the_inverse_strategy_on_fresh_noise(bands):
    c_TT = strategy(bands, 40)
    std = SIGMA * CLIP * np.linalg.norm(strategy(bands, 40)[:, 0])
    expected_TD = solve_triangular(c_TT, std * drawn(40, 7), lower=True)
    assert np.allclose(noise(settled(bands), 40, 7), expected_TD, rtol=1e-12, atol=1e-12)
    assert np.allclose(np.linalg.inv(c_TT) @ (std * drawn(40, 7)), expected_TD, atol=1e-10)


def test_the_total_shifts_the_noise_and_is_in_no_later_round():
    mechanism = settled(4)
    memory = dict[str, torch.Tensor]()
    totals_TD = np.random.default_rng(1).normal(0, 50, (9, 7))
    noised_TD = np.stack([mechanism.on_total(server_job(t + 1, memory), totals_TD[t]) for t in range(9)])
    assert np.allclose(noised_TD - totals_TD, noise(mechanism, 9, 7), atol=1e-12)


def test_a_value_over_many_rounds_is_white_noise_under_the_strategy():
    long = settled(8, replace(PLAN, rounds=3000))
    series_T = noise(long, 3000, 1)[:, 0]
    std = SIGMA * CLIP * np.linalg.norm(strategy(8, 8)[:, 0])
    white_T = np.convolve(series_T, strategy(8, 8)[:, 0])[:3000]
    assert kstest(white_T / std, norm.cdf).pvalue > 1e-3
    lags = [abs(np.corrcoef(white_T[lag:], white_T[:-lag])[0, 1]) for lag in range(1, 12)]
    assert max(lags) < 0.07
    # rounds far enough apart to be nearly independent, each at the deviation of a row far down in the inverse
    row = np.linalg.norm(np.linalg.inv(strategy(8, 200))[-1])
    assert kstest(series_T[::20] / (std * row), norm.cdf).pvalue > 1e-3
    assert np.corrcoef(series_T[1:], series_T[:-1])[0, 1] < -0.2, "nothing is taken back"


@pytest.mark.parametrize("round_", [1, 2, 12])
def test_the_values_of_a_round_are_gaussian_with_the_deviation_of_its_row(round_):
    inverse_TT = np.linalg.inv(strategy(10, 12))
    std = SIGMA * CLIP * np.linalg.norm(strategy(10, 12)[:, 0]) * np.linalg.norm(inverse_TT[round_ - 1])
    assert kstest(noise(settled(), round_, 20_000)[-1] / std, norm.cdf).pvalue > 1e-3


def test_one_band_is_independent_noise():
    independent = ClientDp(noise_multiplier=SIGMA, clip=CLIP)
    independent.settle(PLAN)
    for number, noise_D in enumerate(noise(settled(1), 5, 20), 1):
        job = replace(server_job(number, {}), state=independent.initial_state())
        assert independent.on_total(job, np.zeros(20)).tobytes() == noise_D.tobytes()
