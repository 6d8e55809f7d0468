"""Tidy rows: every measurement of a run is one row of one table.

- round: 1, 2, ...; 0 is set-up
- where: the address of the measured role: `server`, `client/3`, `party/1`, `keyholder`, `transport`
- stage: stage of the protocol (`collect`, `open`), or the phase around it (`round`, `train`, `protect`, `evaluate`);
  a step inside either is `PHASE/STEP` (`protect/encrypt`, `collect/add`)
- metric: `wall`, `cpu`, `compute`, `up_bytes`, `accuracy`, ...; the time of a step is a `part`, already included in
  the `wall` or `compute` of its phase
- unit: the unit of the value: `s`, `bytes`, or `1` where it has no dimension
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl
from polars.exceptions import PolarsError

from results.files import damaged, replacing

EVALUATE = "evaluate"  # the phase in which the server, or on request a client, scores a model
PART = "part"  # the metric of a step's time
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


MEASURED = pl.Schema(
    {
        "round": pl.Int32(),
        "where": pl.String(),
        "stage": pl.String(),
        "metric": pl.String(),
        "value": pl.Float64(),
        "unit": pl.String(),
    }
)
SCHEMA = pl.Schema({"run": pl.String(), **MEASURED})


def to_frame(run: str, rows: Iterable[Row]) -> pl.DataFrame:
    """The rows of one run as a frame of `SCHEMA`; `run` names the run, so that frames of several can be stacked."""
    frame = pl.DataFrame(list(rows), schema=MEASURED, orient="row")
    return frame.select(pl.lit(run).alias("run"), pl.all())


def write_rows(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame of `SCHEMA` as parquet (zstd), atomically."""
    assert frame.schema == SCHEMA, f"rows have schema {frame.schema}"
    with replacing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd")


def read_rows(path: Path) -> pl.DataFrame:
    """The frame that `write_rows` wrote.

    Raises:
        RunRefused: the file is missing, cannot be read, or holds another table.
    """
    try:
        # By handle: polars would memory-map a path, and see later changes of the file.
        with path.open("rb") as file:
            frame = pl.read_parquet(file)
    except (OSError, PolarsError) as error:
        raise damaged(path, error) from error
    if frame.schema != SCHEMA:
        raise damaged(path, f"its columns are {', '.join(frame.columns)}")
    return frame
