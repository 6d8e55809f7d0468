"""The price of DP-FTRL by brute force over all signs of updates, and its benefit. T is rounds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.charges import compose
from privacy.accounting.epsilon import epsilon
from privacy.errors import ConfigError
from privacy.mechanisms.dp_ftrl import DpFtrl
from tests.privacy.accounting.exact import gaussian_delta, gaussian_epsilon
from tests.privacy.mechanisms.dp_ftrl.matrices import (
    CLIP,
    PLAN,
    SIGMA,
    Matrix,
    charge_of,
    noise,
    price,
    settled,
    whitening,
)

# ---- the price


@given(st.data(), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_a_client_that_keeps_away_for_the_bands_pays_a_gaussian_a_participation(data, bands, times):
    gaps = data.draw(st.lists(st.integers(bands, bands + 3), min_size=times, max_size=times))
    rounds = np.cumsum([data.draw(st.integers(0, 3)), *gaps[1:]]).tolist()
    whole = whitening(bands, rounds[-1] + bands)
    assert price(whole, rounds) == pytest.approx(times / SIGMA**2, rel=1e-8)
    if bands > 1:  # rows that the run's end cuts off make it cheaper, never dearer
        assert price(whole[: rounds[-1] + 1], rounds) < times / SIGMA**2 * (1 - 1e-3)


@given(st.data(), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_one_that_returns_earlier_would_pay_more(data, bands):
    """So `settle` refuses."""
    first = data.draw(st.integers(0, 3))
    gap = data.draw(st.integers(1, bands - 1))
    assert price(whitening(bands, first + gap + bands), (first, first + gap)) > 2 / SIGMA**2 * (1 + 1e-3)
    with pytest.raises(ConfigError, match=f"^mechanism.dp_ftrl.bands={bands}: some client returns after {gap} rounds"):
        settled(bands, replace(PLAN, separation=gap))


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_a_row_that_is_released_again_tells_of_the_window_and_costs_nobody_more_than_a_charge(bands):
    plan = replace(PLAN, rounds=15, separation=bands)
    assert settled(bands, plan).window == bands
    for round_, row_T in enumerate(whitening(bands, 15)):
        costs_T = np.square(CLIP * row_T)
        assert costs_T.max() <= 1 / SIGMA**2 * (1 + 1e-9)
        told = np.flatnonzero(costs_T > 1e-12).tolist()
        assert told == list(range(max(0, round_ - bands + 1), round_ + 1))


@pytest.mark.parametrize(("bands", "times"), [(1, 6), (4, 3), (10, 9)])
def test_epsilon_of_the_ledger_is_that_of_the_whole_release(bands, times):
    """Oracles: one Gaussian with the sensitivity found by brute force, and dp-accounting driven by hand."""
    charge = charge_of(settled(bands))
    assert (charge.mechanism, charge.unit, charge.relation) == ("dp_ftrl", "client", "zero_out")
    ledger = epsilon(compose([(charge, times)]).event, 1e-5, "pld", "zero_out")
    worst = price(whitening(bands, bands * times), [bands * n for n in range(times)])
    assert ledger == pytest.approx(gaussian_epsilon(1 / math.sqrt(worst), 1e-5), rel=1e-3)
    by_hand = PLDAccountant().compose(SelfComposedDpEvent(GaussianDpEvent(SIGMA), times)).get_epsilon(1e-5)
    assert ledger == pytest.approx(by_hand, rel=1e-3)


def test_a_target_is_met_by_the_client_that_takes_part_most_often():
    plan = replace(PLAN, participations=(1, 9) + (4,) * 198, accountant="pld")
    mechanism = DpFtrl(target_epsilon=3.0)
    mechanism.settle(plan)
    sigma = mechanism.noise_multiplier
    assert sigma is not None
    assert gaussian_delta(sigma / 3, 3.0) <= plan.delta * (1 + 1e-3)
    assert gaussian_delta(sigma / 3, 2.98) > plan.delta
    assert charge_of(mechanism) == replace(charge_of(settled()), event=GaussianDpEvent(sigma))
    assert np.allclose(noise(mechanism, 20, 3), noise(settled(), 20, 3) * sigma / (SIGMA * CLIP), rtol=1e-9)


# ---- benefit


def error(bands: int, rounds: int) -> Matrix:
    """Deviation of a value of each prefix sum, at the epsilon of independent noise of deviation 1, shape (T,)."""
    prefix_TT = np.tri(rounds) @ np.linalg.inv(whitening(bands, rounds))
    return np.asarray(np.linalg.norm(prefix_TT, axis=1) / (SIGMA * CLIP))


@pytest.mark.parametrize(("rounds", "most", "share"), [(30, 10, 0.55), (80, 10, 0.45), (80, 20, 0.4)])
def test_more_bands_make_prefix_sums_more_accurate_at_the_same_epsilon(rounds, most, share):
    independent = np.sqrt(np.arange(1, rounds + 1))
    assert np.allclose(error(1, rounds), independent)
    errors = [np.linalg.norm(error(bands, rounds)) for bands in (1, 2, 5, most)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < share * np.linalg.norm(independent)
    assert error(most, rounds)[-1] < share * independent[-1]


@pytest.mark.parametrize("rounds", [2, 10, 60])
def test_with_a_band_a_round_the_largest_error_is_landaus_constant(rounds):
    """Brutman 1982: 1 + ln(n + 1) / pi < G_n < 1.0663 + ln(n + 1) / pi, where independent noise has a root."""
    largest = error(rounds, rounds).max()
    assert 1 + math.log(rounds) / math.pi < largest < 1.0663 + math.log(rounds) / math.pi
