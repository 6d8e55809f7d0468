"""Networks by the 0-1 principle: one that sorts all zeros and ones sorts everything (Knuth 5.3.4, Theorem Z)."""

from itertools import product

import numpy as np
import pytest

from privacy.secure_sums.mpc.aggregates.sorting_network import merge_exchange, middle


def zeros_and_ones(count: int) -> np.ndarray:
    return np.array(list(product([0, 1], repeat=count)))


def exchanged(values: np.ndarray, comparators) -> np.ndarray:
    values = values.copy()
    for low, high in comparators:
        values[:, [low, high]] = np.sort(values[:, [low, high]])
    return values


@pytest.mark.parametrize("count", range(1, 13))
def test_merge_exchange_sorts(count):
    values = zeros_and_ones(count)
    np.testing.assert_array_equal(exchanged(values, merge_exchange(count)), np.sort(values))


@pytest.mark.parametrize("count", range(1, 13))
def test_what_is_left_of_it_finds_the_middle_ranks(count):
    """Their number of ones is enough: which place holds which does not matter."""
    values = zeros_and_ones(count)
    for trim in range((count + 1) // 2):
        found = exchanged(values, [pair for layer in middle(count, trim) for pair in layer])
        kept = slice(trim, count - trim)
        np.testing.assert_array_equal(found[:, kept].sum(1), np.sort(values)[:, kept].sum(1))


@pytest.mark.parametrize(("count", "trim", "comparators"), [(10, 0, 0), (3, 1, 3), (10, 1, 18), (10, 4, 29)])
def test_no_more_is_compared_than_that_takes(count, trim, comparators):
    assert sum(map(len, middle(count, trim))) == comparators <= len(merge_exchange(count))


@pytest.mark.parametrize("count", [5, 10, 33])
def test_the_pairs_of_a_layer_are_disjoint(count):
    for layer in middle(count, 2):
        places = [place for pair in layer for place in pair]
        assert len(set(places)) == len(places)
