"""The style of pictures: legible in one column of a paper, without colours and to colour-blind readers."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from privacy.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

# Okabe and Ito 2008: distinct to colour-blind readers; yellow last, since it is faint on paper
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")  # eleven, so that 88 pairs with a colour differ
# only one is solid, so that lines on top of one another all stay visible
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1)), (0, (1, 3)))
ENDINGS = (".png", ".pdf", ".svg")
WIDTHS = {"column": 3.4, "page": 7.0}  # inches
FEW = len(COLOURS)  # most items with their own colours; beyond it, those of one backend share a colour
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LONG = 1e5  # from this value on, numbers on an axis are powers of ten
SPANS = 10.0  # an axis is logarithmic from this ratio of its ends on
RC: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.minor.pad": 5.0,  # so that the labels of both kinds of ticks stand on one line
    "ytick.minor.pad": 5.0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # publishers refuse other types
    "text.parse_math": False,  # a `$` in a configuration is a literal
    "svg.hashsalt": "fedveil",  # makes the file reproducible
}
UNDATED: Mapping[str, Mapping[str, Any]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


class Look(NamedTuple):
    """The look of one line or set of points."""

    colour: str
    marker: str
    line: Any  # a line style of matplotlib: a name, or an offset and dashes


def look(index: int) -> Look:
    """The look of the item with this index."""
    return Look(COLOURS[index % FEW], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)])


@contextmanager
def picture(out: Path, key: str, width: str) -> Iterator["Figure"]:
    """Yield a figure to draw on; it is written when the block ends without error. The caller sets its height.

    Args:
        out: the file.
        key: the option that named it.
        width: one of WIDTHS.

    Raises:
        ConfigError: another ending than ENDINGS, or the file cannot be written.
    """
    if out.suffix not in ENDINGS:
        raise ConfigError.of(key, out, f"must end in one of {', '.join(ENDINGS)}")
    import matplotlib  # takes half a second, and most commands draw nothing

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTHS[width], WIDTHS[width]), layout="constrained")
        yield figure
        try:
            figure.savefig(out, dpi=300, metadata=dict(UNDATED[out.suffix]))
        except OSError as error:
            raise ConfigError.of(key, out, f"cannot be written ({error.strerror})") from error


def spans_decades(values: Sequence[float]) -> bool:
    """True where a logarithmic axis suits these values."""
    return bool(values) and min(values) > 0 and max(values) >= SPANS * min(values)


def logarithmic(axes: "Axes", x: Sequence[float] = (), y: Sequence[float] = ()) -> None:
    """Make axes logarithmic where their values span decades, with short tick labels."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis, set_scale, values in ((axes.xaxis, axes.set_xscale, x), (axes.yaxis, axes.set_yscale, y)):
        if spans_decades(values):
            set_scale("log")
            large = max(values) >= LONG or min(values) <= 1 / LONG
            axis.set_major_formatter(FuncFormatter(_power if large else _plain))
            if large or max(values) > SPANS**2 * min(values):
                axis.set_minor_formatter(NullFormatter())
            else:
                axis.set_minor_formatter(FuncFormatter(_ones_twos_and_fives))


def at_most(axes: "Axes", most: float | None) -> None:
    """End the vertical axis at a value that no figure passes, where it would go beyond it."""
    if most is not None and axes.get_ylim()[1] > most:
        axes.set_ylim(top=most)


def bar_handle() -> Any:
    """The sign of an error bar, for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#777777", marker="|", markersize=6, linestyle="none")


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _power(value: float, _: int) -> str:
    """Label a tick with its power of ten, in the same form for all ticks of an axis."""
    return "10" + f"{round(math.log10(value))}".translate(RAISED)


def _ones_twos_and_fives(value: float, _: int) -> str:
    text = f"{value:g}"
    return text if f"{value:e}"[0] in "25" else ""


def wrapped(text: str, width: str) -> str:
    """A label broken into lines that fit a picture; configurations break between their keys."""
    most = round(15 * WIDTHS[width])
    return "\n".join(textwrap.wrap(text, most, break_long_words=False, break_on_hyphens=False)) or text


def legend(figure: "FigureBase", handles: Sequence[Any], labels: Sequence[str], width: str) -> None:
    """Draw the legend below the axes, in as many columns as fit; `legend_height` gives its height."""
    shown = [wrapped(label, width) for label in labels]
    figure.legend(
        handles, shown, loc="outside lower center", ncols=_columns(shown, width), handlelength=2.6, columnspacing=1.2
    )


def legend_height(labels: Sequence[str], width: str) -> float:
    """Height of the legend, in inches."""
    shown = [wrapped(label, width) for label in labels]
    columns = _columns(shown, width)
    rows = -(-len(shown) // columns) if shown else 0
    # entries fill column by column; the tallest column decides
    tallest = max(sum(label.count("\n") + 1 for label in shown[i * rows : (i + 1) * rows]) for i in range(columns))
    return 0.15 * tallest + 0.1


def _columns(shown: Sequence[str], width: str) -> int:
    longest = max((len(line) for label in shown for line in label.split("\n")), default=1)
    most = max(1, min(len(shown), int(17 * WIDTHS[width]) // (longest + 6)))
    rows = -(-len(shown) // most)
    return -(-len(shown) // rows) if rows else 1  # as few as need no more rows
