"""`fedveil plot`: pictures for print, drawn from the same rows as the table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from privacy.errors import ConfigError
from results.columns import COLUMNS
from results.commands.output import Parser, add_naming, add_networks, add_runs, add_spread, naming, split
from results.index import collect_under
from results.networks import replay
from results.networks.links import Network, load
from results.plots import curves, pareto
from results.plots import phases as bars
from results.plots.overview import bar_column, overview
from results.plots.points import Axis, Row, axis, points
from results.plots.style import WIDTHS, picture
from results.table import SPREADS, phases, table, usual_spread

KINDS = {
    "overview": "accuracy by round, and the phases of a round below it",
    "pareto": "accuracy against an overhead, with the Pareto front (--x, by default round_ratio)",
    "epsilon": "accuracy against epsilon, a line a backend",
    "phases": "time of a round by party and phase (--y sent_bytes, received_bytes: bytes)",
    "scaling": "a figure (--y, by default round_s) against a numeric key of the configuration (--x)",
}
# defaults of --x and --y; a kind without a default does not take the option
X = {"pareto": "round_ratio", "scaling": None}
Y = {"pareto": "accuracy", "epsilon": "accuracy", "scaling": "round_s", "phases": "phase_s"}


def main(argv: Sequence[str]) -> int:
    """Draw one picture; returns the exit status.

    Raises:
        ConfigError: an unknown option, figure or key, nothing to draw, or a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    kind = options.kind
    for option, allowed in (("x", X), ("y", Y)):
        given = getattr(options, option)
        if given is not None and kind not in allowed:
            raise ConfigError.of(f"--{option}", given, f"belongs to {', '.join(allowed)}; here is {kind}")
    if options.spread is not None and kind in ("overview", "phases"):
        raise ConfigError.of("--spread", options.spread, "belongs to pareto, epsilon, scaling")
    x = options.x or X.get(kind)
    y = options.y or Y.get(kind, "")
    if kind == "scaling" and x is None:
        raise ConfigError(
            "--x: name the key that `scaling` is drawn against: clients, parameters, faults.dropout_rate, ..."
        )
    networks = [load(name) for name in split(options.network)]
    runs = collect_under(options.runs)
    if kind == "overview":
        overview(runs, options.out, options.width, "--out", naming(options))
    elif kind == "phases":
        _phases(runs, options, y)
    else:
        _plane(runs, options, x or "epsilon", y, networks)
    return 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {kind:9} {what}" for kind, what in KINDS.items())
    parser = Parser(
        prog="fedveil plot",
        description=f"{__doc__}",
        epilog=f"kinds:\n{listed}\n\nfigures are the columns of `fedveil table --help`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help="a kind of the list below")
    add_runs(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the picture: .png, .pdf or .svg")
    parser.add_argument("--x", metavar="KEY", help="the quantity on the horizontal axis")
    parser.add_argument("--y", metavar="COLUMN", help="the quantity on the vertical axis")
    parser.add_argument(
        "--width",
        choices=WIDTHS,
        default="column",
        help="width of the picture, of a paper's column or page (default: %(default)s)",
    )
    add_networks(parser)
    add_naming(parser)
    add_spread(parser, None, "ci, or range where a row has fewer than three seeds")
    return parser


def _phases(runs: pl.DataFrame, options: argparse.Namespace, y: str) -> None:
    column = bar_column("--y", y)
    found = bars.stacks(phases(runs, naming=naming(options)).rows, column)
    width = options.width
    with picture(options.out, "--out", width) as figure:
        figure.set_size_inches(WIDTHS[width], bars.draw(figure, found, column.heading, width))


def _plane(runs: pl.DataFrame, options: argparse.Namespace, x: str, y: str, networks: Sequence[Network]) -> None:
    width = options.width
    kind = options.kind
    spread = options.spread or usual_spread(runs)
    rows = table(runs, networks=networks, naming=naming(options), spread=spread).rows
    columns = (*COLUMNS, *(column for network in networks for column in replay.columns(network)))
    across = axis("--x", x, columns, rows, configured=kind == "scaling")
    up = axis("--y", y, columns, rows)
    found = points(rows, across, up)
    told = SPREADS[spread].bars if any(row["seeds"] > 1 for row in rows) else ""
    with picture(options.out, "--out", width) as figure:
        if kind == "pareto":
            pareto.draw(figure, found, across, up, width, told)
        else:
            levels = _levels(rows, across) if kind == "epsilon" else ()
            curves.draw(figure, found, across, up, width, told, levels)


def _levels(rows: Sequence[Row], across: Axis) -> list[Row]:
    """The rows without an epsilon, drawn as levels for comparison."""
    return [row for row in rows if row["plain"] and across.of(row) is None]
