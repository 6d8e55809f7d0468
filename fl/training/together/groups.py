"""The groups of a round: which clients train together, and what each of them has got from it.

Groups follow the order of the cohort. They depend on neither the clients that are asked nor the process that asks, so
the same group gives the same bits anywhere.

Shapes: N clients of a group, D values of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch


class Trained(NamedTuple):
    """What a group has trained: a row of each client, (N, D), and what its mechanisms tell of it."""

    rows_ND: torch.Tensor
    diagnostics: Sequence[Mapping[str, float]]


class Taken(NamedTuple):
    """One client's part: its row, shape (D,), its share of the costs by metric, and what its mechanisms tell of it."""

    row_D: torch.Tensor
    costs: Mapping[str, float]
    diagnostics: Mapping[str, float]


TrainGroup = Callable[[Sequence[int], int], Trained]  # of clients in a round
Measure = Callable[[Callable[[], Trained]], tuple[Trained, Mapping[str, float]]]  # a result, and its costs by metric


@dataclass
class Groups:
    """The trained clients of the attempt at hand, until each has taken its own.

    Args:
        size: the largest number of clients of a group.
        cohort_of: returns the clients of a round.
        train: trains a group from the weights that the model holds.
        work_of: the number of examples that a client passes in a round.
        measure: measures the training of a group.
    """

    size: int
    cohort_of: Callable[[int], Sequence[int]]
    train: TrainGroup
    work_of: Callable[[int], int]
    measure: Measure
    # a round, and the places of its clients in the cohort
    _places: tuple[int, dict[int, int]] = field(default_factory=lambda: (0, {}))
    _attempt: tuple[int, str] = (0, "")
    _start_D: dict[int, torch.Tensor] = field(default_factory=dict)  # by group
    _held: dict[int, Taken] = field(default_factory=dict)  # by client

    def group_of(self, number: int, client: int) -> int:
        """Return the index of a client's group in the cohort of a round."""
        if self._places[0] != number:  # each client of a round asks, and a cohort may hold thousands
            self._places = number, {int(one): place for place, one in enumerate(self.cohort_of(number))}
        return self._places[1][client] // self.size

    def take(self, number: int, attempt: str, client: int, start_D: torch.Tensor) -> Taken | None:
        """Return what a client trains from `start_D`, shape (D,), which the model holds.

        The first client of a group that asks trains all of it. None where this client got other weights than the first.
        """
        if self._attempt != (number, attempt):
            self._attempt = (number, attempt)
            self._start_D.clear()
            self._held.clear()
        group = self.group_of(number, client)
        if client not in self._held:
            self._train(number, group, start_D)
        if not torch.equal(self._start_D[group], start_D):
            return None
        return self._held.pop(client)

    def holds(self, number: int, attempt: str, client: int) -> bool:
        """Return True where the next `take` of a client trains nobody."""
        return self._attempt == (number, attempt) and client in self._held

    def _train(self, number: int, group: int, start_D: torch.Tensor) -> None:
        clients = list(self.cohort_of(number))[group * self.size : (group + 1) * self.size]
        (rows_ND, told), metrics = self.measure(lambda: self.train(clients, number))
        work = [self.work_of(client) for client in clients]
        self._start_D[group] = start_D.clone()
        for client, row_D, own, diagnostics in zip(clients, rows_ND, work, told, strict=True):
            share = own / sum(work) if any(work) else 1 / len(work)
            costs = {metric: value if metric.startswith("peak") else share * value for metric, value in metrics.items()}
            self._held[client] = Taken(row_D, costs, diagnostics)
