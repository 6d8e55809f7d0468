"""Uniformity by exact binomial tails, against tails summed in whole numbers."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_sums.declarations import Numbers
from privacy.witness.uniformity import _most, too_regular

TINY = 1e-15


def tail(count: int, probability: Fraction, above: int) -> Fraction:
    """P[Binomial > above], term by term."""
    terms = (comb(count, k) * probability**k * (1 - probability) ** (count - k) for k in range(above + 1, count + 1))
    return sum(terms, Fraction(0))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 64), st.sampled_from([0.1, 1e-3, 1e-9, 1e-15]))
def test_the_threshold_is_the_least_that_is_allowed(count, buckets, allowed):
    probability = Fraction(1, buckets)
    most = _most(count, float(probability), allowed)
    assert tail(count, probability, most) <= allowed * (1 + 1e-9)
    assert most == 0 or tail(count, probability, most - 1) > allowed * (1 - 1e-9)


@pytest.mark.parametrize("modulus", [2, 3, 200, 256, 257, 5000, 2**20, 2**61 - 1, 2**63, 2**64])
@pytest.mark.parametrize("count", [1, 7, 1000, 100_000])
def test_uniform_numbers_raise_no_alarm(modulus, count):
    generator = np.random.default_rng([modulus % 2**32, count])
    numbers = generator.integers(0, modulus - 1, count, np.uint64, endpoint=True)
    assert not too_regular(numbers, modulus, TINY)


def test_an_alarm_is_as_rare_as_it_was_allowed_to_be():
    """At one in fifty, two thousand honest looks raise no more than the bound; the union over buckets makes it less."""
    generator = np.random.default_rng(1)
    alarms = sum(too_regular(generator.integers(0, 997, 400, np.uint64), 997, 0.02) for _ in range(2000))
    assert 0 < alarms <= 40 + 3 * 40**0.5


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros(40, np.uint64),
        np.arange(5000, dtype=np.uint64),
        np.random.default_rng(0).integers(0, 2**19, 5000, np.uint64),
        np.random.default_rng(0).integers(0, 2**12, 5000, np.uint64) << np.uint64(8),
        2**19 + np.random.default_rng(0).normal(0, 300, 5000).astype(np.uint64),
    ],
    ids=["zeros", "counting", "one bit short", "even", "in the middle"],
)
def test_what_is_not_uniform_does(numbers):
    assert too_regular(numbers, 2**20, TINY)


@pytest.mark.parametrize("modulus", [2, 251, 2**20, 2**61 - 1, 2**63, 2**64])
@given(data=st.data())
def test_differences_are_those_of_whole_numbers(modulus, data):
    value = st.integers(0, modulus - 1)
    left, right = data.draw(
        st.lists(st.tuples(value, value), min_size=1, max_size=5).map(lambda pairs: zip(*pairs, strict=True))
    )
    numbers = Numbers.of("x", np.array(left, np.uint64), modulus)
    got = numbers.difference(np.array(left, np.uint64), np.array(right, np.uint64))
    assert got.tolist() == [(a - b) % modulus for a, b in zip(left, right, strict=True)]


def test_a_constant_under_a_counter_is_seen_in_its_differences():
    steps = np.cumsum(np.full(4000, 123_456_789, np.uint64)) % np.uint64(2**31)
    named = dict(Numbers.of("steps", steps, 2**31).series())
    assert too_regular(named["the differences of successive steps"], 2**31, TINY)


def test_rows_that_repeat_are_seen_between_them():
    row = np.random.default_rng(0).integers(0, 2**54, 4096, np.uint64)
    named = dict(Numbers("residues", np.stack([row, row, row]), 2**54).series())
    assert not too_regular(named["residues"][:4096], 2**54, TINY)
    assert too_regular(named["the differences of residues between ciphertexts"], 2**54, TINY)
