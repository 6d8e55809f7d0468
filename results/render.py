"""A grid of figures as Markdown, LaTeX, CSV, or a table for the terminal."""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from results.columns import Column
from results.naming.labels import pieces

DASH = "–"  # noqa: RUF001  (what was never measured)

NOISE = "ns"  # after a difference that the seeds do not distinguish from noise

SENTENCE = 28  # most characters in a line of text on a terminal

LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "ε": r"$\varepsilon$",
        DASH: "--",
        "\n": " ",
    }
)


@dataclass(frozen=True)
class Sheet:
    """A table to print: columns, one mapping a row (with the keys of `results.comparison.compare`), lines below.

    `unfinished` holds `path`, `configuration`, `status` and `error` of each run without figures.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    unfinished: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()


def markdown(sheet: Sheet) -> str:
    """A Markdown table that is readable as plain text."""
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in _grid(sheet)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    right = [_is_number(column) for column in sheet.columns]
    rule = ["-" * (width - 1) + ":" if number else "-" * width for width, number in zip(widths, right, strict=True)]
    lines = [escaped[0], rule, *escaped[1:]]
    return "".join(f"| {' | '.join(_padded(line, widths, right))} |\n" for line in lines) + _below(sheet)


def latex(sheet: Sheet) -> str:
    """A `tabular` with booktabs' rules; text columns have a fixed width, since text may be long."""
    head, *body = [
        " & ".join(_latex(text, _is_number(column)) for text, column in zip(line, sheet.columns, strict=True)) + r" \\"
        for line in _grid(sheet)
    ]
    kinds = "".join("r" if _is_number(column) else "p{4cm}" for column in sheet.columns)
    rules = [rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    below = [rf"\par\footnotesize {_latex(line)}" for line in _lines_below(sheet)]
    return "\n".join(["% needs \\usepackage{booktabs}", *rules, r"\end{tabular}", *below]) + "\n"


def csv(sheet: Sheet) -> str:
    """Raw figures in full precision: KEY, KEY_low, KEY_high (its spread), KEY_n; unfinished runs are rows too.

    Ratios and differences also have KEY_ns: whether the 95 % interval contains no difference.
    """
    known = ("configuration", "status", "error", "path")
    schema = dict.fromkeys(known, pl.String()) | {
        k: kind for column in sheet.columns for k, kind in _raw(column).items()
    }
    finished = [{key: row.get(key) for key in schema} for row in sheet.rows]
    unfinished = [{key: run[key] for key in known} for run in sheet.unfinished]
    return pl.DataFrame([*finished, *unfinished], schema=schema).write_csv()


def terminal(sheet: Sheet, width: int) -> str:
    """A table for a terminal of `width` characters, without colours.

    A wider table is turned: configurations stand side by side, as many as fit, the others below them.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    upright = [_upright(sheet)]
    for table in upright if _fit(console, upright) else _side_by_side(console, sheet):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n" + _below(sheet)


def cell(row: Mapping[str, Any], column: Column) -> str:
    """A figure under its heading: `94.12 ± 0.35`, `3.16 [3.01, 3.32]`, or a dash where it was not measured.

    An uncertainty has two significant digits, and its figure as many decimals; a ratio has three digits, others four.
    A range stands in brackets, too: `94.12 [93.80, 94.40]`; `spread` of a row says what its bounds are.
    `NOISE` follows a difference or ratio with an interval that contains no difference: `1.02 [0.95, 1.10] ns`.
    """
    value = row[column.key]
    if value is None:
        return DASH
    if column.key == "backend":
        return str(row.get("name", value))
    if column.kind in ("text", "count"):
        return str(value)
    low, high = (row[f"{column.key}{bound}"] for bound in ("_low", "_high"))
    if low is None:
        return _figure(column, value * column.scale, None)
    bounds = low * column.scale, high * column.scale
    figure = _figure(column, value * column.scale, bounds, row.get("spread") == "range")
    return f"{figure} {NOISE}" if row.get(f"{column.key}_ns") else figure


def _figure(column: Column, value: float, bounds: tuple[float, float] | None, extremes: bool = False) -> str:
    if bounds is None:
        return _rounded(column, value, _decimals(value, 3 if column.kind == "ratio" else 4))
    half = (bounds[1] - bounds[0]) / 2
    if column.kind == "ratio":
        middle, low, high = (_rounded(column, figure, _decimals(value, 3)) for figure in (value, *bounds))
        return middle if half <= 1e-9 * value else f"{middle} [{low}, {high}]"
    decimals = min(_decimals(value, 6), _decimals(half, 2))
    if extremes and half > 1e-9 * abs(value):
        middle, low, high = (_rounded(column, figure, decimals) for figure in (value, *bounds))
        return f"{middle} [{low}, {high}]"
    spread = _rounded(column, half, decimals).removeprefix("+")
    # Bytes are equal for all seeds; a spread of 0 is left out.
    return f"{_rounded(column, value, decimals)} ± {spread}" if float(spread) else _figure(column, value, None)


def _rounded(column: Column, value: float, decimals: int) -> str:
    return f"{value:{'+' if column.kind == 'difference' else ''}z.{min(decimals, column.decimals)}f}"


def _decimals(figure: float, digits: int) -> int:
    """The number of decimals that shows this many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(figure)))) if figure else digits


def _grid(sheet: Sheet) -> list[list[str]]:
    """The headings, then one line a row."""
    lines = [[cell(row, column) for column in sheet.columns] for row in sheet.rows]
    return [[column.heading for column in sheet.columns], *lines]


def _is_number(column: Column) -> bool:
    return column.kind != "text"


def _padded(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    cells = zip(line, widths, right, strict=True)
    return [text.rjust(width) if number else text.ljust(width) for text, width, number in cells]


def _raw(column: Column) -> dict[str, pl.DataType]:
    """The raw columns of CSV, and their types."""
    if column.kind == "text":
        return {column.key: pl.String()}
    if column.kind == "count":
        return {column.key: pl.Int64()}
    figures = {f"{column.key}{part}": pl.Float64() for part in ("", "_low", "_high")}
    compared = {f"{column.key}_ns": pl.Boolean()} if column.source else {}
    return {**figures, f"{column.key}_n": pl.Int64(), **compared}


def _latex(text: str, number: bool = False) -> str:
    escaped = text.translate(LATEX)
    return re.sub(r"-(?=\d)", "$-$", escaped) if number else escaped


def _upright(sheet: Sheet) -> RichTable:
    table = _bare()
    for column in sheet.columns:
        table.add_column(
            _stacked(column.heading, column), justify="right" if _is_number(column) else "left", no_wrap=True
        )
    for line in _grid(sheet)[1:]:
        table.add_row(*map(_stacked, line, sheet.columns))
    return table


def _stacked(text: str, column: Column) -> Text:
    """A cell broken into lines: a figure above its uncertainty, a configuration with one key a line."""
    if _is_number(column):
        return Text(re.sub(r" (?=[±\[(/])", "\n", text))
    return Text("\n".join(pieces(text)) if column.key == "configuration" else textwrap.fill(text, SENTENCE))


def _side_by_side(console: Console, sheet: Sheet) -> list[RichTable]:
    rows = sheet.rows
    for count in range(max(1, min(len(rows), console.width // 10)), 0, -1):
        parts = [replace(sheet, rows=rows[start : start + count]) for start in range(0, len(rows), count)]
        tables = [_across(part) for part in parts]
        if _fit(console, tables):
            break
    return tables


def _across(sheet: Sheet) -> RichTable:
    """The turned table: one column a configuration, one line a figure."""
    table = _bare()
    label, *others = zip(sheet.columns, *_grid(sheet), strict=True)
    table.add_column("")
    for text in label[2:]:
        table.add_column(_stacked(text, label[0]), no_wrap=True)
    for _, heading, *texts in others:
        table.add_row(heading, *(Text(textwrap.fill(text, SENTENCE)) for text in texts))
    return table


def _bare() -> RichTable:
    return RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)


def _fit(console: Console, tables: Sequence[RichTable]) -> bool:
    unlimited = console.options.update(max_width=10_000)
    return all(Measurement.get(console, unlimited, table).maximum <= console.width for table in tables)


def _below(sheet: Sheet) -> str:
    return "".join(f"\n{line}\n" for line in _lines_below(sheet))


def _lines_below(sheet: Sheet) -> list[str]:
    paragraphs = [" ".join(sheet.notes)] if sheet.notes else []
    return [*paragraphs, *map(_unfinished_line, sheet.unfinished)]


def _unfinished_line(run: Mapping[str, Any]) -> str:
    label = f" ({run['configuration']})" if run["configuration"] else ""
    reason = f": {run['error']}" if run["error"] else ""
    return f"{run['status']}{reason}: {run['path']}{label}"
