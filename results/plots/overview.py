"""`fedveil table --plot FILE` and `fedveil plot overview`: accuracy by round above, phases of a round below."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from privacy.errors import ConfigError
from results import breakdown
from results.columns import Column
from results.naming.names import USUAL, Naming
from results.plots import phases as bars
from results.plots.phases import Stacks
from results.plots.points import MOST_PERCENT, Row
from results.plots.rounds import accuracy_by_round
from results.plots.style import FEW, WIDTHS, at_most, legend, legend_height, look, picture
from results.table import phases, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

ACCURACY = 2.2  # inches

PHASE_TIME = "phase_s"  # the figure of the breakdown that its bars show


def draw(figure: "Figure", rows: Sequence[Row], curves: pl.DataFrame, found: Stacks, heading: str, width: str) -> None:
    """Draw both, one above the other.

    Args:
        figure: the figure to draw on.
        rows: rows of `results.table.table`.
        curves: the frame of `results.plots.rounds.accuracy_by_round`.
        found: the bars.
        heading: heading of the bars' axis.
        width: width of the picture.
    """
    names = _names(rows)
    accuracy = ACCURACY + legend_height(list(dict.fromkeys(names)), width)
    height = bars.height(found, width) + 0.5  # an estimate, until the legend is drawn
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(accuracy, height))
    above, below = parts[:, 0]
    _draw_accuracy(above, rows, names, curves, width)
    figure.set_size_inches(WIDTHS[width], accuracy + bars.draw(below, found, heading, width))


def _names(rows: Sequence[Row]) -> list[str]:
    """The names of the lines: backends, where these are distinct or there are too many lines for separate names."""
    own = [str(row["name"]) for row in rows]
    return [row["configuration"] for row in rows] if len(set(own)) < len(rows) <= FEW else own


def _draw_accuracy(
    figure: "FigureBase", rows: Sequence[Row], names: Sequence[str], curves: pl.DataFrame, width: str
) -> None:
    """Draw a line for each configuration: the mean over seeds, in a band between their extremes."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    handles = dict[str, Any]()
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    for row, name in zip(rows, names, strict=True):
        curve = curves.filter(pl.col("configuration") == row["identity"])
        style = look(places[name])
        value, low, high = (100 * curve[key] for key in ("value", "low", "high"))
        [line] = axes.plot(curve["round"], value, color=style.colour, linestyle=style.line)
        axes.fill_between(curve["round"], low, high, color=style.colour, alpha=0.15, linewidth=0)
        handles.setdefault(name, line)
    axes.set(xlabel="round", ylabel="test accuracy (%)")
    at_most(axes, MOST_PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, list(handles.values()), list(handles), width)


def overview(runs: pl.DataFrame, out: Path, width: str = "page", key: str = "--plot", naming: Naming = USUAL) -> None:
    """Draw the finished runs of a frame of `results.runs.RUNS`: accuracy by round, and phases.

    Raises:
        ConfigError: another ending than .png, .pdf or .svg; no finished run, or more than a page holds.
    """
    column = bar_column("--y", PHASE_TIME)
    found = bars.stacks(phases(runs, naming=naming).rows, column)
    with picture(out, key, width) as figure:
        draw(figure, table(runs, naming=naming).rows, accuracy_by_round(runs), found, column.heading, width)


def bar_column(option: str, key: str) -> Column:
    """The column of the breakdown for a bar chart; its values must add up."""
    allowed = {column.key: column for column in breakdown.COLUMNS if column.kind == "mean"}
    if key not in allowed:
        raise ConfigError.of(option, key, f"no such figure; allowed are {', '.join(allowed)}")
    return allowed[key]
