"""`norm_bounded` on real parties, against float64 on the integers that were shared, and against honest floats."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, TooFewContributors
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.aggregates.norm_bounded import NormBounded, NormGrid, grid
from tests.privacy.secure_sums.mpc.aggregates.specs import spec_of
from tests.privacy.secure_sums.mpc.committee import Committee

BITS = 16
ONE = 1 << BITS
few = settings(max_examples=15, deadline=None)


def steps(updates_CD: np.ndarray, weights_C: np.ndarray, bits: int = BITS) -> np.ndarray:
    """The shared vectors of honest clients: `[v * update, v]` to the nearest step."""
    vectors_CL = np.column_stack([updates_CD * weights_C[:, None], weights_C])
    return np.rint(vectors_CL * 2.0**bits).astype(np.int64)


def of_norm(norms_C: np.ndarray, dimension: int, seed: int = 0) -> np.ndarray:
    drawn_CD = np.random.default_rng(seed).standard_normal((len(norms_C), dimension))
    return drawn_CD * (np.asarray(norms_C) / np.linalg.norm(drawn_CD, axis=1))[:, None]


def expected(integers_CL: np.ndarray, counted_C: np.ndarray) -> np.ndarray:
    """The exact sum of some contributions."""
    return integers_CL[np.asarray(counted_C, bool)].sum(0) / ONE


# ---- zero


@pytest.mark.slow
@few
@given(
    norms=st.lists(st.floats(0, 3), min_size=1, max_size=6),
    norm=st.floats(0.01, 2.0),
    weights=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_who_is_over_the_norm_is_left_out_with_its_weight(committee, norms, norm, weights, seed):
    """Norms within a hundredth of the bound may be on either side."""
    near = [abs(one - norm) < 0.01 * norm + 0.01 for one in norms]
    norms_C = np.where(near, 0.0, norms) * (np.array(weights[: len(norms)]) > 0.05)
    integers_CL = steps(of_norm(norms_C, 70, seed), np.array(weights[: len(norms)]))
    aggregate = named("norm_bounded", norm=norm, coordinate_bound=4.0)
    found = committee.reveal(aggregate, integers_CL, BITS)
    np.testing.assert_array_equal(found, expected(integers_CL, norms_C <= norm))


@pytest.mark.slow
@few
@given(
    dimension=st.sampled_from([1, 2, 63, 64, 65, 300]),
    norm=st.floats(0.005, 50.0),
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_an_honest_client_that_clipped_to_the_norm_always_counts(committee, dimension, norm, weights, seed):
    """For any rounding of its values and its weight, and in both modes with factor 1."""
    weights_C = np.array(weights)
    integers_CL = steps(of_norm(np.full(len(weights), norm), dimension, seed), weights_C)
    for options in ({}, {"mode": "rescale", "coordinate_bound": norm}):
        found = committee.reveal(named("norm_bounded", norm=norm, **options), integers_CL, BITS)
        np.testing.assert_array_equal(found, integers_CL.sum(0) / ONE)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "bound"), [(16, 0.3), (12, 300.0)])
def test_the_norm_is_met_within_two_hundredths(committee, bits, bound):
    """Rounding included, over the whole range that is declared."""
    excess_C = np.array([0.1, 1.0, 1.02, 1.1, 2, 10, 100, 900])
    integers_CL = steps(of_norm(0.3 * excess_C, 100), np.ones(8), bits)
    aggregate = named("norm_bounded", norm=0.3, coordinate_bound=bound)
    aggregate.check(spec_of(100, bound=bound), bits, 3)
    found = committee.reveal(aggregate, integers_CL, bits)
    np.testing.assert_array_equal(found, integers_CL[:2].sum(0) / 2.0**bits)


# ---- dishonest contributions

HUGE = {
    "squares that add up to 2^64": lambda row: row.__setitem__(slice(0, 1024), 1 << 27),
    "one square of 2^64": lambda row: row.__setitem__(0, 1 << 32),
    "one negative square of 2^64": lambda row: row.__setitem__(0, -(1 << 32)),
    "a thousand of 65,536": lambda row: row.__setitem__(slice(0, 1000), 65_536 * ONE),
    "the largest word": lambda row: row.__setitem__(5, 2**63 - 1),
    "the smallest word": lambda row: row.__setitem__(5, -(2**63)),
    "a step beyond the bound": lambda row: row.__setitem__(1024, 2 * ONE + 1),
    "a step below it": lambda row: row.__setitem__(0, -2 * ONE - 1),
    "a weight below 0": lambda row: row.__setitem__(-1, -1),
    "a weight above 1": lambda row: row.__setitem__(-1, ONE + 1),
    "the largest weight": lambda row: row.__setitem__(-1, 2**63 - 1),
    "a weight whose square wraps": lambda row: row.__setitem__(-1, 1 << 32),
    "the smallest weight": lambda row: row.__setitem__(-1, -(2**63)),
    "an update without weight": lambda row: row.__setitem__(-1, 0),
    "uniform words": lambda row: row.__setitem__(
        slice(None), np.random.default_rng(3).integers(-(2**63), 2**63, len(row), np.int64)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zero", "rescale"])
def test_what_is_out_of_range_counts_for_nothing(committee, mode):
    """All at once, and two honest ones among them, one of which is all zeros."""
    honest_CL = steps(np.vstack([np.zeros(1025), of_norm(np.array([0.9]), 1025)]), np.array([1.0, 0.5]))
    dishonest_CL = np.repeat(steps(of_norm(np.array([0.9]), 1025, seed=1), np.ones(1)), len(HUGE), axis=0)
    for row, change in zip(dishonest_CL, HUGE.values(), strict=True):
        change(row)
    aggregate = named("norm_bounded", norm=1.0, mode=mode, coordinate_bound=2.0)
    aggregate.check(spec_of(1025, len(HUGE) + 2), BITS, 3)
    found = committee.reveal(aggregate, np.vstack([dishonest_CL, honest_CL]), BITS)
    if mode == "rescale":  # without weight, at most rounding errors are left of it
        assert np.abs(found - honest_CL.sum(0) / ONE).max() < 100 / ONE
    else:
        np.testing.assert_array_equal(found, honest_CL.sum(0) / ONE)


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_each_of_them_alone_counts_for_nothing(three_parties, name):
    row = steps(of_norm(np.array([0.9]), 1025), np.ones(1))
    HUGE[name](row[0])
    found = three_parties.reveal(named("norm_bounded", norm=1.0, coordinate_bound=2.0), row, BITS)
    assert not found.any()


@pytest.mark.slow
def test_the_bounds_themselves_are_allowed_and_a_step_beyond_is_not(committee):
    """The updates are far below the norm, so that only these bounds can exclude them."""
    within = [[2 * ONE, 0, ONE], [-2 * ONE, 0, ONE], [0, 0, 0]]
    integers_CL = np.array([*within, [2 * ONE + 1, 0, ONE], [0, -2 * ONE - 1, ONE]])
    found = committee.reveal(named("norm_bounded", norm=50.0, coordinate_bound=2.0), integers_CL, BITS)
    np.testing.assert_array_equal(found, [0, 0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zero", "rescale"])
def test_blocks_of_coordinates_change_nothing(committee, mode):
    integers_CL = steps(of_norm(np.array([0.5, 1.5, 0.9]), 1000), np.ones(3))
    integers_CL[2, 999] = 1 << 40
    options = {"norm": 1.0, "mode": mode, "coordinate_bound": 2.0}
    least, most = (
        committee.reveal(named("norm_bounded", memory_mib=memory_mib, **options), integers_CL, BITS)
        for memory_mib in (0.001, 100)
    )
    np.testing.assert_array_equal(least, most)
    assert least[-1] == (1 if mode == "zero" else 2)


# ---- rescale


def apart(updates_CD: np.ndarray) -> np.ndarray:
    """Each update in separate coordinates, so that the sum shows every one."""
    count, dimension = updates_CD.shape
    apart_CD = np.zeros((count, count * dimension))
    for i, update_D in enumerate(updates_CD):
        apart_CD[i, i * dimension : (i + 1) * dimension] = update_D
    return apart_CD


def rescaled(committee: Committee, norms_C: np.ndarray, norm: float, bound: float, weights_C: np.ndarray) -> np.ndarray:
    """The surviving updates, shape (C, 20)."""
    integers_CL = steps(apart(of_norm(norms_C, 20)), weights_C)
    aggregate = NormBounded(norm, "rescale", bound)
    aggregate.check(spec_of(integers_CL.shape[1] - 1, len(norms_C), bound=bound), BITS, 3)
    found = committee.reveal(aggregate, integers_CL, BITS)
    assert found[-1] == integers_CL[:, -1].sum() / ONE
    return found[:-1].reshape(len(norms_C), 20)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 0.37])
@pytest.mark.parametrize(("norm", "bound"), [(1.0, 8.0), (0.01, 0.5), (40.0, 60.0)])
def test_whatever_is_over_the_norm_ends_just_below_it(committee, norm, bound, weight):
    """From norm 0 up to every coordinate at its bound."""
    reach = 0.9 * bound * math.sqrt(20) / 3  # a coordinate of these draws is three deviations at most
    norms_C = np.concatenate([[0, norm * 0.5, norm], np.geomspace(norm * 1.0001, reach, 40)])
    left_CD = rescaled(committee, norms_C, norm, bound, np.full(43, weight))
    given_CD = of_norm(norms_C, 20) * weight
    rounding = (math.sqrt(43 * 20) + math.sqrt(20) + norm) / ONE
    lengths_C = np.linalg.norm(left_CD, axis=1)
    assert (lengths_C <= norm * weight * 1.01 + rounding).all()
    assert (lengths_C >= np.minimum(norms_C, 0.97 * norm) * weight - rounding).all()
    factors_C = np.where(norms_C > 0, lengths_C / np.maximum(np.linalg.norm(given_CD, axis=1), 1e-12), 1)
    np.testing.assert_allclose(left_CD, given_CD * factors_C[:, None], atol=2 * math.sqrt(20) / ONE)


@pytest.mark.slow
@few
@given(excess=st.lists(st.floats(0, 60), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_sum_is_that_of_the_factors_of_the_grid(committee, excess, seed):
    """Exactly: the largest factor that fits, in integers, and the sum to the nearest step."""
    integers_CL = steps(of_norm(np.array(excess), 50, seed), np.ones(len(excess)))
    found = committee.reveal(NormBounded(1.0, "rescale", 60.0), integers_CL, BITS)
    made = grid(50, BITS, 1.0, 60.0, True)
    assert made is not None
    factors_C = [largest_factor(made, row) for row in integers_CL.tolist()]
    total_D = [sum(f * x for f, x in zip(factors_C, column, strict=True)) for column in integers_CL[:, :-1].T.tolist()]
    half = 1 << (made.factor_bits - 1)
    np.testing.assert_array_equal(found[:-1], np.array([(t + half) >> made.factor_bits for t in total_D]) / ONE)
    assert found[-1] == len(excess)


def largest_factor(made: NormGrid, row: list[int]) -> int:
    """The largest factor L by its definition: L |x| <= R, where R^2 is rounded up in units of 2^-H."""
    *update, weight = row
    squared = sum(x * x for x in update) << made.headroom
    fitting = [
        factor
        for factor, (second, first, constant) in zip(made.factors_M, made.coefficients_M3, strict=True)
        if second * weight * weight + first * weight + constant >= squared
    ]
    return max(fitting, default=0)


# ---- the grid


@pytest.mark.parametrize("dimension", [1, 50, 26_010, 1_000_000])
@pytest.mark.parametrize(("norm", "bound"), [(1.0, 1.0), (1.0, 4.0), (0.01, 0.05), (5.0, 5.0)])
def test_every_comparison_is_the_radius_over_the_factor(dimension, norm, bound):
    bits = 12
    made = grid(dimension, bits, norm, bound, True)
    assert made is not None
    assert made.factors_M[0] == 1 << made.factor_bits
    assert all(here > after for here, after in zip(made.factors_M, made.factors_M[1:], strict=False))
    for weight in (0, 1, 999, 1 << bits):
        radius = norm * (weight + 0.5) + math.sqrt(dimension) / 2
        for factor, (second, first, constant) in zip(made.factors_M, made.coefficients_M3, strict=True):
            allowed = Fraction(second * weight**2 + first * weight + constant, 1 << made.headroom)
            wanted = (radius / (factor / 2**made.factor_bits)) ** 2
            slack = (weight**2 + weight + 1) / 2**made.headroom
            assert wanted * (1 - 1e-9) <= allowed <= wanted * (1 + 1e-9) + slack
            assert allowed * 2**made.headroom < 2**63
    assert dimension * made.bound**2 << made.headroom < 2**63
    assert norm**2 * 2**made.headroom >= 64


@pytest.mark.parametrize("dimension", [50, 26_010])
def test_factors_are_close_and_reach_to_where_every_coordinate_is_at_its_bound(dimension):
    made = grid(dimension, BITS, 1.0, 2.0, True)
    assert made is not None
    assert max(here / after for here, after in zip(made.factors_M, made.factors_M[1:], strict=False)) < 1.03
    assert made.factors_M[-1] / 2**made.factor_bits * math.sqrt(dimension) * 2.0 < 1.001 + math.sqrt(dimension) / ONE
    assert sum(made.drops_M) == made.factors_M[0]


# ---- refusals


def test_a_range_that_cannot_hold_is_refused_by_its_arithmetic():
    with pytest.raises(ConfigError) as refused:
        NormBounded(1.0).check(spec_of(1_000_000), 24, 3)
    assert str(refused.value) == (
        "secure_sum.fractional_bits=24: 1000000 * (1 * 2^fractional_bits)^2, with 6 bits for norm=1, "
        "must fit 63 bits: at most 18"
    )
    NormBounded(1.0).check(spec_of(1_000_000), 18, 3)
    with pytest.raises(ConfigError, match=r"lower secure_sum\.aggregate\.coordinate_bound"):
        NormBounded(1e-6, coordinate_bound=1e6).check(spec_of(1000), 16, 3)
    with pytest.raises(ConfigError, match="needs a bound"):
        NormBounded(1.0).check(spec_of(10, bound=math.inf), 16, 3)
    with pytest.raises(ConfigError, match="the mechanism releases residues"):
        NormBounded(1.0).check(spec_of(10, modulus_bits=16), 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 0}, "aggregate.norm=0: must be a finite number above 0"),
        ({"norm": 1, "mode": "clip"}, "aggregate.mode=clip: allowed are zero, rescale"),
        ({"norm": 1, "mode": "rescale"}, "aggregate.coordinate_bound=None: mode=rescale needs it"),
        ({"norm": 1, "coordinate_bound": -1}, "aggregate.coordinate_bound=-1: must be"),
        ({"norm": 1, "memory_mib": 0}, "aggregate.memory_mib=0: must be"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        named("norm_bounded", **options)


# ---- clients that exceed the norm on purpose, so that one honest client alone counts


@pytest.mark.parametrize("options", [{}, {"mode": "rescale"}], ids=["zero", "rescale"])
def test_a_sum_that_one_client_is_left_in_is_opened_only_where_one_is_enough(three_parties, options):
    aggregate = named("norm_bounded", norm=1.0, coordinate_bound=2.0, **options)
    colluding_CL = steps(np.full((3, 70), 3.0), np.ones(3))
    victim_CL = steps(of_norm([0.5], 70, 1), np.ones(1))
    rows_CL = np.vstack([colluding_CL, victim_CL])
    with pytest.raises(TooFewContributors, match="1 contributions kept to the norm, 2 are needed"):
        three_parties.reveal(aggregate, rows_CL, BITS, least=2)
    np.testing.assert_allclose(three_parties.reveal(aggregate, rows_CL, BITS), victim_CL[0] / ONE, atol=1 / ONE)
