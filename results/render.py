"""A grid of figures as Markdown, LaTeX, CSV, or a table for the terminal."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from results.columns import Column

DASH = "–"  # noqa: RUF001  (what was never measured)

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
    """What is printed: columns, one mapping a row (as `results.comparison.compare` names things), lines below.

    `unfinished` holds `path`, `configuration`, `status` and `error` of each run that has no figures.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    unfinished: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()


def markdown(sheet: Sheet) -> str:
    """A table that is as readable unrendered."""
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in _grid(sheet)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    right = [_is_number(column) for column in sheet.columns]
    rule = ["-" * (width - 1) + ":" if number else "-" * width for width, number in zip(widths, right, strict=True)]
    lines = [escaped[0], rule, *escaped[1:]]
    return "".join(f"| {' | '.join(_padded(line, widths, right))} |\n" for line in lines) + _below(sheet)


def latex(sheet: Sheet) -> str:
    """A `tabular` with booktabs' rules; text has columns with a width, since it may be long."""
    head, *body = [
        " & ".join(_latex(text, _is_number(column)) for text, column in zip(line, sheet.columns, strict=True)) + r" \\"
        for line in _grid(sheet)
    ]
    kinds = "".join("r" if _is_number(column) else "p{4cm}" for column in sheet.columns)
    rules = [rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    below = [rf"\par\footnotesize {_latex(line)}" for line in _lines_below(sheet)]
    return "\n".join(["% needs \\usepackage{booktabs}", *rules, r"\end{tabular}", *below]) + "\n"


def csv(sheet: Sheet) -> str:
    """Raw figures in full precision: KEY, KEY_low, KEY_high (95 % interval), KEY_n; unfinished runs are rows too."""
    known = ("configuration", "status", "error", "path")
    schema = dict.fromkeys(known, pl.String()) | {
        k: kind for column in sheet.columns for k, kind in _raw(column).items()
    }
    finished = [{key: row.get(key) for key in schema} for row in sheet.rows]
    unfinished = [{key: run[key] for key in known} for run in sheet.unfinished]
    return pl.DataFrame([*finished, *unfinished], schema=schema).write_csv()


def terminal(sheet: Sheet, width: int) -> str:
    """A table of at most `width` characters, without colours; where it would be wider, configurations stand side by
    side as columns, as many as there is room for, and the others below them.
    """
    lines = [
        [_stacked(text, column) for text, column in zip(line, sheet.columns, strict=True)] for line in _grid(sheet)
    ]
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    upright = _rich(lines, [_is_number(column) for column in sheet.columns])
    if Measurement.get(console, console.options.update(max_width=9999), upright).minimum <= width:
        tables = [upright]
    else:
        tables = _side_by_side(lines, width)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n" + _below(sheet)


def cell(row: Mapping[str, Any], column: Column) -> str:
    """A figure under its heading: `94.12 ± 0.35`, `3.16 [3.01, 3.32]`, or a dash for what was not measured."""
    value = row[column.key]
    if value is None:
        return DASH
    if column.kind in ("text", "count"):
        return str(value)
    low, high = (row[f"{column.key}{bound}"] for bound in ("_low", "_high"))
    if low is None:
        return _figure(column, value * column.scale, None)
    return _figure(column, value * column.scale, (low * column.scale, high * column.scale))


def _figure(column: Column, value: float, bounds: tuple[float, float] | None) -> str:
    half = 0.0 if bounds is None else (bounds[1] - bounds[0]) / 2
    # Bytes are the same for all seeds, and an interval of no width says nothing.
    if bounds is None or half <= 1e-9 * abs(value):
        return _rounded(column, value, 0)
    if column.kind == "ratio":
        low, high = (_rounded(column, bound, half) for bound in bounds)
        return f"{_rounded(column, value, half)} [{low}, {high}]"
    return f"{_rounded(column, value, half)} ± {_rounded(column, half, half).removeprefix('+')}"


def _rounded(column: Column, value: float, half: float) -> str:
    """Four significant digits (a ratio: three), but no more than two of the uncertainty, or than the column allows."""
    digits = {3 if column.kind == "ratio" else 4: value, 2: half}
    decimals = min([column.decimals, *(_decimals(figure, count) for count, figure in digits.items() if figure)])
    return f"{value:{'+' if column.kind == 'difference' else ''}z.{decimals}f}"


def _decimals(figure: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(figure))))


def _grid(sheet: Sheet) -> list[list[str]]:
    """Headings, then a line a row."""
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
    return {**figures, f"{column.key}_n": pl.Int64()}


def _latex(text: str, number: bool = False) -> str:
    escaped = text.translate(LATEX)
    return re.sub(r"-(?=\d)", "$-$", escaped) if number else escaped


def _stacked(text: str, column: Column) -> str:
    """Broken where it reads well: a figure above its uncertainty, a configuration a key a line."""
    if column.key == "configuration":
        return text.replace(" ", "\n")
    return re.sub(r" (?=[±\[(/])", "\n", text) if _is_number(column) else text


def _rich(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for index, (heading, number) in enumerate(zip(lines[0], right, strict=True)):
        text = index > 0 and not number  # only sentences may be wrapped
        table.add_column(
            Text(heading), justify="right" if number else "left", no_wrap=not text, min_width=24 if text else None
        )
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table


def _side_by_side(lines: Sequence[Sequence[str]], width: int) -> list[RichTable]:
    head, *body = ([text.replace("\n", " ") for text in line[1:]] for line in lines)
    step = max(1, (width - max(map(len, head))) // 26)
    tables = []
    for start in range(0, len(body), step):
        labels = [line[0] for line in lines[1 + start : 1 + start + step]]
        across = zip(head, *body[start : start + step], strict=True)
        tables.append(_rich([["", *labels], *across], [False] * (1 + len(labels))))
    return tables


def _below(sheet: Sheet) -> str:
    return "".join(f"\n{line}\n" for line in _lines_below(sheet))


def _lines_below(sheet: Sheet) -> list[str]:
    paragraphs = [" ".join(sheet.notes)] if sheet.notes else []
    return [*paragraphs, *map(_unfinished_line, sheet.unfinished)]


def _unfinished_line(run: Mapping[str, Any]) -> str:
    label = f" ({run['configuration']})" if run["configuration"] else ""
    reason = f": {run['error']}" if run["error"] else ""
    return f"{run['status']}{reason}: {run['path']}{label}"
