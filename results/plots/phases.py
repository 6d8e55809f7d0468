"""Stacked bars of a round's time, or bytes, by party and phase."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from privacy.errors import ConfigError
from results.breakdown import ALL, PHASES
from results.columns import Column
from results.naming.labels import pieces
from results.plots.points import Row, figure
from results.plots.style import legend, legend_height, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

OTHERS = "protocol"  # stages of the protocol outside the phases of a client; they hold the bytes
NARROW = 26  # most characters of a label in one column
MOST = 60  # the most bars on a page
BAR = 0.05  # inches of a bar
LINE = 0.12  # inches that a line of the label adds


class BarSegment(NamedTuple):
    """A part of a bar, and its look in colour and in grey."""

    party: str
    phase: str
    colour: str
    hatch: str = ""

    @property
    def label(self) -> str:
        """The entry of the segment in the legend."""
        return self.party if self.phase == ALL else f"{self.party}: {self.phase}"


# clients are split by phase; other parties, whose stages depend on the protocol, are one segment each
SEGMENTS = (
    BarSegment("clients", "prepare", "#56B4E9", "..."),
    BarSegment("clients", "train", "#0072B2"),
    BarSegment("clients", "flatten", "#F0E442", "|||"),
    BarSegment("clients", "transfer", "#CC79A7", "---"),
    BarSegment("clients", "protect", "#E69F00", "\\\\\\"),
    BarSegment("clients", OTHERS, "#DDDDDD", "ooo"),
    BarSegment("server", ALL, "#009E73", "///"),
    BarSegment("keyholder", ALL, "#000000"),
    BarSegment("parties", ALL, "#D55E00", "xxx"),
)

Stacks = Mapping[str, Mapping[tuple[str, str], float]]  # label -> (party, phase) -> amount


def stacks(rows: Sequence[Row], column: Column) -> Stacks:
    """The bars of a picture, see `divided`.

    Raises:
        ConfigError: there is no bar, or there are more than a page holds.
    """
    found = divided(rows, column)
    if not 1 <= len(found) <= MOST:
        raise ConfigError.of("phases", len(found), f"a picture holds the bars of 1 to {MOST} configurations: name runs")
    return found


def divided(rows: Sequence[Row], column: Column) -> Stacks:
    """A bar for each configuration, from the rows of `results.table.phases`, in their order, divided by SEGMENTS."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        bar = found.setdefault(row["configuration"], defaultdict(float))
        amount = figure(row, column)
        clients = row["party"] == "clients"
        whole = row["phase"] == ALL
        if amount is not None and clients != whole:
            known = not clients or row["phase"] in PHASES
            bar[row["party"], row["phase"] if known else OTHERS] += amount.value
    return found


def height(labels: Iterable[str], width: str) -> float:
    """Height of the axes, in inches."""
    shown = [_label(label, width) for label in labels]
    return (BAR + LINE * max((label.count("\n") + 1 for label in shown), default=1)) * len(shown) + 0.5


def draw(figure: "FigureBase", found: Stacks, heading: str, width: str) -> float:
    """Draw a bar for each configuration; returns the height of the picture, in inches."""
    axes = figure.subplots()
    _draw_on(axes, found, heading, width)
    handles, labels = axes.get_legend_handles_labels()
    legend(figure, handles, labels, width)
    return height(found, width) + legend_height(labels, width)


def _draw_on(axes: "Axes", found: Stacks, heading: str, width: str) -> None:
    left = [0.0] * len(found)
    for segment in SEGMENTS:
        widths = [bar.get((segment.party, segment.phase), 0.0) for bar in found.values()]
        if any(widths):
            axes.barh(
                range(len(found)),
                widths,
                left=left,
                color=segment.colour,
                hatch=segment.hatch,
                edgecolor="white",
                linewidth=0.3,
                label=segment.label,
                height=0.72,
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(found)), [_label(label, width) for label in found])
    axes.set(xlabel=heading, xlim=(0, 1.03 * max(left)), ylim=(len(found) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")


def _label(label: str, width: str) -> str:
    """A label; in a narrow picture one key a line, without the groups that contain it."""
    if width != "column":
        return wrapped(label, "column")
    keys = [part.partition("=") for part in pieces(label)]
    lines = [f"{key.rpartition('.')[2]}={value}" if equals else key for key, equals, value in keys]
    return "\n".join(textwrap.fill(line, NARROW) for line in lines)
