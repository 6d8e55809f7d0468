"""Runs to configurations: means over seeds, and overheads against the paired plain run."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import stdtrit

from results.columns import COLUMNS, TEXTS, Column

CONFIDENCE = 0.95
EXACT = 1e-9  # a narrower interval is due to rounding
Spread = Literal["ci", "std", "range"]


def compare(runs: pl.DataFrame, columns: Sequence[Column] = COLUMNS, spread: Spread = "ci") -> pl.DataFrame:
    """One row a configuration, from a frame of `results.runs.RUNS`, possibly with more columns.

    Each figure KEY of `columns` is four columns: KEY, the bounds KEY_low and KEY_high of its spread
    (null for fewer than two seeds), and KEY_n, the seeds that it rests on. The spread is Student's 95 % interval (ci),
    one standard deviation to each side (std), or the least and the largest seed (range); for a ratio the first two
    are computed on logarithms, so they are not symmetric. Ratios and differences have a fifth, KEY_ns, see
    `averaged`. Beside them: `configuration`, `plain`, `seeds`, `path`, `status` and `results.columns.TEXTS`.
    """
    runs = with_overheads(latest(runs.filter("summarised")), ["pair"], [column for column in columns if column.source])
    table = averaged(
        runs,
        ["configuration"],
        columns,
        pl.col("plain").first(),
        pl.len().alias("seeds"),
        pl.col("path", "status", *TEXTS).drop_nulls().unique(maintain_order=True).str.join("; "),
        spread=spread,
    )
    return table.with_columns(pl.col("configuration").cast(pl.String()), pl.col(*TEXTS).replace("", None))


def averaged(
    frame: pl.DataFrame, keys: Sequence[str], columns: Sequence[Column], *others: pl.Expr, spread: Spread = "ci"
) -> pl.DataFrame:
    """A row for each value of `keys`: `others`, and of each figure the mean or the maximum, with its spread.

    KEY_ns of a ratio or difference is true where its 95 % interval contains the value of no difference, so that the
    seeds do not distinguish it from noise; null without an interval. A figure equal for all seeds is exact, no noise.
    """
    figures = [column for column in columns if column.kind in ("mean", "ratio", "difference")]
    table = frame.group_by(keys, maintain_order=True).agg(
        *others,
        *(part for column in figures for part in _moments(column.key)),
        *(part for column in columns if column.kind == "largest" for part in _largest(column.key)),
    )
    for column in figures:
        table = _with_spread(table, column, spread)
    return table


def latest(runs: pl.DataFrame) -> pl.DataFrame:
    """Each configuration and seed once: the run that ended last. A repetition is not another seed."""
    return runs.sort("ended", maintain_order=True, nulls_last=False).unique(
        ["configuration", "seed"], keep="last", maintain_order=True
    )


def with_overheads(runs: pl.DataFrame, keys: Sequence[str], overheads: Sequence[Column]) -> pl.DataFrame:
    """Add each row's differences to its plain twin (in points), and the logarithms of its ratios to it.

    The twin is the plain row with the same `keys`. With `pair` among them, it belongs to the run with the same
    configuration, seed included, except for mechanism and secure sum.
    """
    sources = dict.fromkeys(column.source for column in overheads)
    twins = runs.filter("plain").unique(keys, keep="last", maintain_order=True).select(*keys, *sources)
    paired = runs.join(twins, on=keys, how="left", suffix="_plain", maintain_order="left")
    return paired.with_columns(
        _log_ratio(column.source).alias(column.key)
        if column.kind == "ratio"
        else (100 * (pl.col(column.source) - pl.col(f"{column.source}_plain"))).alias(column.key)
        for column in overheads
    )


def _log_ratio(key: str) -> pl.Expr:
    own = pl.col(key)
    twin = pl.col(f"{key}_plain")
    return pl.when((own > 0) & (twin > 0)).then((own / twin).log())


def _moments(key: str) -> list[pl.Expr]:
    value = pl.col(key)
    extremes = value.min().alias(f"{key}_min"), value.max().alias(f"{key}_max")
    return [value.mean(), value.std().alias(f"{key}_std"), *extremes, value.count().alias(f"{key}_n")]


def _largest(key: str) -> list[pl.Expr]:
    """The maximum; null where one seed has no value, since then no bound holds for all seeds."""
    value = pl.col(key)
    none = pl.lit(None, pl.Float64())
    largest = pl.when(value.null_count() == 0).then(value.max())
    return [largest.alias(key), none.alias(f"{key}_low"), none.alias(f"{key}_high"), value.count().alias(f"{key}_n")]


def _with_spread(table: pl.DataFrame, column: Column, spread: Spread) -> pl.DataFrame:
    key = column.key
    moments = {name: table[f"{key}{name}"].to_numpy().astype(np.float64) for name in ("", "_std", "_min", "_max")}
    several = table[f"{key}_n"].to_numpy() >= 2
    half = _half_width(moments["_std"], table[f"{key}_n"].to_numpy())
    table = table.drop(f"{key}_std", f"{key}_min", f"{key}_max")
    table = _bounded(table, column, moments[""], moments[""] - half, moments[""] + half)
    if column.source:
        table = table.with_columns(_not_significant(column))
    if spread == "ci":
        return table
    low, high = moments["_min"], moments["_max"]
    if spread == "std":
        low, high = moments[""] - moments["_std"], moments[""] + moments["_std"]
    return _bounded(table, column, moments[""], np.where(several, low, math.nan), np.where(several, high, math.nan))


def _bounded(
    table: pl.DataFrame, column: Column, centre: np.ndarray, low: np.ndarray, high: np.ndarray
) -> pl.DataFrame:
    """Set a figure and its bounds; those of a ratio are given as logarithms."""
    bounds = {column.key: centre, f"{column.key}_low": low, f"{column.key}_high": high}
    if column.kind == "ratio":
        bounds = {name: np.exp(values) for name, values in bounds.items()}
    return table.with_columns(pl.Series(name, values).fill_nan(None) for name, values in bounds.items())


def _not_significant(column: Column) -> pl.Expr:
    ratio = column.kind == "ratio"
    low = pl.col(f"{column.key}_low")
    high = pl.col(f"{column.key}_high")
    exact = high <= low * (1 + EXACT) if ratio else high <= low + EXACT
    return (pl.lit(1.0 if ratio else 0.0).is_between(low, high) & ~exact).alias(f"{column.key}_ns")


def _half_width(std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half the width of Student's 95 % interval: t(n - 1) s / sqrt(n); NaN for fewer than two values."""
    quantile = 1 - (1 - CONFIDENCE) / 2
    enough = np.where(n >= 2, n, 2)
    half = stdtrit(enough - 1, quantile) * std / np.sqrt(enough)
    return np.where(n >= 2, half, math.nan)
