"""The ledger of each client's charges so far, and their epsilon: composed over all its participations.

Records and clients are different units: their epsilons are reported separately and never added.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from privacy.checks import UNITS

if TYPE_CHECKING:  # accounting loads Opacus, which a run without differential privacy does not need
    from privacy.accounting.charges import Charge

Cost = frozenset[tuple["Charge", int]]


class Ledger:
    """Charges by client. A client is charged before the server asks it, and again for each further attempt."""

    def __init__(self) -> None:
        self._paid: dict[int, Counter[Charge]] = defaultdict(Counter)

    def __bool__(self) -> bool:
        """Tell whether any client has been charged."""
        return bool(self._paid)

    def add(self, charges: "Mapping[int, Iterable[Charge]]") -> None:
        """Charge clients."""
        for client, owed in charges.items():
            self._paid[client].update(owed)

    def with_charges(self, charges: "Mapping[int, Iterable[Charge]]") -> "Ledger":
        """Return a copy with further charges: the ledger after a planned round."""
        other = Ledger()
        other._paid = defaultdict(Counter, {client: Counter(paid) for client, paid in self._paid.items()})
        other.add(charges)
        return other

    def participations(self, client: int) -> int:
        """Return how often a client was charged: its participations, as each of them has the same charges."""
        return max(self._paid[client].values(), default=0) if client in self._paid else 0

    def costs(self, unit: str) -> "dict[int, Cost]":
        """Return the charges in this unit of every client that has any, with their multiplicities."""
        found = {client: _cost(paid, unit) for client, paid in self._paid.items()}
        return {client: cost for client, cost in found.items() if cost}

    def epsilons(self, unit: str, delta: float, accountant: str) -> dict[int, float]:
        """Return the epsilon of every client with charges in this unit.

        Raises:
            ConfigError: the accountant cannot compose these events.
        """
        costs = self.costs(unit)
        values = {cost: epsilon_of(cost, delta, accountant) for cost in set(costs.values())}
        return {client: values[cost] for client, cost in costs.items()}

    def worst(self, delta: float, accountant: str) -> dict[str, float]:
        """Return the largest epsilon of any client, by unit; a unit without charges is left out."""
        found = {unit: self.epsilons(unit, delta, accountant) for unit in UNITS}
        return {unit: max(values.values()) for unit, values in found.items() if values}


def _cost(paid: "Counter[Charge]", unit: str) -> Cost:
    return frozenset((charge, times) for charge, times in paid.items() if charge.unit == unit)


def epsilon_of(cost: Cost, delta: float, accountant: str) -> float:
    """Return the epsilon of charges of one unit at `delta`.

    Raises:
        ConfigError: the accountant cannot compose these events.
    """
    from privacy.accounting import charges
    from privacy.accounting import epsilon as accounting

    whole = charges.compose(cost)
    return accounting.epsilon(whole.event, delta, accountant, whole.relation)
