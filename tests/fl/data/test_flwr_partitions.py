"""Partitions index for index as flwr-datasets makes them: they are part of every published figure."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fl.data.partition import partition
from privacy.errors import ConfigError
from tests.fl.data import flwr_partitions as oracle
from tests.fl.data.test_partition import node, toy

SIZES = [(1, 1), (7, 3), (60, 60), (437, 29)]  # examples and clients


def labels_of(count: int, seed: int) -> NDArray[np.int64]:
    """Labels of unequal frequency, one of which does not occur."""
    drawn = np.random.default_rng(seed).integers(0, 30, count)
    return np.where(drawn > 9, drawn % 3, drawn) + (drawn >= 4)


def assert_same(parts: list[NDArray[np.int64]], expected: list[NDArray[np.int64]]) -> None:
    assert [part.tolist() for part in parts] == [part.tolist() for part in expected]
    assert all(part.dtype == np.int64 for part in parts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "clients"), SIZES)
def test_iid(count: int, clients: int, seed: int) -> None:
    labels = labels_of(count, seed)
    assert_same(partition(node("iid"), toy(labels), clients, seed), oracle.iid(labels, clients, seed))


def test_iid_with_empty_clients() -> None:
    """The library's data set selects no empty part beyond its end; the parts before it hold one example each."""
    labels = labels_of(20, 1)
    parts = partition(node("iid", allow_empty=True), toy(labels), 33, 5)
    assert_same(parts, [*oracle.iid(labels, 20, 5), *13 * [np.empty(0, np.int64)]])


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 7])
@pytest.mark.parametrize("allow_empty", [True, False])
@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 100.0])
@pytest.mark.parametrize(("count", "clients"), [(1, 1), (60, 4), (300, 29)])
def test_dirichlet(count: int, clients: int, alpha: float, allow_empty: bool, seed: int) -> None:
    labels = labels_of(count, 1)
    config = node("dirichlet", alpha=alpha, allow_empty=allow_empty)
    expected = oracle.dirichlet(labels, clients, seed, alpha, allow_empty)
    if expected is None:
        with pytest.raises(ConfigError, match=rf"data\.alpha={alpha}: leaves some of clients={clients} empty"):
            partition(config, toy(labels), clients, seed)
    else:
        assert_same(partition(config, toy(labels), clients, seed), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("each", [1, 2, 5])
@pytest.mark.parametrize(("count", "clients"), [(5, 1), (60, 12), (300, 29)])
def test_shards(count: int, clients: int, each: int, seed: int) -> None:
    labels = labels_of(count, seed)
    parts = partition(node("shards", shards=each), toy(labels), clients, seed)
    assert_same(parts, oracle.shards(labels, clients, seed, each))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("owners", "clients"), [(1, 1), (9, 9), (40, 13)])
def test_natural(owners: int, clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    owned = rng.permutation(np.concatenate([np.arange(owners), rng.integers(0, owners, 300)]))
    parts = partition(node("natural"), toy(np.zeros(len(owned)), owned), clients, seed)
    assert_same(parts, oracle.natural(owned, clients, seed))
