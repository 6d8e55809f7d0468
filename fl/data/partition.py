"""The split of examples over clients: the partitioners of flwr-datasets, over a column of labels, never over images.

Shape suffix: N training examples.
"""

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from fl.data.image_data import ImageData
from privacy.errors import ConfigError

Indices = NDArray[np.int64]

DIRICHLET_TRIES = 50
PROPOSAL_TRIES = 3  # tries for a proposal in an error: the first of the tries above, to be quick
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)  # proposals where one fails


class PartitionScheme(NamedTuple):
    """The keys of `data` that define the split."""

    partition: str
    alpha: float
    shards: int
    allow_empty: bool


def partition(config: DataConfig, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Return each client's indices into the training split, in the order of clients: disjoint, in no particular order.

    Args:
        config: the node `data`: `partition`, and `alpha`, `shards` and `allow_empty`.
        data: the image set to split.
        clients: number of parts. All examples are given out, except for `natural`, where each client is one owner.
        seed: seed of the split. The result depends on the arguments alone. It is computed once a process and shared,
            so do not write to it.

    Raises:
        ConfigError: a client would be left empty (unless `allow_empty`, where `iid` and `dirichlet` give it zero
            indices), or the set names no owners, or fewer than `clients`; the message names the key.
    """
    scheme = PartitionScheme(config.partition, config.alpha, config.shards, config.allow_empty)
    return _partition(scheme, data, clients, seed)


@lru_cache(maxsize=8)
def _partition(scheme: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    kinds: dict[str, Callable[[PartitionScheme, ImageData, int, int], list[Indices]]]
    kinds = {"iid": _iid, "dirichlet": _dirichlet, "shards": _shards, "natural": _natural}
    return kinds[scheme.partition](scheme, data, clients, seed)


def _iid(scheme: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    from flwr_datasets.partitioner import IidPartitioner

    labels_N = data.train.labels.numpy()
    if clients > len(labels_N) and not scheme.allow_empty:
        allowed = f"must be at most the {len(labels_N)} examples of {data.name}, unless data.allow_empty=true"
        raise ConfigError.of("clients", clients, allowed)
    rows_N = _shuffled(len(labels_N), seed)  # shuffled, because the partitioner cuts a set in its given order
    return [rows_N[part] for part in _deal(IidPartitioner(clients), labels_N[rows_N], range(clients))]


def _dirichlet(scheme: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Draw each label's shares over the clients: Yurochkin et al. 2019 (arXiv:1905.12022), section 4."""
    from flwr_datasets.partitioner import DirichletPartitioner

    labels_N = data.train.labels.numpy()
    if clients > len(labels_N):
        raise ConfigError.of("clients", clients, f"must be at most the {len(labels_N)} examples of {data.name}")
    counts_K = np.unique(labels_N, return_counts=True)[1]
    drawn = seed if scheme.allow_empty else dirichlet_seed(counts_K, clients, scheme.alpha, seed)
    if drawn is None:
        raise _no_dirichlet(scheme, counts_K, clients, seed)
    rows_N = _shuffled(len(labels_N), seed)
    least = 0 if scheme.allow_empty else 1
    sampler = DirichletPartitioner(clients, "column", alpha=scheme.alpha, min_partition_size=least, seed=drawn)
    return [rows_N[part] for part in _deal(sampler, labels_N[rows_N], range(clients))]


def dirichlet_seed(
    counts_K: NDArray[np.int64], clients: int, alpha: float, seed: int, tries: int = DIRICHLET_TRIES
) -> int | None:
    """Find a seed with which the first draw of flwr-datasets' sampler leaves no client empty; None after the tries.

    The sampler's own search takes 0.6 s with 10,000 clients for each of eleven draws before it gives up. Here the
    draws are made without the examples, in milliseconds, and the sampler is given a seed that succeeds.

    Args:
        counts_K: number of examples of each label that occurs, in the order of labels.
        clients: number of parts.
        alpha: concentration of the distribution.
        seed: seed of the tries.
        tries: number of draws; a smaller number makes the first draws of a larger one.
    """
    candidates = np.random.SeedSequence(seed).generate_state(tries).tolist()
    return next((drawn for drawn in candidates if dirichlet_sizes(counts_K, clients, alpha, drawn).min() > 0), None)


def dirichlet_sizes(counts_K: NDArray[np.int64], clients: int, alpha: float, seed: int) -> NDArray[np.int64]:
    """Return each client's number of examples in the first draw of flwr-datasets' sampler."""
    generator = np.random.default_rng(seed)
    alphas = np.full(clients, alpha)
    sizes = np.zeros(clients, np.int64)
    for count in counts_K:
        cuts = (np.cumsum(generator.dirichlet(alphas)) * count).astype(np.int64)[:-1]
        sizes += np.diff(cuts, prepend=0, append=count)
    return sizes


def _no_dirichlet(scheme: PartitionScheme, counts_K: NDArray[np.int64], clients: int, seed: int) -> ConfigError:
    """Return the error with values that work, by trial: the next alpha of a list, and the most clients of a scale.

    Each step of the scale takes nine tenths of the clients of the step before.
    """

    def works(alpha: float, number: int, tries: int = PROPOSAL_TRIES) -> bool:
        return dirichlet_seed(counts_K, number, alpha, seed, tries) is not None

    larger = [alpha for alpha in ALPHAS if alpha > scheme.alpha]
    alpha = next((alpha for alpha in larger if works(alpha, clients)), None)
    if alpha is None and larger:  # more tries for the alpha that leaves the fewest clients empty
        nearest = min(larger, key=lambda alpha: int((dirichlet_sizes(counts_K, clients, alpha, seed) == 0).sum()))
        alpha = nearest if works(nearest, clients, DIRICHLET_TRIES) else None
    fewer = (int(float(f"{clients * 0.9**step:.2g}")) for step in itertools.count(1))
    most = next(number for number in fewer if works(scheme.alpha, number))
    ways = [f"data.alpha={alpha:g} works for them"] if alpha else []
    ways += [f"clients={most} works with this alpha", "data.allow_empty=true lets them be empty"]
    return ConfigError.of("data.alpha", scheme.alpha, f"leaves some of clients={clients} empty; {', '.join(ways)}")


def _shards(scheme: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Sort by label, cut, deal `shards` pieces to each client: McMahan et al. 2017 (arXiv:1602.05629), section 3.

    The partitioner drops the remainder after equal pieces. So it deals only the indices of pieces here, and the pieces
    are cut such that their sizes differ by at most one example.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    labels_N = data.train.labels.numpy()
    pieces = clients * scheme.shards
    if pieces > len(labels_N):
        allowed = f"clients={clients} times this must be at most the {len(labels_N)} examples of {data.name}"
        raise ConfigError.of("data.shards", scheme.shards, allowed)
    rows_N = _shuffled(len(labels_N), seed)
    cut = np.array_split(rows_N[np.argsort(labels_N[rows_N], kind="stable")], pieces)
    dealer = ShardPartitioner(clients, "column", num_shards_per_partition=scheme.shards, shard_size=1, seed=seed)
    return [np.concatenate([cut[piece] for piece in part]) for part in _deal(dealer, np.arange(pieces), range(clients))]


def _natural(_: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Give each client the examples of one owner: the first `clients` owners in a seeded order."""
    from flwr_datasets.partitioner import NaturalIdPartitioner

    if data.natural_ids is None:
        raise ConfigError.of(
            "data.partition", "natural", f"{data.name} names no owners of its examples (data.natural_column)"
        )
    owners = len(np.unique(data.natural_ids))
    if clients > owners:
        raise ConfigError.of("clients", clients, f"must be at most the {owners} owners of examples of {data.name}")
    return _deal(NaturalIdPartitioner("column"), data.natural_ids, _shuffled(owners, seed)[:clients])


def _shuffled(count: int, seed: int) -> Indices:
    return np.random.default_rng((seed, count)).permutation(count)  # independent of a partitioner's own stream


def _deal(partitioner: Any, column: NDArray[Any], parts: Iterable[int]) -> list[Indices]:
    """Return the rows that a partitioner gives to each part.

    A partitioner returns selections of its data set. This data set returns bare row indices as selections, which makes
    10,000 parts in 24 ms, not 4 s, through the same public calls.
    """
    from datasets import Dataset

    class Rows(Dataset):  # type: ignore[misc]
        def select(self, indices: Any, **_: Any) -> Any:
            return np.asarray(indices, np.int64)

        def sort(self, *_: Any, **__: Any) -> Any:
            return self  # shards are numbered in order

        def __getitem__(self, _: Any) -> Any:
            return column  # the array itself, not a list of Python's integers

    partitioner.dataset = Rows.from_dict({"column": column})
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # silences progress bar and warnings
        warnings.simplefilter("ignore")
        return [partitioner.load_partition(int(part)) for part in parts]
