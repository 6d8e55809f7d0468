"""`fedveil table`: one row a configuration, with its overheads against the paired plain run."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from privacy.errors import ConfigError
from results import render
from results.columns import ASSUMPTION, BY_KEY, CONFIGURATION, DEFAULT, Column
from results.comparison import compare, latest
from results.labels import LAST, Parts, label_parts, text_of
from results.plot import plot
from results.render import Sheet
from results.runs import collect, find_runs

FORMATS: dict[str, Callable[[Sheet], str]] = {
    "terminal": lambda sheet: render.terminal(sheet, shutil.get_terminal_size((120, 24)).columns),
    "markdown": render.markdown,
    "csv": render.csv,
    "latex": render.latex,
}
SUFFIXES = {".csv": "csv", ".tex": "latex"}


class Parser(argparse.ArgumentParser):
    """Raises what is wrong with a command line, instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        """In one line, as a ConfigError."""
        raise ConfigError(f"{self.prog}: {message}")


def main(argv: Sequence[str]) -> int:
    """Print the table of the runs named in `argv`, or write it to a file; returns the exit status.

    Raises:
        ConfigError: an unknown option or column, a folder without runs, a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    columns = None if options.columns is None else [key.strip() for key in options.columns.split(",") if key.strip()]
    runs = collect(find_runs(options.runs))
    sheet = table(runs, columns)
    if options.plot is not None:
        plot(runs, options.plot)
    text = FORMATS[options.format or _usual_format(options.out)](sheet)
    if options.out is None:
        print(text, end="")
    else:
        _write(options.out, text)
    return 0


def table(runs: pl.DataFrame, columns: Sequence[str] | None = None) -> Sheet:
    """What to print of some runs, a frame of `results.runs.RUNS`.

    Args:
        runs: finished ones make the rows; the others are listed below them.
        columns: keys of `results.columns.COLUMNS`; None for the usual ones that were measured. The configuration
            comes first and the trust assumption last in any case.

    Raises:
        ConfigError: a column that does not exist.
    """
    chosen = None if columns is None else _columns(columns)
    compared = compare(runs)
    rows = _labelled(compared.to_dicts())
    shown = (CONFIGURATION, *(_measured(compared) if chosen is None else chosen), ASSUMPTION)
    unfinished = _unfinished(runs)
    return Sheet(shown, rows, unfinished, (*_notes(shown, rows), *_repetitions(runs)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fedveil table", description=f"{__doc__}", allow_abbrev=False)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        default=[Path("results", "runs")],
        help="a run, or a folder of runs",
    )
    parser.add_argument("--format", choices=FORMATS, help="the usual one: terminal on a terminal, markdown elsewhere")
    parser.add_argument("--columns", metavar="A,B,...", help=f"among {', '.join(_allowed())}")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw accuracy and phases too: .png, .pdf or .svg")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there; .csv and .tex choose their format")
    return parser


def _usual_format(out: Path | None) -> str:
    if out is not None:
        return SUFFIXES.get(out.suffix, "markdown")
    return "terminal" if sys.stdout.isatty() else "markdown"


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of("--out", out, f"cannot be written ({error.strerror})") from error


def _allowed() -> list[str]:
    return list(BY_KEY)


def _columns(keys: Sequence[str]) -> list[Column]:
    for key in keys:
        if key not in BY_KEY:
            raise ConfigError.of("--columns", key, f"no such column; allowed are {', '.join(_allowed())}")
    return [BY_KEY[key] for key in keys if BY_KEY[key] not in (CONFIGURATION, ASSUMPTION)]


def _measured(compared: pl.DataFrame) -> list[Column]:
    """The usual columns that hold anything; overheads only where there is something to compare with plain."""
    others = compared.filter(~pl.col("plain"))
    return [BY_KEY[key] for key in DEFAULT if (others if BY_KEY[key].source else compared)[key].count() > 0]


def _labelled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their labels, each plain one before those that are compared with it."""
    parts = label_parts([json.loads(row["configuration"]) for row in rows])
    ordered = sorted(zip(rows, parts, strict=True), key=lambda pair: _order(pair[0], pair[1]))
    return [{**row, "configuration": text_of(part)} for row, part in ordered]


def _order(row: Mapping[str, Any], parts: Parts) -> tuple[object, ...]:
    shared = [_natural(f"{key}={value}") for key, value in parts.items() if key.partition(".")[0] not in LAST]
    return shared, not row["plain"], parts.get("mechanism", "none") != "none", _natural(text_of(parts))


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """Sorts `clients=5` before `clients=10`."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(False, float(piece), "") if index % 2 else (True, 0.0, piece) for index, piece in enumerate(pieces)]


def _unfinished(runs: pl.DataFrame) -> list[dict[str, Any]]:
    others = runs.filter(~pl.col("summarised")).to_dicts()
    known = runs["configuration"].drop_nulls().unique(maintain_order=True).to_list()
    labels = dict(zip(known, map(text_of, label_parts([json.loads(text) for text in known])), strict=True))
    return [{**run, "configuration": labels.get(run["configuration"], "")} for run in others]


def _notes(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the signs mean, and which figures rest on fewer seeds than their row."""
    several = any(row["seeds"] > 1 for row in rows)
    kinds, paired = {column.kind for column in columns}, {"ratio", "difference"}
    largest = [column.heading for column in columns if column.kind == "largest"]
    meaning = {
        "± is half the width of the 95 % t interval over seeds.": several and kinds & {"mean", "difference"},
        "Compared with plain: the plain run of the same seed and otherwise the same configuration.": kinds & paired,
        "Ratios are geometric means over seeds [95 % interval].": several and "ratio" in kinds,
        f"{' and '.join(largest)} {'is' if len(largest) == 1 else 'are'} the largest of any seed.": several and largest,
    }
    partial = [note for row in rows for column in columns if (note := _partial(row, column))]
    stopped = [f"{row['configuration']}: {row['status']}." for row in rows if row["status"] != "finished"]
    return [note for note, wanted in meaning.items() if wanted] + partial + stopped


def _partial(row: Mapping[str, Any], column: Column) -> str | None:
    n = row.get(f"{column.key}_n", 0)
    if not 0 < n < row["seeds"] or row[column.key] is None:
        return None
    return f"{column.heading} of {row['configuration']}: from {n} of {row['seeds']} seeds."


def _repetitions(runs: pl.DataFrame) -> list[str]:
    """Runs that are no row because a later one repeats their configuration and seed."""
    finished = runs.filter("summarised")
    left_out = finished.join(latest(finished), on="path", how="anti")["path"]
    return [f"Left out, since a later run repeats it: {path}." for path in left_out]
