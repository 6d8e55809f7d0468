"""`fedveil table --plot FILE`: accuracy by round, and where a round's time goes, from the same runs as the table."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from privacy.errors import ConfigError
from results.labels import label_parts, text_of
from results.rows import WITNESS
from results.store import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito 2008: told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
CLIENT_PHASES = ("prepare", "train", "flatten", "transfer", "protect")
ENDINGS = (".png", ".pdf", ".svg")
MOST = len(COLOURS)


def plot(runs: pl.DataFrame, out: Path) -> None:
    """Draw the finished ones of a frame of `results.runs.RUNS`; lines are means over seeds, bands their extremes.

    Raises:
        ConfigError: another ending than .png, .pdf or .svg; no finished run, or too many configurations to tell apart.
    """
    if out.suffix not in ENDINGS:
        raise ConfigError.of("--plot", out, f"must end in one of {', '.join(ENDINGS)}")
    rows = _rows_by_label(runs)
    if not 1 <= len(rows) <= MOST:
        raise ConfigError.of("--plot", out, f"draws 1 to {MOST} configurations, here are {len(rows)}")
    import matplotlib  # half a second, and most tables need no plot

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 0.35 * len(rows) + 3.8), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2.2, 0.35 * len(rows) + 0.5))
    _draw_accuracy(above, rows)
    _draw_phases(below, rows)
    figure.savefig(out, dpi=150)


def _rows_by_label(runs: pl.DataFrame) -> Mapping[str, pl.DataFrame]:
    """The measurements of each configuration, all its seeds together."""
    finished = runs.filter("summarised").sort("configuration", "seed").to_dicts()
    parts = label_parts([json.loads(run["configuration"]) for run in finished])
    found: dict[str, list[pl.DataFrame]] = defaultdict(list)
    for run, part in zip(finished, parts, strict=True):
        found[text_of(part)].append(RunDirectory(Path(run["path"])).rows().filter(pl.col("round") >= 1))
    return {label: pl.concat(frames) for label, frames in found.items()}


def _draw_accuracy(axes: "Axes", rows: Mapping[str, pl.DataFrame]) -> None:
    from matplotlib.ticker import MaxNLocator

    for colour, (label, frame) in zip(COLOURS, rows.items(), strict=False):
        values = frame.filter((pl.col("stage") == "evaluate") & (pl.col("metric") == "accuracy"))
        value = 100 * pl.col("value")
        curve = values.group_by("round").agg(
            value.mean().alias("value"), value.min().alias("low"), value.max().alias("high")
        )
        curve = curve.sort("round")
        axes.plot(curve["round"], curve["value"], color=colour, label=label, linewidth=1.6)
        axes.fill_between(curve["round"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="round", ylabel="test accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_phases(axes: "Axes", rows: Mapping[str, pl.DataFrame]) -> None:
    """Median over rounds of what a round's clients spend on each phase together, and the rest of the round."""
    labels = list(rows)
    left = [0.0] * len(labels)
    names = [*CLIENT_PHASES, "messages and server"]
    spent = [_phases(frame) for frame in rows.values()]
    for colour, name in zip(COLOURS, names, strict=False):
        widths = [1e3 * phases[name] for phases in spent]
        axes.barh(labels, widths, left=left, color=colour, label=name, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="time of a round (ms)")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _phases(frame: pl.DataFrame) -> dict[str, float]:
    walls = frame.filter(pl.col("metric") == "wall")
    clients = walls.filter(pl.col("where").str.starts_with("client/"))
    spent = {name: _median_of_sums(clients.filter(pl.col("stage") == name)) for name in CLIENT_PHASES}
    rounds = frame.filter((pl.col("where") == "server") & (pl.col("stage") == "round"))
    less = (
        pl.when(pl.col("metric") == WITNESS).then(-pl.col("value")).otherwise("value")
    )  # what it waited for witnesses
    whole = _median_of_sums(rounds.filter(pl.col("metric").is_in(["wall", WITNESS])).with_columns(less.alias("value")))
    return {**spent, "messages and server": max(0.0, whole - sum(spent.values()))}


def _median_of_sums(frame: pl.DataFrame) -> float:
    """Seconds a round, the median over rounds and seeds."""
    median = frame.group_by("run", "round").agg(pl.col("value").sum())["value"].median()
    return float(median) if isinstance(median, int | float) else 0.0
