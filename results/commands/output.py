"""Shared code of the commands that print tables: arguments, formats and destinations."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, get_args

import polars as pl
from polars.exceptions import PolarsError

from privacy.errors import ConfigError
from results import render
from results.columns import BY_KEY
from results.comparison import Spread
from results.naming.names import Naming
from results.networks.links import names
from results.render import Sheet

FORMATS: dict[str, Callable[[Sheet], str]] = {
    "terminal": lambda sheet: render.terminal(sheet, shutil.get_terminal_size((120, 24)).columns),
    "markdown": render.markdown,
    "csv": render.csv,
    "latex": render.latex,
}
SUFFIXES = {".csv": "csv", ".tex": "latex"}


class Parser(argparse.ArgumentParser):
    """A parser that raises the error in a command line instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the message on one line, as a ConfigError."""
        raise ConfigError(f"{self.prog}: {message}")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The argument that names runs."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        default=[Path("results", "runs")],
        help="a run, or a folder of runs",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options for format and file."""
    parser.add_argument("--format", choices=FORMATS, help="default: terminal on a terminal, markdown elsewhere")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write to this file; .csv and .tex choose their format"
    )


def deliver(sheet: Sheet, form: str | None, out: Path | None, exact: pl.DataFrame | None = None) -> None:
    """Print a table, or write it to a file; without a format, the file or the terminal decides it.

    Args:
        sheet: the table.
        form: a key of `FORMATS`, or None.
        out: the file, or None to print.
        exact: the frame for CSV, where the sheet lacks the raw figures.

    Raises:
        ConfigError: the file cannot be written, or CSV cannot hold it.
    """
    chosen = form or _usual_format(out)
    text = FORMATS[chosen](sheet) if exact is None or chosen != "csv" else _csv(exact)
    if out is None:
        print(text, end="")
    else:
        write(out, text)


def _usual_format(out: Path | None) -> str:
    if out is not None:
        return SUFFIXES.get(out.suffix, "markdown")
    return "terminal" if sys.stdout.isatty() else "markdown"


def _csv(frame: pl.DataFrame) -> str:
    try:
        return frame.write_csv()
    except PolarsError as error:
        raise ConfigError.of("--format", "csv", " ".join(str(error).split())) from error


def write(out: Path, text: str) -> None:
    """Write the file named by `--out`.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of("--out", out, f"cannot be written ({error.strerror})") from error


def split(text: str | None) -> list[str]:
    """The words of `A,B,...`."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the columns of a table."""
    parser.add_argument("--columns", metavar="A,B,...", help=f"among {', '.join(BY_KEY)}, and those of a --network")
    add_networks(parser)


def add_naming(parser: argparse.ArgumentParser) -> None:
    """Add the options for the names of rows, and for the plain rows among them."""
    parser.add_argument(
        "--rename",
        metavar="OLD=NEW",
        action="append",
        default=[],
        help="call a backend or a whole row otherwise, as in --rename CKKS='HE (ours)'; may be repeated",
    )
    parser.add_argument(
        "--plain",
        choices=("one", "all"),
        help="a plain row for each weighting of clients too, or one where no backend occurs with two weightings "
        "(default: one, in CSV, which has no notes, all)",
    )


def naming(options: argparse.Namespace) -> Naming:
    """Read the options of `add_naming`, and the format where there is one."""
    is_csv = "format" in options and (options.format or _usual_format(options.out)) == "csv"
    return Naming(tuple(options.rename), (options.plain or ("all" if is_csv else "one")) == "all")


def add_spread(parser: argparse.ArgumentParser, default: Spread | None = "ci", usual: str = "ci") -> None:
    """Add the option for what stands beside a mean."""
    parser.add_argument(
        "--spread",
        choices=get_args(Spread),
        default=default,
        help="beside means over seeds: the 95 %% interval, the standard deviation, or the least and the largest "
        f"(default: {usual})",
    )


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Add the option for modelled rounds."""
    parser.add_argument(
        "--network",
        metavar="A,B,...",
        help=f"model rounds over other links: {', '.join(names())}, or a YAML file like results/networks/wan_1g.yaml",
    )
