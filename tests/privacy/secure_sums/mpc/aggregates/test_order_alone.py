"""The middle of each coordinate by one party alone, against NumPy: ranks, ties, signs and blocks, within a second."""

import numpy as np
import pytest
import torch

from privacy.randomness import SeededRandomness
from privacy.secure_sums.mpc.aggregates.by_name import named
from tests.privacy.secure_sums.mpc.lone_party import stay_alone

BITS = 8
ONE = 1 << BITS


def revealed(monkeypatch, rows_CD, **options) -> np.ndarray:
    """The opened values of updates in steps, of weight 1: the aggregate times the contributors, and their number."""
    stay_alone(monkeypatch)
    integers_CL = torch.from_numpy(np.column_stack([rows_CD, np.full(len(rows_CD), ONE)]))
    return named(**options).reveal(integers_CL, BITS, SeededRandomness("alone"))


def drawn(contributors: int, seed: int = 0) -> np.ndarray:
    """Values with ties and of both signs, shape (C, 70), int64."""
    return np.random.default_rng([contributors, seed]).integers(-9, 10, (contributors, 70)) * 37


@pytest.mark.parametrize("contributors", [1, 2, 3, 4, 5, 8, 9])
def test_the_median_of_each_coordinate(monkeypatch, contributors):
    rows_CD = drawn(contributors)
    found = revealed(monkeypatch, rows_CD, name="median")
    np.testing.assert_allclose(found[:-1] / contributors, np.median(rows_CD, axis=0) / ONE, atol=1e-12)
    assert found[-1] == contributors


@pytest.mark.parametrize(("contributors", "trim"), [(3, 1), (4, 1), (7, 2), (8, 3), (9, 4)])
def test_the_mean_without_the_ends_of_each_coordinate(monkeypatch, contributors, trim):
    rows_CD = drawn(contributors)
    found = revealed(monkeypatch, rows_CD, name="trimmed_mean", trim=trim)
    kept_CD = np.sort(rows_CD, axis=0)[trim : contributors - trim]
    np.testing.assert_allclose(found[:-1] / contributors, kept_CD.mean(axis=0) / ONE, atol=1e-12)
    assert found[-1] == contributors


def test_an_outlier_moves_the_median_no_further_than_its_neighbour(monkeypatch):
    rows_CD = np.array([[-3, 5], [0, 6], [2, 7], [1 << 40, -(1 << 40)]])
    found = revealed(monkeypatch, rows_CD, name="median")
    np.testing.assert_array_equal(found, [4 * 1 / ONE, 4 * 5.5 / ONE, 4])


def test_blocks_of_coordinates_change_nothing(monkeypatch):
    rows_CD = drawn(5, seed=1)
    few, many = (revealed(monkeypatch, rows_CD, name="median", memory_mib=mib) for mib in (0.001, 100.0))
    np.testing.assert_array_equal(few, many)
