"""A privacy backend: any number of mechanisms and exactly one secure sum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.checks import UNITS
from privacy.errors import ConfigError
from privacy.mechanisms.contract import ClientJob, Mechanism, Plan, ServerJob
from privacy.secure_sums.contract import SecureSum

if TYPE_CHECKING:
    from privacy.accounting.charges import Charge


@dataclass(frozen=True)
class PrivacyBackend:
    """The two slots together; refuses what is not valid together.

    Raises:
        ConfigError: the same mechanism twice, or parties that noise what nobody clips.
    """

    secure_sum: SecureSum
    mechanisms: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        """Cross-check the slots."""
        kinds = [type(mechanism) for mechanism in self.mechanisms]
        if len(set(kinds)) < len(kinds):
            raise ConfigError.of("mechanism", self.name, "holds the same mechanism twice; configure it once")
        if self.secure_sum.noise is not None and not any(m.noised_by_parties for m in self.mechanisms):
            allowed = "noise protects updates that are clipped: use mechanism=party_dp beside it"
            raise ConfigError.of("secure_sum/aggregate", "noised_sum", allowed)

    @property
    def name(self) -> str:
        """For tables: `plain`, or `dp_sgd+ckks`."""
        return "+".join([*(mechanism.name for mechanism in self.mechanisms), self.secure_sum.label])

    @property
    def fixed_denominator(self) -> bool:
        """Whether the total is divided by the configured cohort."""
        return any(mechanism.fixed_denominator for mechanism in self.mechanisms)

    def holds_against(self, unit: str) -> list[str]:
        """Against whom a unit's epsilon holds: all those against whom each of its mechanisms does."""
        promises = [set(mechanism.holds_against) for mechanism in self.mechanisms if mechanism.unit == unit]
        return sorted(set.intersection(*promises)) if promises else []

    @property
    def modulus_bits(self) -> int | None:
        """Of the residues that are summed; None where floats are."""
        return self.mechanisms[-1].modulus_bits if self.mechanisms else None

    def summed_length(self, dimension: int) -> int:
        """How many values of an update of `dimension` are summed."""
        for mechanism in self.mechanisms:
            dimension = mechanism.summed_length(dimension)
        return dimension

    @property
    def window(self) -> int:
        """Rounds whose contributions the release of a round tells of."""
        return max((mechanism.window for mechanism in self.mechanisms), default=1)

    @property
    def extra_values(self) -> int:
        """How many values mechanisms add to a contribution."""
        return sum(mechanism.extra_values for mechanism in self.mechanisms)

    def initial_state(self) -> dict[str, float]:
        """What the server's halves remember, before the first round."""
        return {key: value for mechanism in self.mechanisms for key, value in mechanism.initial_state().items()}

    def settle(self, plan: Plan) -> None:
        """Before the first round: let each mechanism check the plan, and solve its noise.

        Raises:
            ConfigError: weights that this sum cannot take, a plan that cannot keep a promise, costs of one unit that
                cannot be added, or residues that this sum cannot add.
        """
        if self.secure_sum.uniform and not plan.uniform_weights:
            allowed = f"{self.secure_sum.label} takes no weights of clients: set training.weighting=uniform"
            raise ConfigError.of("training.weighting", "examples", allowed)
        for mechanism in self.mechanisms:
            mechanism.settle(plan)
        self._check_residues()
        self._check_survey()
        for unit in UNITS:
            relations = {charge.relation for charge in self.charges(0) if charge.unit == unit}
            if len(relations) > 1:
                raise ConfigError.of(
                    "mechanism", self.name, f"relation {' and '.join(sorted(relations))} cannot be added"
                )

    def _check_residues(self) -> None:
        last = next((m.name for m in self.mechanisms[:-1] if m.modulus_bits is not None), None)
        if last is not None:
            raise ConfigError.of("mechanism", self.name, f"{last} releases integers: give it last")
        if self.modulus_bits is None:
            return
        if not self.secure_sum.exact:
            allowed = f"sums no integers as it is, and {self.mechanisms[-1].name} needs an exact sum: choose another"
            raise ConfigError.of("secure_sum", self.secure_sum.name, allowed)
        if self.extra_values:
            raise ConfigError.of("mechanism", self.name, "an adaptive clip adds fractions: set adaptive=false")

    def _check_survey(self) -> None:
        """What clients tell of their data at set-up is in no ledger."""
        private = next((mechanism.name for mechanism in self.mechanisms if mechanism.unit is not None), None)
        if self.secure_sum.surveys and private is not None:
            allowed = f"a map of the data's sensitivities spends what {private} does not count: use random"
            raise ConfigError.of("secure_sum.encrypt_by", "sensitivity", allowed)

    def charges(self, client: int, ago: int = 0) -> "list[Charge]":
        """What a client pays for the release of a round that it took part in so many rounds ago, by mechanism."""
        owing = [mechanism for mechanism in self.mechanisms if ago < mechanism.window]
        return [charge for mechanism in owing if (charge := mechanism.charge(client)) is not None]

    def prepare(self, job: ClientJob) -> None:
        """Client: let each mechanism in turn replace the training objects."""
        for mechanism in self.mechanisms:
            mechanism.prepare(job)

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Client: the update of shape (D,) as it may be released to the secure sum."""
        for mechanism in self.mechanisms:
            update_D = mechanism.on_update(job, update_D)
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[Any]) -> NDArray[np.float64]:
        """Server: the total of shape (D,) as it may be used; the last mechanism that touched an update comes first."""
        for mechanism in reversed(self.mechanisms):
            total_D = mechanism.on_total(job, total_D)
        return total_D
