"""The partitions of flwr-datasets, as an oracle: its own partitioners over a column of labels or owners."""

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    ShardPartitioner,
)
from numpy.typing import NDArray

from fl.data.partition import DIRICHLET_TRIES

Indices = NDArray[np.int64]


def shuffled(count: int, seed: int) -> Indices:
    """The order in which the examples are put before a partitioner cuts them."""
    return np.random.default_rng((seed, count)).permutation(count)


def dealt(partitioner: Partitioner, column: NDArray[Any], parts: range | Indices) -> list[Indices]:
    """The rows that a partitioner gives to each part of a data set with this column, and their own numbers."""
    partitioner.dataset = Dataset.from_dict({"column": column, "row": np.arange(len(column))})
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        warnings.simplefilter("ignore")
        return [np.asarray(partitioner.load_partition(int(part))["row"], np.int64) for part in parts]


def iid(labels_N: Indices, clients: int, seed: int) -> list[Indices]:
    rows_N = shuffled(len(labels_N), seed)
    return [rows_N[part] for part in dealt(IidPartitioner(clients), labels_N[rows_N], range(clients))]


def dirichlet(labels_N: Indices, clients: int, seed: int, alpha: float, allow_empty: bool) -> list[Indices] | None:
    """The first draw that leaves no client empty, over seeds that follow from `seed`; None where no draw does."""
    rows_N = shuffled(len(labels_N), seed)
    seeds = [seed] if allow_empty else np.random.SeedSequence(seed).generate_state(DIRICHLET_TRIES).tolist()
    for drawn in seeds:
        sampler = DirichletPartitioner(clients, "column", alpha=alpha, min_partition_size=0, seed=drawn)
        parts = dealt(sampler, labels_N[rows_N], range(clients))
        if allow_empty or min(map(len, parts)):
            return [rows_N[part] for part in parts]
    return None


def shards(labels_N: Indices, clients: int, seed: int, each: int) -> list[Indices]:
    """The library drops the remainder after equal pieces, so that it deals the pieces here, which another cuts."""
    rows_N = shuffled(len(labels_N), seed)
    pieces = clients * each
    cut = np.array_split(rows_N[np.argsort(labels_N[rows_N], kind="stable")], pieces)
    dealer = ShardPartitioner(clients, "column", num_shards_per_partition=each, shard_size=1, seed=seed)
    hands = dealt(dealer, np.arange(pieces), range(clients))
    return [np.concatenate([cut[piece] for piece in hand]) for hand in hands]


def natural(owners_N: Indices, clients: int, seed: int) -> list[Indices]:
    return dealt(NaturalIdPartitioner("column"), owners_N, shuffled(len(np.unique(owners_N)), seed)[:clients])
