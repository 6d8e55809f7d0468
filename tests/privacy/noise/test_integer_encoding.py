import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import hadamard
from scipy.stats import norm as normal

from privacy.errors import ConfigError, NonFiniteContribution, PrivacyRefusal
from privacy.noise.integer_encoding import (
    clip_l2,
    conditional_round,
    from_modulus,
    rotation,
    rounded_norm_bound,
    squared_norm,
    to_modulus,
)
from privacy.randomness import SeededRandomness


def generator(*labels: int | str) -> np.random.Generator:
    return SeededRandomness("encoding", *labels).generator()


def exact_square(values: np.ndarray) -> Fraction:
    return sum((Fraction(float(value)) ** 2 for value in values), Fraction(0))


def vectors(width: int) -> st.SearchStrategy[np.ndarray]:
    """Vectors with zeros, denormals and the largest numbers, which hypothesis favours."""
    dtype = np.dtype(f"f{width // 8}")
    return arrays(dtype, st.integers(0, 40), elements=st.floats(width=width, allow_nan=False, allow_infinity=False))


norms = st.floats(min_value=5e-324, allow_infinity=False, allow_nan=False)


@settings(deadline=None, max_examples=300)
@given(vectors(32) | vectors(64), norms | st.floats(1e-3, 1e3))
@example(np.full(4, 5e-324), 5e-324)
@example(np.full(4, 1e-45, np.float32), 1.5e-45)
@example(np.full(3, np.finfo(np.float64).max), 1.0)
@example(np.full(3, np.finfo(np.float32).max), 1e308)
@example(np.array([1e-310, 1e308]), 1e308)
@example(np.array([1.61795036e308, 2.38613047e-12]), 1.6179503644808074e308)
@example(np.array([3.0, 4.0]), 5.0)
@example(np.zeros(3), 1.0)
def test_clipping_never_leaves_more_than_the_norm(update_D, norm):
    before = update_D.copy()
    clipped_D = clip_l2(update_D, norm)
    assert clipped_D.dtype == update_D.dtype
    assert clipped_D.shape == update_D.shape
    assert np.array_equal(update_D, before)
    assert exact_square(clipped_D) <= Fraction(norm) ** 2
    assert (np.abs(clipped_D) <= np.abs(update_D)).all()
    assert np.array_equal(clip_l2(clipped_D, norm), clipped_D)


@pytest.mark.parametrize(("dtype", "loss"), [(np.float32, 3e-7), (np.float64, 1e-11)])
@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_clipping_takes_no_more_than_it_must(dtype, loss, size):
    if dtype is np.float32 and not 1e-38 < size < 1e38:
        pytest.skip("beyond float32")
    update_D = (generator("clip").standard_normal(10_000) * size).astype(dtype)
    clipped_D = clip_l2(update_D, 10 * size)
    direction_D = update_D.astype(np.float64) / size
    expected_D = direction_D * (10 / np.linalg.norm(direction_D))
    assert np.allclose(clipped_D.astype(np.float64) / size, expected_D, rtol=2 * loss, atol=0)
    assert np.linalg.norm(clipped_D.astype(np.float64) / size) >= 10 * (1 - loss)


def test_clipping_leaves_alone_what_is_short():
    update_D = generator("short").standard_normal(100)
    assert clip_l2(update_D, 1000.0) is update_D
    assert not clip_l2(np.zeros(5, np.float32), 1e-300).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_refused(bad, dtype):
    with pytest.raises(NonFiniteContribution, match="NaN or infinity"):
        clip_l2(np.array([0.0, bad], dtype), 1.0)
    with pytest.raises(NonFiniteContribution, match="NaN or infinity"):
        conditional_round(np.array([0.0, bad], dtype), 1.0, generator())


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_a_norm_that_bounds_nothing_is_refused(norm):
    with pytest.raises(ConfigError, match=f"norm={norm}"):
        clip_l2(np.ones(3), norm)


@pytest.mark.parametrize("dimension", [1, 2, 3, 8, 100, 512])
def test_the_rotation_is_the_hadamard_matrix_with_signs(dimension):
    chosen = rotation(dimension, "run", 3)
    matrix_PD = np.stack([chosen.apply(row_D) for row_D in np.eye(dimension)], axis=1)
    expected_PP = hadamard(chosen.padded) / math.sqrt(chosen.padded) * chosen.signs_P
    assert chosen.padded // 2 < dimension <= chosen.padded
    assert np.allclose(matrix_PD, expected_PP[:, :dimension], rtol=1e-14, atol=1e-15)
    assert np.allclose(matrix_PD.T @ matrix_PD, np.eye(dimension), atol=1e-13)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers())
def test_the_inverse_restores_what_was_rotated(dimension, seed):
    chosen = rotation(dimension, seed)
    update_D = generator("inverse", seed).standard_normal(dimension)
    rotated_P = chosen.apply(update_D)
    assert rotated_P.shape == (chosen.padded,)
    assert np.linalg.norm(rotated_P) == pytest.approx(np.linalg.norm(update_D), rel=1e-12)
    assert np.abs(chosen.invert(rotated_P) - update_D).max() <= 1e-12 * np.abs(update_D).max()


def test_rotating_changes_none_of_its_arguments():
    chosen = rotation(5, "run")
    update_D = np.arange(5.0)
    rotated_P = np.arange(8.0)
    chosen.apply(update_D), chosen.invert(rotated_P)
    assert np.array_equal(update_D, np.arange(5.0))
    assert np.array_equal(rotated_P, np.arange(8.0))


def test_a_rotation_flattens():
    """The largest of P sub-Gaussian coordinates with proxy |x|^2 / P: sqrt(2 ln(2 P / 1e-9)) with 1 - 1e-9."""
    for seed in range(5):
        chosen = rotation(30_000, seed)
        for spiky_D in (np.eye(1, 30_000, seed)[0], np.arange(30_000) < 100, 0.999 ** np.arange(30_000)):
            scale = np.linalg.norm(spiky_D) / math.sqrt(chosen.padded)
            assert np.abs(chosen.apply(spiky_D)).max() <= scale * math.sqrt(2 * math.log(2 * chosen.padded / 1e-9))


def test_signs_are_fair_and_belong_to_the_seed():
    signs_P = rotation(1 << 16, "run", 1).signs_P
    assert set(signs_P) == {-1.0, 1.0}
    assert abs(signs_P.sum()) < 5 * 256
    assert np.array_equal(signs_P, rotation(1 << 16, "run", 1).signs_P)
    assert abs(signs_P @ rotation(1 << 16, "run", 2).signs_P) < 5 * 256


def test_signs_are_the_same_on_every_machine():
    """Pinned, because clients and server derive them apart."""
    expected = [-1, -1, -1, -1, -1, -1, 1, 1, -1, 1, 1, -1, -1, -1, -1, 1]
    assert rotation(16, "pinned").signs_P.astype(int).tolist() == expected


betas = st.sampled_from([0.0, 1e-6, 0.1, math.exp(-0.5), 0.9])


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.floats(0.01, 1e6), betas, st.integers(0, 2**32))
def test_rounding_never_exceeds_the_bound(dimension, norm, beta, seed):
    source = generator("bound", seed)
    scaled_P = clip_l2(source.standard_normal(dimension) * norm, norm)
    bound = rounded_norm_bound(norm, dimension, beta)
    rounded_P = conditional_round(scaled_P, bound, source)
    assert rounded_P.dtype == np.int64
    assert sum(int(value) ** 2 for value in rounded_P) <= Fraction(bound) ** 2
    assert (np.abs(rounded_P - scaled_P) < 1).all()


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=50).filter(any))
def test_integers_stay_what_they_are_at_their_own_norm(values):
    """The bound is inclusive: with a slightly smaller one no rounding fits."""
    whole_P = np.array(values, np.float64)
    norm = np.linalg.norm(whole_P)
    assert conditional_round(whole_P, norm * (1 + 1e-15), generator()).tolist() == values
    with pytest.raises(PrivacyRefusal, match="clip the vector"):
        conditional_round(whole_P, norm * (1 - 1e-12), generator())


def test_rounding_is_unbiased_without_a_condition():
    scaled_P = np.repeat(np.linspace(-2, 2, 41), 20_000)
    rounded_P = conditional_round(
        scaled_P, rounded_norm_bound(np.linalg.norm(scaled_P), len(scaled_P), 0.0), generator()
    )
    means = rounded_P.reshape(41, -1).mean(axis=1)
    assert np.abs(means - np.linspace(-2, 2, 41)).max() < 5 * 0.5 / math.sqrt(20_000)


def test_the_condition_biases_little_at_the_papers_beta():
    """The worst case: all coordinates are biased the same way, so that the norm depends on them most."""
    scaled_P = np.full(64, 0.3)
    bound = rounded_norm_bound(float(np.linalg.norm(scaled_P)), 64, math.exp(-0.5))
    source = generator("bias")
    drawn = np.stack([conditional_round(scaled_P, bound, source) for _ in range(4000)])
    assert abs(drawn.mean() - 0.3) < 0.01


def test_the_condition_is_met_as_often_as_beta_says():
    """And the norm that it bounds is nearly reached, so the bound is no idle one."""
    dimension = 1024
    norm = 5.0
    beta = math.exp(-0.5)
    scaled_P = rotation(dimension, "beta").apply(np.eye(1, dimension)[0] * norm)
    source = generator("beta")
    squares = [squared_norm(conditional_round(scaled_P, 1e6, source)) for _ in range(2000)]
    assert np.mean(np.array(squares) > rounded_norm_bound(norm, dimension, beta) ** 2) <= beta
    assert max(squares) > 0.5 * rounded_norm_bound(norm, dimension, beta) ** 2


def test_the_bound_is_the_papers():
    """Theorem 1 of Kairouz et al. 2021, by hand: c = 3, d = 16, beta = exp(-2): sqrt(9 + 4 + 2 (3 + 2)) = sqrt(23)."""
    assert rounded_norm_bound(3.0, 16, math.exp(-2)) == pytest.approx(math.sqrt(23))
    assert rounded_norm_bound(3.0, 16, 0.0) == 7.0
    assert rounded_norm_bound(3.0, 16, 1e-300) == 7.0
    assert rounded_norm_bound(1e6, 16, 0.5) == pytest.approx(1e6, rel=1e-5)


@pytest.mark.parametrize(("norm", "beta"), [(0.0, 0.5), (math.nan, 0.5), (1.0, 1.0), (1.0, -0.1), (1.0, math.nan)])
def test_a_bound_without_meaning_is_refused(norm, beta):
    with pytest.raises(ConfigError, match=r"scaled_norm=|beta="):
        rounded_norm_bound(norm, 16, beta)


def test_a_vector_that_was_not_clipped_is_refused_at_once():
    for scaled_P in (np.full(100, 1000.5), np.array([1e300])):
        with pytest.raises(PrivacyRefusal, match="clip the vector"):
            conditional_round(scaled_P, 100.0, generator())


@settings(deadline=None)
@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(-(2**63), 2**63 - 1)))
@example(np.full(3, 3 * 10**9))
@example(np.full(70_000, 2**25))
@example(np.array([-(2**63)]))
def test_the_squared_norm_is_exact(int_P):
    assert squared_norm(int_P) == sum(value * value for value in int_P.tolist())


@given(st.integers(1, 62), st.data())
def test_residues_stand_for_signed_integers(bits, data):
    half = 1 << (bits - 1)
    values = np.array(data.draw(st.lists(st.integers(-half, half - 1), max_size=20)), np.int64)
    residues = to_modulus(values, bits)
    assert ((residues >= 0) & (residues < 2 * half)).all()
    assert [value % (2 * half) for value in values.tolist()] == residues.tolist()
    assert np.array_equal(from_modulus(residues, bits), values)


@given(st.integers(2, 62), st.data())
def test_a_sum_of_residues_is_the_residue_of_the_sum(bits, data):
    half = 1 << (bits - 1)
    one, other = (data.draw(st.integers(-half // 2, half // 2 - 1)) for _ in range(2))
    summed = to_modulus(np.array([one]), bits) + to_modulus(np.array([other]), bits)
    assert from_modulus(summed, bits).tolist() == [one + other]


@pytest.mark.parametrize("bits", [0, -1, 63])
def test_a_modulus_out_of_range_is_refused(bits):
    for function in (to_modulus, from_modulus):
        with pytest.raises(ConfigError, match=f"bits={bits}"):
            function(np.arange(3), bits)


def test_noise_free_sums_come_back():
    """The whole way for ten clients: the error of the mean is that of rounding alone."""
    dimension = 1000
    scale = 50.0
    norm = 2.0
    chosen = rotation(dimension, "whole")
    source = generator("whole")
    updates = [clip_l2(source.standard_normal(dimension), norm) for _ in range(10)]
    bound = rounded_norm_bound(norm * scale, chosen.padded, math.exp(-0.5))
    sent = [to_modulus(conditional_round(chosen.apply(u) * scale, bound, source), 14) for u in updates]
    total_D = chosen.invert(from_modulus(np.sum(sent, axis=0), 14)) / scale
    error = (total_D - np.sum(updates, axis=0)) * scale
    assert np.abs(error).max() < normal.isf(1e-9) * math.sqrt(10) / 2
