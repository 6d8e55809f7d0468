"""A privacy backend: any number of mechanisms and exactly one secure sum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.addresses import Address, is_client
from privacy.checks import UNITS
from privacy.errors import ConfigError
from privacy.mechanisms.contract import PARTIES, SERVER, ClientJob, Mechanism, Plan, ServerJob
from privacy.secure_sums.contract import SecureSum

if TYPE_CHECKING:
    from privacy.accounting.charges import Charge


@dataclass(frozen=True)
class PrivacyBackend:
    """The two slots together; an invalid combination is refused.

    Raises:
        ConfigError: the same mechanism twice, or parties that add noise to updates that no mechanism clips.
    """

    secure_sum: SecureSum
    mechanisms: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        """Cross-check the slots."""
        kinds = [type(mechanism) for mechanism in self.mechanisms]
        if len(set(kinds)) < len(kinds):
            raise ConfigError.of("mechanism", self.name, "holds the same mechanism twice; configure it once")
        if self.secure_sum.parties.noise is not None and not any(m.noised_by == PARTIES for m in self.mechanisms):
            allowed = "noise protects updates that are clipped: use mechanism=party_dp beside it"
            raise ConfigError.of("secure_sum/aggregate", "noised_sum", allowed)

    @property
    def name(self) -> str:
        """The name in tables: `plain`, or `dp_sgd+ckks`."""
        return "+".join([*(mechanism.name for mechanism in self.mechanisms), self.secure_sum.label])

    @property
    def private(self) -> tuple[Mechanism, ...]:
        """The mechanisms that promise an epsilon."""
        return tuple(mechanism for mechanism in self.mechanisms if mechanism.unit is not None)

    @property
    def fixed_denominator(self) -> bool:
        """True if the total is divided by the configured cohort size."""
        return any(mechanism.fixed_denominator for mechanism in self.mechanisms)

    def holds_against(self, unit: str) -> list[str]:
        """Return the adversaries against whom a unit's epsilon holds: those common to all mechanisms of the unit."""
        promises = [set(mechanism.holds_against) for mechanism in self.mechanisms if mechanism.unit == unit]
        return sorted(set.intersection(*promises)) if promises else []

    @property
    def modulus_bits(self) -> int | None:
        """Bits of the modulus of the summed residues; None if floats are summed."""
        return self.mechanisms[-1].modulus_bits if self.mechanisms else None

    def summed_length(self, dimension: int) -> int:
        """Return the number of values that are summed for an update of `dimension` values."""
        for mechanism in self.mechanisms:
            dimension = mechanism.summed_length(dimension)
        return dimension

    @property
    def window(self) -> int:
        """Number of rounds whose contributions the release of one round depends on."""
        return max((mechanism.window for mechanism in self.mechanisms), default=1)

    @property
    def extra_values(self) -> int:
        """Number of values that the mechanisms add to a contribution."""
        return sum(mechanism.extra_values for mechanism in self.mechanisms)

    def initial_state(self) -> dict[str, float]:
        """Return the state of the mechanisms' server halves before the first round."""
        return {key: value for mechanism in self.mechanisms for key, value in mechanism.initial_state().items()}

    def settle(self, plan: Plan) -> None:
        """Let each mechanism check the plan and solve its noise, before the first round.

        Raises:
            ConfigError: weights that this sum cannot take, a plan under which a mechanism cannot keep its promise,
                buffers that noise would spoil, costs of one unit that cannot be added, or residues that this sum cannot
                add.
        """
        if self.secure_sum.carries.uniform and not plan.uniform_weights:
            allowed = f"{self.secure_sum.label} takes no weights of clients: set training.weighting=uniform"
            raise ConfigError.of("training.weighting", "examples", allowed)
        for mechanism in self.mechanisms:
            mechanism.settle(plan)
            self._check_moving(mechanism, plan)
        self._check_residues()
        self._check_survey()
        for unit in UNITS:
            relations = {charge.relation for charge in self.charges(0) if charge.unit == unit}
            if len(relations) > 1:
                raise ConfigError.of(
                    "mechanism", self.name, f"relation {' and '.join(sorted(relations))} cannot be added"
                )

    @staticmethod
    def _check_moving(mechanism: Mechanism, plan: Plan) -> None:
        """Refuse buffers that training changes beside noise: a running variance would not stay one."""
        if mechanism.unit is not None and plan.moving:
            changed = f"training changes {plan.moving[0]} without a gradient"
            allowed = f"{changed}, and {mechanism.name} would spoil it: keep it fixed, or choose GroupNorm"
            raise ConfigError.of("model", type(plan.model).__name__, allowed)

    def _check_residues(self) -> None:
        last = next((m.name for m in self.mechanisms[:-1] if m.modulus_bits is not None), None)
        if last is not None:
            raise ConfigError.of("mechanism", self.name, f"{last} releases integers: give it last")
        if self.modulus_bits is None:
            return
        if not self.secure_sum.carries.exact:
            allowed = f"does not sum integers exactly, which {self.mechanisms[-1].name} needs: choose another"
            raise ConfigError.of("secure_sum", self.secure_sum.name, allowed)
        if self.extra_values:
            raise ConfigError.of("mechanism", self.name, "an adaptive clip adds fractions: set adaptive=false")

    def _check_survey(self) -> None:
        """Refuse a survey of the clients' data beside a mechanism with a unit: no ledger counts the survey."""
        if self.secure_sum.needs.survey and self.private:
            name = self.private[0].name
            allowed = f"a map of the data's sensitivities has a privacy cost that {name} does not count: use random"
            raise ConfigError.of("secure_sum.encrypt_by", "sensitivity", allowed)

    def charges(self, client: int, ago: int = 0) -> "list[Charge]":
        """Return a client's charges, by mechanism, for one release: it took part `ago` rounds before that release."""
        owing = [mechanism for mechanism in self.mechanisms if ago < mechanism.window]
        return [charge for mechanism in owing if (charge := mechanism.charge(client)) is not None]

    def own_charges(self, client: int) -> "list[Charge]":
        """Return the charges of one contribution that its client, and parties that add noise, keep account of."""
        return [charge for mechanism in self._accounted if (charge := mechanism.charge(client)) is not None]

    def keeps_account(self, address: Address) -> bool:
        """True where a role keeps a ledger of its own: a client unless the server adds all noise, a party that adds it.

        What the server noises, it alone can keep account of.
        """
        if is_client(address):
            return bool(self._accounted)
        adding = any(mechanism.noised_by == PARTIES for mechanism in self._accounted)
        return adding and address in self.secure_sum.parties.roles

    @property
    def _accounted(self) -> list[Mechanism]:
        return [mechanism for mechanism in self.private if mechanism.noised_by != SERVER]

    def prepare(self, job: ClientJob) -> None:
        """Let each mechanism in turn replace the training objects; at the client."""
        for mechanism in self.mechanisms:
            mechanism.prepare(job)

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Return the update of shape (D,) as it may be released to the secure sum; at the client."""
        for mechanism in self.mechanisms:
            update_D = mechanism.on_update(job, update_D)
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[Any]) -> NDArray[np.float64]:
        """Return the total of shape (D,) as it may be used; at the server.

        The mechanisms are applied in reverse order: the last one that changed the update comes first.
        """
        for mechanism in reversed(self.mechanisms):
            total_D = mechanism.on_total(job, total_D)
        return total_D
