"""What goes wrong on purpose, as `faults` in the configuration says: from the seed, so the same in every repetition."""

from functools import lru_cache

import numpy as np

from fl.config import FaultsConfig
from privacy.errors import RuntimeFailure
from privacy.randomness import seed_from


def scale_of(client: int, faults: FaultsConfig, clients: int, seed: int) -> float:
    """What a client multiplies its update by: 1, or the configured factor where it is one of those that cheat."""
    return faults.scale if client in scaled_clients(faults.scaled_clients, clients, seed) else 1.0


@lru_cache(maxsize=8)
def scaled_clients(count: int, clients: int, seed: int) -> frozenset[int]:
    """The clients that cheat."""
    generator = np.random.default_rng(seed_from(seed, "faults", "scaled clients"))
    return frozenset(map(int, generator.choice(clients, count, replace=False)))


def drop_out(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> None:
    """Fall silent in a round, where it is this client's turn; not at set-up, which everybody must live to see.

    Raises:
        RuntimeFailure: it is.
    """
    if not faults.dropout_rate or number == 0 or faults.dropout_stage not in (None, stage):
        return
    generator = np.random.default_rng(seed_from(seed, "faults", "drop-out", number, client))
    if generator.random() < faults.dropout_rate:
        raise RuntimeFailure(f"drops out on purpose (faults.dropout_rate={faults.dropout_rate:g})")
