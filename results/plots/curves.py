"""Curves of a figure against epsilon, or against a numeric key of the configuration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.plots.points import Axis, Interval, Point, Row, backends, series
from results.plots.style import FEW, WIDTHS, Look, at_most, bar_handle, legend, legend_height, logarithmic, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = 2.3  # inches


def draw(
    figure: "Figure",
    found: Sequence[Point],
    x: Axis,
    y: Axis,
    width: str,
    told: str = "",
    plain: Sequence[Row] = (),
) -> None:
    """Draw one line for each set of configurations that differ only in x, with bars for the spread over seeds.

    With more lines than distinct colours, the lines of a backend share its colour and its entry in the legend.

    Args:
        figure: the figure to draw on.
        found: the points.
        x: the horizontal axis.
        y: the vertical axis.
        width: width of the picture.
        told: what the bars are.
        plain: rows without x, drawn as levels for comparison.
    """
    axes = figure.subplots()
    lines = series(found, x)
    handles = _lines(axes, lines)
    handles |= _levels(axes, [level for row in plain if (level := y.of(row)) is not None])
    if told:
        handles[told] = bar_handle()
    axes.set(xlabel=x.heading, ylabel=y.heading)
    logarithmic(axes, [point.x.value for point in found], [point.y.value for point in found])
    at_most(axes, y.most)
    legend(figure, list(handles.values()), list(handles), width)
    figure.set_size_inches(WIDTHS[width], AXES + legend_height(list(handles), width))


def _lines(axes: "Axes", lines: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    places = backends([point.row for line in lines.values() for point in line])
    handles: dict[str, Any] = {}
    for number, (label, line) in enumerate(lines.items()):
        backend = line[0].backend
        name, place = (label, number) if len(lines) <= FEW else (backend, places[backend])
        handles.setdefault(name, _line(axes, line, look(place)))
    return handles


def _line(axes: "Axes", line: Sequence[Point], style: Look) -> Any:
    drawn = axes.errorbar(
        [point.x.value for point in line],
        [point.y.value for point in line],
        yerr=list(zip(*(point.y.error for point in line), strict=True)),
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        capsize=2,
        elinewidth=0.7,
    )
    return drawn[0]  # the line without its bars


def _levels(axes: "Axes", levels: Sequence[Interval]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for level in levels:
        handles["plain"] = axes.axhline(level.value, color="#555555", linestyle=(0, (1, 1)), linewidth=1.0)
        if level.low is not None and level.high is not None:
            axes.axhspan(level.low, level.high, color="#555555", alpha=0.12, linewidth=0)
    return handles
