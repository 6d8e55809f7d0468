"""The clients and processes that faults strike on purpose: the same in every repetition of a seed.

The seed, the round and the client determine whether a fault strikes. So clients and server agree on it without a
message: clients commit the fault (`fl.faults.participant`), and the server records it (`fl.faults.server`).
"""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from fl.faults.options import FaultsConfig
from privacy.addresses import Address
from privacy.errors import RuntimeFailure
from privacy.randomness import seed_from

log = logging.getLogger("fedveil")


def scale_of(client: int, faults: FaultsConfig, clients: int, seed: int) -> float:
    """Return the factor of a client's update: the configured scale for a cheating client, 1 for the others."""
    return faults.scale if client in scaled_clients(faults.scaled_clients, clients, seed) else 1.0


@lru_cache(maxsize=8)
def scaled_clients(count: int, clients: int, seed: int) -> frozenset[int]:
    """Draw the indices of the clients that cheat."""
    generator = np.random.default_rng(seed_from(seed, "faults", "scaled clients"))
    return frozenset(map(int, generator.choice(clients, count, replace=False)))


def falls_silent(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> bool:
    """True where this client drops out in a round; never at set-up, which every client must complete."""
    if not faults.dropout_rate or number == 0 or faults.dropout_stage not in (None, stage):
        return False
    return _drawn("drop-out", client, number, seed) < faults.dropout_rate


def drop_out(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> None:
    """Drop out, where the seed says so for this client and round.

    Raises:
        RuntimeFailure: the client drops out.
    """
    if falls_silent(client, number, stage, faults, seed):
        raise RuntimeFailure(f"drops out on purpose (faults.dropout_rate={faults.dropout_rate:g})")


def kind_of(client: int, number: int, faults: FaultsConfig, seed: int) -> str | None:
    """Return the kind of fault that strikes a client in a round, or None. The choice of clients ignores the kind."""
    if not faults.rate or number == 0 or _drawn("kind", client, number, seed) >= faults.rate:
        return None
    return faults.kind


def _drawn(what: str, client: int, number: int, seed: int) -> float:
    return float(np.random.default_rng(seed_from(seed, "faults", what, number, client)).random())


def killed(address: Address, number: int, faults: FaultsConfig, claim: Callable[[str], bool]) -> None:
    """End this process as `kill -9` would, where the faults say so, and once only, so that the run can resume.

    Args:
        address: address of the role that this process plays.
        number: the round.
        faults: the configured faults.
        claim: claims a name durably; returns True where the name was never claimed before.
    """
    if address == faults.killed and number == faults.killed_round and claim(f"killed-{number}"):
        log.warning("%s dies on purpose in round %d (faults.killed=%s)", address, number, address)
        os.kill(os.getpid(), signal.SIGKILL)


def claims_in(folder: Path) -> Callable[[str], bool]:
    """Return a function that claims names durably, with a file in `folder` for each claim."""

    def claim(name: str) -> bool:
        with suppress(FileExistsError), (folder / name).open("x"):
            return True
        return False

    return claim
