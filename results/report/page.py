"""One HTML file: the table, its plots, and the provenance of each row. It loads nothing from elsewhere."""

import html
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from results.columns import Column
from results.environment import anonymous
from results.plots.points import HIGHER_IS_BETTER
from results.render import Sheet, cell
from results.report.content import Commands, identity

HERE = Path(__file__).parent
BEFORE_A_SPREAD = re.compile(r" (?=[±\[])")


def page(sheet: Sheet, content: Mapping[str, Any], command: Commands, bars: str) -> str:
    """The whole HTML file.

    Args:
        sheet: the table, as `fedveil table` prints it.
        content: the data of `results.report.content`, for the plots and for the details under a row.
        bars: what the bars of the plots are.
        command: gives the command that reproduces the configuration of an unfinished run.
    """
    plotly = get_plotlyjs()
    assert "</script" not in plotly.lower(), "the library must not hold the end tag of a script"
    return string.Template(_own("report.html")).substitute(
        style=_own("report.css"),
        script=_own("report.js"),
        plotly=plotly,
        data=_json(content),
        made=f"fedveil {metadata.version('fedveil')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        count=len(sheet.rows),
        bars=html.escape(bars),
        orders="".join(_orders(sheet.columns)),
        head="".join(_heading(column) for column in sheet.columns),
        body="\n".join(_row(number, row, sheet.columns) for number, row in enumerate(sheet.rows)),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes),
        choices="".join(_choices(content["columns"])),
        unfinished=_unfinished(sheet.unfinished, command),
    )


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _json(values: Mapping[str, Any]) -> str:
    """JSON for a script element; no text in it can end the element, or begin a comment."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _heading(column: Column) -> str:
    kind = "text" if column.kind == "text" else "number"
    return f'<th scope="col" class="{kind}"><button type="button">{html.escape(column.heading)}</button></th>'


def _row(number: int, row: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """A line of the table; `data-value` is the sort key of a cell."""
    label, *others = columns
    opener = f'<button type="button" aria-expanded="false">{html.escape(cell(row, label))}</button>'
    cells = "".join(_cell(row, column) for column in others)
    return f'<tr data-row="{number}"><th scope="row">{opener}</th>{cells}</tr>'


def _cell(row: Mapping[str, Any], column: Column) -> str:
    text = html.escape(cell(row, column))
    value = row[column.key]
    named = f'data-heading="{html.escape(column.heading)}"'  # shown where a row is a card
    if column.kind == "text":
        return f'<td class="text {column.key}" {named}>{text}</td>'
    parts = " ".join(f"<span>{part}</span>" for part in BEFORE_A_SPREAD.split(text))
    return f'<td class="number" {named} data-value="{"" if value is None else repr(value)}">{parts}</td>'


def _orders(columns: Sequence[Column]) -> Iterable[str]:
    """The options of the orders that a page without headings, on a phone, can have."""
    for place, column in enumerate(columns):
        yield f'<option value="{place}">{html.escape(column.heading)}</option>'


def _choices(columns: Iterable[Sequence[Any]]) -> Iterable[str]:
    """The options of the overheads that accuracy can be drawn against."""
    for key, heading, _ in columns:
        if key not in HIGHER_IS_BETTER:
            yield f'<option value="{html.escape(key)}">{html.escape(heading)}</option>'


def _unfinished(runs: Sequence[Mapping[str, Any]], command: Commands) -> str:
    """The section of runs without figures; empty where all have figures."""
    if not runs:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("configuration", "status", "error", "run", "command"))
    lines = [
        (
            run["configuration"] or "",
            run["status"],
            run["error"] or "",
            anonymous(run["path"]),
            identity(Path(run["path"]), command)["command"] or "",
        )
        for run in runs
    ]
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in line)}</tr>" for line in lines)
    title = f"<h2>Without figures ({len(runs)})</h2>"
    return f'<section id="unfinished">{title}<div class="wide"><table><tr>{head}</tr>{body}</table></div></section>'
