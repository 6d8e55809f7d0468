"""Runs to configurations: means over seeds, and overheads against the paired plain run."""

import math

import numpy as np
import polars as pl
from scipy.special import stdtrit

from results.columns import COLUMNS, OVERHEADS, TEXTS

CONFIDENCE = 0.95


def compare(runs: pl.DataFrame) -> pl.DataFrame:
    """One row a configuration, from a frame of `results.runs.RUNS`.

    Each figure KEY of `results.columns.COLUMNS` is four columns: KEY, the bounds KEY_low and KEY_high of its 95 %
    interval (null for fewer than two seeds), and KEY_n, the seeds that it rests on. The interval is Student's; that of
    a ratio is taken between logarithms, so it is not symmetric. Beside them: `configuration`, `plain`, `seeds`,
    `path`, `status` and `results.columns.TEXTS`.
    """
    runs = with_overheads(latest(runs.filter("summarised")))
    figures = [column for column in COLUMNS if column.kind in ("mean", "ratio", "difference")]
    table = runs.group_by("configuration", maintain_order=True).agg(
        pl.col("plain").first(),
        pl.len().alias("seeds"),
        pl.col("path", "status", *TEXTS).drop_nulls().unique(maintain_order=True).str.join("; "),
        *(part for column in figures for part in _moments(column.key)),
        *(part for column in COLUMNS if column.kind == "largest" for part in _largest(column.key)),
    )
    for column in figures:
        table = _with_interval(table, column.key, logarithmic=column.kind == "ratio")
    return table.with_columns(pl.col(*TEXTS).replace("", None))


def latest(runs: pl.DataFrame) -> pl.DataFrame:
    """Each configuration and seed once: the run that ended last. A repetition is not another seed."""
    return runs.sort("ended", maintain_order=True, nulls_last=False).unique(
        ["configuration", "seed"], keep="last", maintain_order=True
    )


def with_overheads(runs: pl.DataFrame) -> pl.DataFrame:
    """Adds each run's differences to its plain twin (in points), and the logarithms of its ratios to it.

    The twin is the plain run whose configuration is the same but for mechanism and secure sum, the seed included.
    """
    sources = [column.source for column in OVERHEADS]
    twins = runs.filter("plain").unique("pair", keep="last", maintain_order=True).select("pair", *sources)
    paired = runs.join(twins, on="pair", how="left", suffix="_plain", maintain_order="left")
    return paired.with_columns(
        _log_ratio(column.source).alias(column.key)
        if column.kind == "ratio"
        else (100 * (pl.col(column.source) - pl.col(f"{column.source}_plain"))).alias(column.key)
        for column in OVERHEADS
    )


def _log_ratio(key: str) -> pl.Expr:
    own, twin = pl.col(key), pl.col(f"{key}_plain")
    return pl.when((own > 0) & (twin > 0)).then((own / twin).log())


def _moments(key: str) -> list[pl.Expr]:
    value = pl.col(key)
    return [value.mean(), value.std().alias(f"{key}_std"), value.count().alias(f"{key}_n")]


def _largest(key: str) -> list[pl.Expr]:
    """The maximum, or nothing where one seed has none: no bound holds for all then."""
    value, none = pl.col(key), pl.lit(None, pl.Float64())
    largest = pl.when(value.null_count() == 0).then(value.max())
    return [largest.alias(key), none.alias(f"{key}_low"), none.alias(f"{key}_high"), value.count().alias(f"{key}_n")]


def _with_interval(table: pl.DataFrame, key: str, logarithmic: bool) -> pl.DataFrame:
    centre = table[key].to_numpy().astype(np.float64)
    half = _half_width(table[f"{key}_std"].to_numpy().astype(np.float64), table[f"{key}_n"].to_numpy())
    bounds = {key: centre, f"{key}_low": centre - half, f"{key}_high": centre + half}
    if logarithmic:
        bounds = {name: np.exp(values) for name, values in bounds.items()}
    series = [pl.Series(name, values).fill_nan(None) for name, values in bounds.items()]
    return table.drop(f"{key}_std").with_columns(series)


def _half_width(std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Student's: t(n - 1) s / sqrt(n); NaN for fewer than two."""
    quantile = 1 - (1 - CONFIDENCE) / 2
    enough = np.where(n >= 2, n, 2)
    half = stdtrit(enough - 1, quantile) * std / np.sqrt(enough)
    return np.where(n >= 2, half, math.nan)
