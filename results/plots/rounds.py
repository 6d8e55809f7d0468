"""Accuracy by round of each configuration."""

from pathlib import Path

import polars as pl

from results.comparison import latest
from results.rows import SCHEMA
from results.store import RunDirectory

SCORES = (pl.col("where") == "server") & (pl.col("stage") == "evaluate") & (pl.col("metric") == "accuracy")
EVALUATED = SCORES & (pl.col("round") >= 1)


def accuracy_by_round(runs: pl.DataFrame) -> pl.DataFrame:
    """From a frame of `results.runs.RUNS`: `configuration`, `round`, and the mean, `low` and `high` over its seeds.

    The accuracy is a share; low and high are the extremes.
    """
    finished = latest(runs.filter("summarised"))
    frames = [
        _evaluated(path).with_columns(pl.lit(configuration).alias("configuration"))
        for path, configuration in finished.select("path", "configuration").iter_rows()
    ]
    value = pl.col("value")
    found = pl.concat([SCHEMA.to_frame().with_columns(pl.lit("").alias("configuration")), *frames])
    return (
        found.group_by("configuration", "round")
        .agg(value.mean(), value.min().alias("low"), value.max().alias("high"))
        .sort("configuration", "round")
    )


def _evaluated(path: str) -> pl.DataFrame:
    return RunDirectory(Path(path)).rows().filter(EVALUATED)
