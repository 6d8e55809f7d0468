"""The data of a report besides its table: figures to draw, threat cards, provenance and commands, as JSON values."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from privacy.errors import RunRefused
from results import breakdown, files
from results.columns import Column
from results.comparison import latest
from results.environment import anonymous
from results.naming.labels import pieces, text_of
from results.plots.phases import SEGMENTS, divided
from results.plots.points import HIGHER_IS_BETTER, MOST_PERCENT, NUMBERS, figure
from results.plots.style import COLOURS
from results.render import Sheet
from results.store import CONFIG, RunDirectory

Commands = Callable[[Mapping[str, Any]], str | None]  # a run's configuration -> its command
PHASE = next(column for column in breakdown.COLUMNS if column.key == "phase_s")
DIGITS = 6  # digits of a drawn figure; the table has its own format


class Shared:
    """Values shared by many runs, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """The index of a value in `values`."""
        place = self._places.setdefault(json.dumps(value), len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place


def content(
    runs: pl.DataFrame, sheet: Sheet, phases: Sheet, columns: Sequence[Column], command: Commands
) -> dict[str, Any]:
    """All data that the page's script reads.

    Args:
        runs: a frame of `results.runs.RUNS`.
        sheet: their table.
        phases: their breakdown, `results.table.phases`.
        columns: all columns; those with figures can be drawn.
        command: gives the command that reproduces a configuration.

    Raises:
        RunRefused: a file of a run is damaged.
    """
    cards = Shared()
    environments = Shared()
    finished: dict[str, list[dict[str, Any]]] = {}
    for run in latest(runs.filter("summarised")).sort("seed").to_dicts():
        told = {**_told(Path(run["path"]), cards, environments, command), "seed": run["seed"], "status": run["status"]}
        finished.setdefault(run["configuration"], []).append(told)
    drawn = [column for column in columns if _is_drawn(column, sheet.rows)]
    bars = divided(phases.rows, PHASE)
    return {
        "columns": [[column.key, column.heading, column.key in HIGHER_IS_BETTER] for column in drawn],
        "mostPercent": MOST_PERCENT,
        "rows": [
            {
                "label": row["configuration"],
                "pieces": pieces(row["configuration"]),
                "keys": text_of(row["parts"]),
                "backend": row["name"],
                "plain": row["plain"],
                "assumption": row["assumption"],
                "figures": {column.key: _drawn(row, column) for column in drawn},
                "phases": _bar(bars.get(row["configuration"], {})),
                "runs": finished[row["identity"]],
            }
            for row in sheet.rows
        ],
        "cards": cards.values,
        "environments": environments.values,
        "phases": [[segment.label, segment.colour, segment.hatch[:1]] for segment in SEGMENTS],
        "phasesHeading": PHASE.heading,
        "colours": COLOURS,
    }


def _is_drawn(column: Column, rows: Sequence[Mapping[str, Any]]) -> bool:
    return column.kind in NUMBERS and any(row.get(column.key) is not None for row in rows)


def _drawn(row: Mapping[str, Any], column: Column) -> list[float] | None:
    """A figure for drawing, and its interval if it has one."""
    found = figure(row, column)
    return None if found is None else [_short(number) for number in found if number is not None]


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _bar(amounts: Mapping[tuple[str, str], float]) -> list[float]:
    """The lengths of a bar's segments; empty where nothing was measured."""
    widths = [_short(amounts.get((segment.party, segment.phase), 0.0)) for segment in SEGMENTS]
    return widths if any(widths) else []


def _told(path: Path, cards: Shared, environments: Shared, command: Commands) -> dict[str, Any]:
    """The provenance of one finished run."""
    summary = RunDirectory(path).summary() or {}
    return {
        "folder": anonymous(str(path)),
        "data": summary.get("data_origin"),
        "device": summary.get("device"),
        "weights": summary.get("weights_sha256"),
        "card": cards.place(summary.get("threat_card") or []),
        "environment": environments.place(_environment(path)),
        **identity(path, command),
    }


def identity(path: Path, command: Commands) -> dict[str, Any]:
    """The hash of a run's configuration, and its command; None for both without a configuration."""
    try:
        text = (path / CONFIG).read_bytes()
        return {"hash": hashlib.sha256(text).hexdigest(), "command": command(json.loads(text))}
    except (OSError, ValueError):
        return {"hash": None, "command": None}


def _environment(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path / "environment.json") or {}
    except RunRefused as error:  # the run contributes no figure
        return {"error": str(error)}
