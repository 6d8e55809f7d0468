"""`fedveil table`: one row a configuration, with its overheads against the paired plain run."""

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import ConfigError
from results.commands.output import (
    Parser,
    add_columns,
    add_naming,
    add_output,
    add_runs,
    add_spread,
    deliver,
    naming,
    split,
)
from results.index import collect_under
from results.networks.links import load
from results.table import phases, table


def main(argv: Sequence[str]) -> int:
    """Print the table of the runs named in `argv`, or write it to a file; returns the exit status.

    Raises:
        ConfigError: an unknown option or column, a folder without runs, a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    columns = None if options.columns is None else split(options.columns)
    networks = [load(name) for name in split(options.network)]
    if networks and options.breakdown:
        raise ConfigError.of("--network", options.network, "models whole rounds; leave --breakdown out")
    if options.steps and not options.breakdown:
        raise ConfigError("--steps: divides the phases of --breakdown; add --breakdown, or leave --steps out")
    with _uncollected():
        runs = collect_under(options.runs)
        names = naming(options)
        if options.breakdown:
            sheet = phases(runs, columns, options.steps, names, options.spread)
        else:
            sheet = table(runs, columns, networks, names, options.spread)
    if options.plot is not None:
        from results.plots.overview import overview  # with it matplotlib

        overview(runs, options.plot, naming=names)
    deliver(sheet, options.format, options.out)
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector: it takes a tenth of the time over millions of objects without cycles."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fedveil table", description=f"{__doc__}", allow_abbrev=False)
    add_runs(parser)
    add_output(parser)
    add_columns(parser)
    add_naming(parser)
    add_spread(parser)
    parser.add_argument("--breakdown", action="store_true", help="seconds and bytes, one line by party and phase")
    parser.add_argument("--steps", action="store_true", help="with --breakdown: a line for each step of a phase too")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw accuracy and phases too: .png, .pdf or .svg")
    return parser
