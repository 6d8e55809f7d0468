"""Runs with injected faults and known results, since all updates are known (`tests.outside.probe`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.server import Errand
from fl.workspace import Workspace
from tests.composed import PROBE, canonical
from tests.outside.probe import BOUND, known_update

CLIENTS = 10
LENGTH = 650
ROUNDS = 3
BASE = (*PROBE, f"clients={CLIENTS}", f"rounds={ROUNDS}", "data.partition=dirichlet", "noise=seeded")
PLAIN = ("secure_sum=plain",)
SUMS = {
    "plain": PLAIN,
    **{
        name: (f"secure_sum={name}", "secure_sum.keys=clients", f"secure_sum.bound={BOUND}")
        for name in ("pad", "bfv", "ckks")
    },
    "secagg": (
        "secure_sum=secagg",
        f"secure_sum.bound={BOUND}",
        "secure_sum.dropout_rate=0.5",
        "secure_sum.server=curious",
    ),
}
WITH_PARTIES = {
    "ckks keyholder": ("secure_sum=ckks", f"secure_sum.bound={BOUND}"),
    "crypten": ("secure_sum=crypten", "secure_sum.parties=2", f"secure_sum.bound={BOUND}"),
}
OF = SUMS | WITH_PARTIES
ALL = [*SUMS, *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_PARTIES)]
COLLECTED = {"secagg": "mask", "crypten": "share"}  # the stage at which vectors are sent

Weigh = Callable[[float], float]
Contributions = Mapping[str, tuple[float, NDArray[np.float64]]]  # by client: v, and its update


@dataclass(frozen=True)
class Ended:
    """An ended run and its measurements."""

    work: Workspace
    weights_D: NDArray[np.float64]
    rows: pl.DataFrame
    round: int

    def where(self, metric: str, number: int) -> set[str]:
        """The addresses with a row of this metric in a round."""
        return set(self.rows.filter(round=number, metric=metric)["where"])

    def struck(self, kind: str, number: int) -> set[str]:
        """The addresses struck by a fault, according to the rows."""
        return self.where(f"fault_{kind}", number)


def ended(work: Workspace, folder: Path) -> Ended:
    """The state of a run, ended or not."""
    checkpoints = Checkpoints(folder / "checkpoints", 2)
    # in this order: the rows of a round that failed go
    rows = checkpoints.rows()
    state = checkpoints.latest()
    assert state is not None
    return Ended(work, state.weights_D.numpy().astype(np.float64), rows, state.round)


def run(folder: Path, *overrides: str) -> Ended:
    """Run to the end, set-up included, as from the command line."""
    work = Workspace(canonical(*BASE, *overrides))
    runtimes.run(work, folder, Errand(folder / "checkpoints"))
    return ended(work, folder)


def contributions(work: Workspace, number: int, clip: float = np.inf) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Honest contributions to a round: `v` and the update in float64, with `v * update` clipped."""
    found = {}
    for client in range(CLIENTS):
        v = work.plan.weight(client)
        weighted_D = np.clip(v * known_update(client, number, LENGTH).astype(np.float64), -clip, clip)
        found[f"client/{client}"] = v, weighted_D / v
    return found


def expected(work: Workspace, rounds: Mapping[int, Contributions]) -> NDArray[np.float64]:
    """The weights after some rounds, in plain float64: each adds the weighted mean of the surviving clients."""
    weights_D = work.initial_D.numpy().astype(np.float64)
    for left in rounds.values():
        total = sum(v for v, _ in left.values())
        weights_D = weights_D + sum(v * update_D for v, update_D in left.values()) / total
    return weights_D


def assert_right(found: Ended, rounds: Mapping[int, Contributions]) -> None:
    """Assert the oracle's weights, up to the tolerance of the sum and float32 rounding."""
    least = min(sum(v for v, _ in left.values()) for left in rounds.values())
    allowed = len(rounds) * (CLIENTS * found.work.tolerance * 2 * BOUND / least + 1e-5)
    assert np.abs(found.weights_D - expected(found.work, rounds)).max() < allowed < 0.05


def left_of(found: Ended, kind: str) -> dict[int, Contributions]:
    """The survivors of each round without the struck clients; asserts that both groups are non-empty."""
    rounds = {}
    for number in range(1, ROUNDS + 1):
        struck = found.struck(kind, number)
        rounds[number] = {who: one for who, one in contributions(found.work, number).items() if who not in struck}
        assert len(rounds[number]) == CLIENTS - len(struck) >= 2
    assert any(len(left) < CLIENTS for left in rounds.values()), "nothing went wrong: try another seed"
    return rounds
