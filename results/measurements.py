"""Tidy rows: every measurement of a run is one row of one table.

- round: 1, 2, ...; 0 is set-up
- where: the address of the measured role: `server`, `client/3`, `party/1`, `keyholder`, `transport`
- stage: stage of the protocol (`collect`, `open`), or the phase around it (`round`, `train`, `protect`, `evaluate`);
  a step inside either is `PHASE/STEP` (`protect/encrypt`, `collect/add`)
- metric: `wall`, `cpu`, `compute`, `up_bytes`, `accuracy`, ...; the time of a step is a `part`, already included in
  the `wall` or `compute` of its phase
- unit: the unit of the value: `s`, `bytes`, or `1` where it has no dimension
"""

from typing import NamedTuple

EVALUATE = "evaluate"  # the phase in which the server, or on request a client, scores a model
PART = "part"  # the metric of a step's time
COMPILE = "compile"  # the stage of torch.compile
WITNESS = "witness"  # the phase in which a client inspects its own upload; not an overhead of the protection
TOLD_SHARE = 0.001  # of a round's values, cut to the bound of a sum: from here on, a warning and a note


class Row(NamedTuple):
    """One measurement."""

    round: int
    where: str
    stage: str
    metric: str
    value: float
    unit: str
