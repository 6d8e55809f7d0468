"""The split of examples over clients, index for index as the partitioners of flwr-datasets make it.

The library itself brings Hugging Face `datasets`, pandas and seaborn, which take longer to import than a run on digits
takes, so it is the oracle of the tests.

Shape suffixes: N training examples, K labels.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

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
    count = len(data.train.labels)
    if clients > count and not scheme.allow_empty:
        allowed = f"must be at most the {count} examples of {data.name}, unless data.allow_empty=true"
        raise ConfigError.of("clients", clients, allowed)
    return np.array_split(_shuffled(count, seed), clients)


def _dirichlet(scheme: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Draw each label's shares over the clients: Yurochkin et al. 2019 (arXiv:1905.12022), section 4."""
    labels_N = data.train.labels.numpy()
    if clients > len(labels_N):
        raise ConfigError.of("clients", clients, f"must be at most the {len(labels_N)} examples of {data.name}")
    counts_K = np.unique(labels_N, return_counts=True)[1]
    drawn = seed if scheme.allow_empty else dirichlet_seed(counts_K, clients, scheme.alpha, seed)
    if drawn is None:
        raise _no_dirichlet(scheme, counts_K, clients, seed)
    rows_N = _shuffled(len(labels_N), seed)
    generator = np.random.default_rng(drawn)
    by_label_N = rows_N[np.argsort(labels_N[rows_N], kind="stable")]
    of_label = np.split(by_label_N, np.cumsum(counts_K)[:-1])
    cuts = _dirichlet_cuts(counts_K, clients, scheme.alpha, generator)
    pieces = zip(*map(np.split, of_label, cuts), strict=True)
    parts = [np.concatenate(of_client) for of_client in pieces]
    for part in parts:
        generator.shuffle(part)
    return parts


def dirichlet_seed(
    counts_K: NDArray[np.int64], clients: int, alpha: float, seed: int, tries: int = DIRICHLET_TRIES
) -> int | None:
    """Find a seed with which the first draw leaves no client empty; None after the tries.

    The draws are made without the examples, in milliseconds.

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
    """Return each client's number of examples in the draw with this seed."""
    sizes = np.zeros(clients, np.int64)
    drawn = _dirichlet_cuts(counts_K, clients, alpha, np.random.default_rng(seed))
    for count, cuts in zip(counts_K, drawn, strict=True):
        sizes += np.diff(cuts, prepend=0, append=count)
    return sizes


def _dirichlet_cuts(
    counts_K: NDArray[np.int64], clients: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Draw where the examples of each label are cut, into one piece for each client."""
    alphas = np.full(clients, alpha)
    return [(np.cumsum(generator.dirichlet(alphas)) * count).astype(np.int64)[:-1] for count in counts_K]


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

    The sizes of the pieces differ by at most one example; flwr-datasets drops the remainder after equal pieces.
    """
    labels_N = data.train.labels.numpy()
    pieces = clients * scheme.shards
    if pieces > len(labels_N):
        allowed = f"clients={clients} times this must be at most the {len(labels_N)} examples of {data.name}"
        raise ConfigError.of("data.shards", scheme.shards, allowed)
    rows_N = _shuffled(len(labels_N), seed)
    cut = np.array_split(rows_N[np.argsort(labels_N[rows_N], kind="stable")], pieces)
    generator = np.random.default_rng(seed)
    dealt = generator.permutation(pieces).reshape(clients, scheme.shards)
    for hand in dealt:  # flwr-datasets shuffles each client's pieces once more
        generator.shuffle(hand)
    return [np.concatenate([cut[piece] for piece in hand]) for hand in dealt]


def _natural(_: PartitionScheme, data: ImageData, clients: int, seed: int) -> list[Indices]:
    """Give each client the examples of one owner: the first `clients` owners in a seeded order."""
    if data.natural_ids is None:
        raise ConfigError.of(
            "data.partition", "natural", f"{data.name} names no owners of its examples (data.natural_column)"
        )
    counts = np.unique(data.natural_ids, return_counts=True)[1]
    if clients > len(counts):
        raise ConfigError.of("clients", clients, f"must be at most the {len(counts)} owners of examples of {data.name}")
    of_owner = np.split(np.argsort(data.natural_ids, kind="stable"), np.cumsum(counts)[:-1])
    return [of_owner[owner] for owner in _shuffled(len(counts), seed)[:clients]]


def _shuffled(count: int, seed: int) -> Indices:
    """Return all indices in a seeded order, with a stream of its own."""
    return np.random.default_rng((seed, count)).permutation(count)
