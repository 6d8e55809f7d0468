"""The mechanism: what changes *what is released*. Hooks that do nothing by default, so mechanisms chain.

A mechanism knows torch's training objects but nothing of messages, configuration files or other clients.
Shapes: D is the number of model parameters.
"""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.randomness import Randomness
from privacy.secure_sum import Address, Value

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, C, H, W) float32 and labels (B,) int64


@dataclass
class ClientJob:
    """One client's work in one round. `prepare` may replace model, optimizer and batches by private versions.

    The model is reused by the next client of the process: a mechanism that wraps or hooks it works on a copy.
    """

    address: Address
    round: int
    memory: MutableMapping[str, Value]
    randomness: Randomness
    examples: int
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Batch]


@dataclass
class ServerJob:
    """The server's work on one total."""

    round: int
    randomness: Randomness
    cohort_size: int
    survivors: tuple[Address, ...]
    weight: float


class Mechanism:
    """Base of every mechanism. A subclass names itself and overrides the hooks that it needs."""

    name: str = "mechanism"

    def prepare(self, job: ClientJob) -> None:
        """Client, before training: put private versions of the training objects into the job."""

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Client, after training: clip, add local noise, compress. Takes and returns shape (D,) on the job's device."""
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG002
        """Server, on the raw sum of shape (D,), before the division by the weight; mechanisms run in reverse order."""
        return total_D
