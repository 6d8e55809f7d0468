"""The rows of a run as a frame, and as a file; `results.measurements` says what a row holds."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from results.files import damaged, replacing
from results.measurements import Row

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
