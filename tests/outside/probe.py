"""A mechanism from outside that replaces training: each client's update is a known vector, or a known fault."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.mechanisms.contract import ClientJob, Mechanism, ServerJob

BOUND = 4.0


def known_update(client: int, round_: int, length: int) -> NDArray[np.float32]:
    """The update of a client in a round, shape (D,), within BOUND."""
    generator = np.random.default_rng([client, round_, length])
    return generator.uniform(-BOUND, BOUND, length).astype(np.float32)


class Probe(Mechanism):
    """`faults` maps a client's address to `nan`, `inf`, `long` or `crash`; `double` doubles the total at the server."""

    name = "probe"

    def __init__(self, faults: Mapping[str, str] | None = None, double: bool = False) -> None:
        self._faults = dict(faults or {})
        self._double = double

    def prepare(self, job: ClientJob) -> None:
        job.batches = ()

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        fault = self._faults.get(job.address)
        if fault == "crash":
            raise RuntimeError("crashed on purpose")
        client = int(job.address.partition("/")[2])
        known_D = torch.from_numpy(known_update(client, job.round, len(update_D))).to(update_D.device)
        if fault in ("nan", "inf"):
            known_D[len(known_D) // 2] = float(fault)
        return torch.cat([known_D, known_D]) if fault == "long" else known_D

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2 * total_D if self._double else total_D


class Defect(Mechanism):
    """A mechanism with a defect: it ends a run with an unforeseen error."""

    name = "defect"

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        raise ZeroDivisionError("a defect on purpose")
