"""`fedveil report`: the table of some runs, its plots, and the provenance of each row, in one HTML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.hydra.command_of import command_of
from privacy.errors import ConfigError
from results.columns import COLUMNS
from results.commands.output import Parser, add_columns, add_naming, add_runs, add_spread, naming, split, write
from results.index import collect_under
from results.networks import replay
from results.networks.links import load
from results.report.content import content
from results.report.page import page
from results.table import SPREADS, phases, table


def main(argv: Sequence[str]) -> int:
    """Write the report of the runs named in `argv`; returns the exit status.

    Raises:
        ConfigError: an unknown option or column, a folder without runs, a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.out.suffix not in (".html", ".htm"):
        raise ConfigError.of("--out", options.out, "must end in .html")
    networks = [load(name) for name in split(options.network)]
    runs = collect_under(options.runs)
    names = naming(options)
    chosen = None if options.columns is None else split(options.columns)
    sheet = table(runs, chosen, networks, names, options.spread)
    columns = (*COLUMNS, *(column for network in networks for column in replay.columns(network)))
    held = content(runs, sheet, phases(runs, naming=names), columns, command_of)
    write(options.out, page(sheet, held, command_of, SPREADS[options.spread].bars))
    print(f"{len(sheet.rows)} configurations in {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fedveil report", description=f"{__doc__}", allow_abbrev=False)
    add_runs(parser)
    default = Path("report.html")
    parser.add_argument("--out", metavar="FILE", type=Path, default=default, help="the page (default: %(default)s)")
    add_columns(parser)
    add_naming(parser)
    add_spread(parser)
    return parser
