import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from fl.data.image_data import ImageData, Split
from fl.data.partition import dirichlet_sizes, partition
from privacy.errors import ConfigError


def node(kind: str, **keys: Any) -> DataConfig:
    return DataConfig(name="toy", partition=kind, **keys)


def toy(labels: Any, owners: Any = None) -> ImageData:
    """A set with these labels and empty images, since partitioning must not read images."""
    labels = torch.as_tensor(np.asarray(labels, np.int64))
    split = Split(torch.empty((len(labels), 1, 0, 0), dtype=torch.uint8), labels)
    one = torch.ones(1)
    ids = None if owners is None else np.asarray(owners, np.int64)
    return ImageData("toy", split, split, int(labels.max()) + 1, 255, one, one, ids, "made up")


def balanced(count: int, classes: int = 10) -> ImageData:
    return toy(np.random.default_rng(5).permutation(np.arange(count) % classes))


def assert_covers(parts: list[NDArray[np.int64]], count: int) -> None:
    """Assert that each example is in exactly one part."""
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert all(part.dtype == np.int64 for part in parts)


def message(config: DataConfig, data: ImageData, clients: int, seed: int = 1) -> str:
    with pytest.raises(ConfigError) as caught:
        partition(config, data, clients, seed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Every kind

KINDS = st.sampled_from(["iid", "dirichlet", "shards"])


@settings(max_examples=40, deadline=None)
@given(kind=KINDS, count=st.integers(200, 500), clients=st.integers(1, 15), seed=st.integers(0, 2**31))
def test_disjoint_complete_and_never_empty(kind: str, count: int, clients: int, seed: int) -> None:
    data = balanced(count)
    parts = partition(node(kind, alpha=5.0), data, clients, seed)
    assert len(parts) == clients
    assert min(map(len, parts)) > 0
    assert_covers(parts, count)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards", "natural"])
def test_the_seed_decides(kind: str) -> None:
    labels = np.arange(500) % 10
    config = node(kind, alpha=5.0)
    one, same = (partition(config, toy(labels, labels), 8, 3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    other = partition(config, toy(labels, labels), 8, 4)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_computed_once_a_process() -> None:
    data = balanced(100)
    assert partition(node("iid"), data, 5, 1) is partition(node("iid"), data, 5, 1)
    assert partition(node("iid"), data, 5, 1) is not partition(node("shards"), data, 5, 1)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet"])
def test_ten_thousand_clients_are_quick(kind: str) -> None:
    data = balanced(60_000)
    partition(node(kind, alpha=5.0), balanced(100), 5, 1)  # imports
    start = time.perf_counter()
    parts = partition(node(kind, alpha=5.0), data, 10_000, 1)
    assert time.perf_counter() - start < 2
    assert_covers(parts, 60_000)


# One kind each


def test_iid_has_equal_sizes_and_mixed_labels() -> None:
    parts = partition(node("iid"), toy(np.repeat(np.arange(10), 103)), 10, 1)  # sorted by label on purpose
    assert {len(part) for part in parts} == {103}
    assert all(len(np.unique(part // 103)) >= 8 for part in parts)


def test_iid_with_too_many_clients() -> None:
    data = balanced(20)
    expected = "clients=23: must be at most the 20 examples of toy, unless data.allow_empty=true"
    assert message(node("iid"), data, 23) == expected
    parts = partition(node("iid", allow_empty=True), data, 23, 1)
    assert sorted(map(len, parts)) == [0] * 3 + [1] * 20
    assert_covers(parts, 20)


def test_dirichlet_follows_alpha() -> None:
    """With labels of equal size, E[sum of squared shares of a label] = (alpha + 1) / (n alpha + 1)."""
    labels = np.arange(40_000) % 40
    for alpha in (0.3, 3.0):
        parts = partition(node("dirichlet", alpha=alpha, allow_empty=True), toy(labels), 10, 7)
        shares = np.stack([np.bincount(labels[part], minlength=40) for part in parts]) / 1000
        assert (shares**2).sum(axis=0).mean() == pytest.approx((alpha + 1) / (10 * alpha + 1), rel=0.15)


@pytest.mark.parametrize(("clients", "alpha"), [(7, 0.1), (100, 0.5), (300, 5.0)])
def test_sizes_are_foreseen_as_the_sampler_draws_them(clients: int, alpha: float) -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = balanced(1797).train.labels.numpy()
    sampler = DirichletPartitioner(clients, "label", alpha=alpha, min_partition_size=0, seed=11)
    sampler.dataset = Dataset.from_dict({"label": labels})
    drawn = [len(sampler.load_partition(part)) for part in range(clients)]
    assert dirichlet_sizes(np.bincount(labels), clients, alpha, 11).tolist() == drawn


@pytest.mark.alone
def test_where_dirichlet_fails_the_error_names_what_works() -> None:
    data = balanced(1797)
    config = node("dirichlet", alpha=0.1)
    start = time.perf_counter()
    text = message(config, data, 200)
    assert time.perf_counter() - start < 2
    assert text.startswith("data.alpha=0.1: leaves some of clients=200 empty; ")
    said = {key: value for key, _, value in (word.partition("=") for word in text.replace(",", "").split()[5:])}
    assert 0 < int(said["clients"]) < 200
    assert float(said["data.alpha"]) > 0.1
    assert_covers(partition(config, data, int(said["clients"]), 1), 1797)
    assert_covers(partition(node("dirichlet", alpha=float(said["data.alpha"])), data, 200, 1), 1797)


def test_dirichlet_may_leave_clients_empty_where_that_is_allowed() -> None:
    parts = partition(node("dirichlet", alpha=0.1, allow_empty=True), balanced(1797), 200, 1)
    assert min(map(len, parts)) == 0
    assert_covers(parts, 1797)


@pytest.mark.parametrize("allow_empty", [True, False])
def test_dirichlet_with_more_clients_than_examples(allow_empty: bool) -> None:
    assert message(node("dirichlet", allow_empty=allow_empty), balanced(20), 21).startswith(
        "clients=21: must be at most"
    )


def test_shards_lose_nothing() -> None:
    """1,797 examples and 200 pieces: flwr's own partitioner drops 197 of them."""
    labels = np.arange(1797) % 10
    parts = partition(node("shards"), toy(labels), 100, 1)
    assert_covers(parts, 1797)
    assert {len(part) for part in parts} <= {16, 17, 18}
    assert all(len(np.unique(labels[part])) <= 4 for part in parts)
    assert np.mean([len(np.unique(labels[part])) for part in parts]) < 2.2


def test_shards_that_fit_are_those_of_flwr() -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import ShardPartitioner

    labels = np.arange(600) % 10
    dealer = ShardPartitioner(20, "label", num_shards_per_partition=3, seed=1)
    dealer.dataset = Dataset.from_dict({"label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [sorted(dealer.load_partition(part)["label"]) for part in range(20)]
    parts = partition(node("shards", shards=3), toy(labels), 20, 1)
    assert [sorted(labels[part].tolist()) for part in parts] == expected


def test_more_shards_than_examples() -> None:
    expected = "data.shards=2: clients=11 times this must be at most the 20 examples of toy"
    assert message(node("shards"), balanced(20), 11) == expected


def test_natural_gives_each_client_one_owner(capfd: pytest.CaptureFixture[str]) -> None:
    owners = np.random.default_rng(0).integers(0, 30, 400)
    parts = partition(node("natural"), toy(np.zeros(400), owners), 12, 1)
    held = [np.unique(owners[part]).tolist() for part in parts]
    assert all(len(names) == 1 for names in held)
    assert len({names[0] for names in held}) == 12
    assert all(len(part) == (owners == names[0]).sum() for part, names in zip(parts, held, strict=True))
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    assert [names[0] for names in held] != sorted(names[0] for names in held)  # not just the first ones
    assert capfd.readouterr() == ("", "")


def test_fewer_clients_are_the_first_of_more() -> None:
    data = toy(np.zeros(60), np.arange(60) % 20)
    few, many = (partition(node("natural"), data, clients, 1) for clients in (5, 15))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))


def test_natural_needs_owners() -> None:
    assert message(node("natural"), balanced(20), 2).startswith("data.partition=natural: toy names no owners")
    data = toy(np.zeros(20), np.arange(20) % 4)
    assert message(node("natural"), data, 5) == "clients=5: must be at most the 4 owners of examples of toy"
