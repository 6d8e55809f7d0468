"""A privacy backend: any number of mechanisms and exactly one secure sum."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ConfigError
from privacy.mechanism import ClientJob, Mechanism, ServerJob
from privacy.secure_sum import SecureSum


@dataclass(frozen=True)
class PrivacyBackend:
    """The two slots together; refuses what is not valid together.

    Raises:
        ConfigError: the same mechanism twice.
    """

    secure_sum: SecureSum
    mechanisms: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        """Cross-check the slots."""
        kinds = [type(mechanism) for mechanism in self.mechanisms]
        if len(set(kinds)) < len(kinds):
            raise ConfigError.of("mechanism", self.name, "holds the same mechanism twice; configure it once")

    @property
    def name(self) -> str:
        """For tables: `plain`, or `dp_sgd+ckks`."""
        return "+".join([*(mechanism.name for mechanism in self.mechanisms), self.secure_sum.name])

    def prepare(self, job: ClientJob) -> None:
        """Client: let each mechanism in turn replace the training objects."""
        for mechanism in self.mechanisms:
            mechanism.prepare(job)

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Client: the update of shape (D,) as it may be released to the secure sum."""
        for mechanism in self.mechanisms:
            update_D = mechanism.on_update(job, update_D)
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """Server: the total of shape (D,) as it may be used; the last mechanism that touched an update comes first."""
        for mechanism in reversed(self.mechanisms):
            total_D = mechanism.on_total(job, total_D)
        return total_D
