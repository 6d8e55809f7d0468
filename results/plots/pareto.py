"""Accuracy against overhead, with the Pareto front."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from results.plots.points import Axis, Point, backends, front
from results.plots.style import WIDTHS, at_most, bar_handle, legend, legend_height, logarithmic, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 9  # most points of the front with a number of their own, where backends are not distinct
GREY = "#777777"
AXES = 2.4  # inches


def draw(figure: "Figure", found: Sequence[Point], x: Axis, y: Axis, width: str, told: str = "") -> None:
    """Draw a point for each configuration, in the colour and shape of its backend, and the front as a stepped line.

    `told` says what the bars are.
    """
    axes = figure.subplots()
    best = front(found, x, y)
    handles, labels = _points(axes, found)
    several = len(found) > len(labels)
    handles.append(_steps(axes, best, found, rising=not x.higher_is_better))
    labels.append("Pareto front")
    if told:
        handles.append(bar_handle())
        labels.append(told)
    if several:
        numbered = _numbered(axes, best)
        handles = handles + numbered[0]
        labels = labels + numbered[1]
    axes.set(xlabel=x.heading, ylabel=y.heading)
    axes.margins(y=0.1)
    logarithmic(axes, x=[point.x.value for point in found])
    at_most(axes, y.most)
    legend(figure, handles, labels, width)
    figure.set_size_inches(WIDTHS[width], AXES + legend_height(labels, width))


def _steps(axes: "Axes", best: Sequence[Point], found: Sequence[Point], rising: bool) -> Any:
    """The steps of the front, extended to the worst x; points beyond the line are dominated."""
    end = (max if rising else min)(point.x.value for point in found)
    corners = [(point.x.value, point.y.value) for point in best]
    corners = [*corners, (end, corners[-1][1])] if rising else [(end, corners[0][1]), *corners]
    [line] = axes.plot(
        *zip(*corners, strict=True),
        color=GREY,
        drawstyle="steps-post" if rising else "steps-pre",
        zorder=1,
        linewidth=0.9,
        linestyle="--",
    )
    return line


def _points(axes: "Axes", found: Sequence[Point]) -> tuple[list[Any], list[str]]:
    handles = []
    labels = []
    for name, place in backends([point.row for point in found]).items():
        chosen = [point for point in found if point.backend == name]
        style = look(place)
        drawn = axes.errorbar(
            [point.x.value for point in chosen],
            [point.y.value for point in chosen],
            xerr=list(zip(*(point.x.error for point in chosen), strict=True)),
            yerr=list(zip(*(point.y.error for point in chosen), strict=True)),
            color=style.colour,
            marker=style.marker,
            markeredgecolor="white",
            markeredgewidth=0.4,
            markersize=5,
            linestyle="none",
            elinewidth=0.8,
            zorder=2,
        )
        handles.append(drawn[0])  # the points without their bars
        labels.append(name)
    return handles, labels


def _numbered(axes: "Axes", best: Sequence[Point]) -> tuple[list[Any], list[str]]:
    """Write numbers beside the points of the front; returns their meanings."""
    from matplotlib.lines import Line2D

    places: dict[tuple[float, float], list[str]] = {}
    for number, point in enumerate(best[:NUMBERED], start=1):
        places.setdefault((point.x.value, point.y.value), []).append(str(number))
    for place, numbers in places.items():
        axes.annotate(
            ", ".join(numbers), place, xytext=(-3, 4), textcoords="offset points", ha="right", fontsize=6.5, zorder=3
        )
    labels = [f"{number}: {point.row['configuration']}" for number, point in enumerate(best[:NUMBERED], start=1)]
    return [Line2D([], [], linestyle="none") for _ in labels], labels
