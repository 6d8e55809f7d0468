"""The exact sum of four clients whose updates are known (`tests.outside.probe`)."""

import math
from collections.abc import Sequence

import numpy as np

from fl.workspace import Workspace
from tests.outside.probe import known_update

LENGTH = 650
EVERYBODY = tuple(f"client/{client}" for client in range(4))


def exact_sum(work: Workspace, survivors: Sequence[str] = EVERYBODY, round_: int = 1) -> np.ndarray:
    """The correctly rounded sum of [v * update, v], each as float32, shape (LENGTH + 1,)."""
    sent = []
    for client in (int(address.removeprefix("client/")) for address in survivors):
        v = np.float32(work.plan.weight(client))
        sent.append(np.append(v * known_update(client, round_, LENGTH), v))
    return np.array([math.fsum(map(float, column)) for column in zip(*sent, strict=True)])
