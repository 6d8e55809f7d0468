"""The table: one row a configuration, with its overheads against the paired plain run."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from privacy.errors import ConfigError
from results import breakdown
from results.columns import ASSUMPTION, BY_KEY, COLUMNS, CONFIGURATION, DEFAULT, Column
from results.comparison import compare, latest
from results.labels import LAST, Parts, label_parts, text_of
from results.networks import replay
from results.networks.links import Network
from results.render import NOISE, Sheet
from results.rows import TOLD_SHARE


def table(runs: pl.DataFrame, columns: Sequence[str] | None = None, networks: Sequence[Network] = ()) -> Sheet:
    """The table of some runs, a frame of `results.runs.RUNS`.

    Args:
        runs: finished runs make the rows; the others are listed below them.
        columns: keys of `results.columns.COLUMNS`, and of `results.networks.replay.columns` of a network; None for the
        usual
            ones that were measured, and those of the networks. The configuration comes first and the trust assumption
            last in any case.
        networks: over which rounds are modelled.

    Raises:
        ConfigError: a column that does not exist.
    """
    modelled = [column for network in networks for column in replay.columns(network)]
    allowed = BY_KEY | {column.key: column for column in modelled}
    chosen = None if columns is None else _columns(columns, allowed)
    compared = compare(replay.with_modelled(runs, networks), (*COLUMNS, *modelled))
    rows = _labelled(compared.to_dicts())
    usual = [BY_KEY[key] for key in DEFAULT] + modelled
    shown = (CONFIGURATION, *(_measured(compared, usual) if chosen is None else chosen), ASSUMPTION)
    meanings = _meanings(shown, rows) + ([replay.NOTE, *map(replay.note, networks)] if networks else [])
    return Sheet(shown, rows, _unfinished(runs), (*meanings, *_notes(shown, rows), *_repetitions(runs)))


def phases(runs: pl.DataFrame, columns: Sequence[str] | None = None, steps: bool = False) -> Sheet:
    """The table of `results.breakdown.breakdown`: a row for each configuration, party and phase.

    Args:
        runs: a frame of `results.runs.RUNS`.
        columns: keys of the breakdown's columns; None for those that were measured.
        steps: add a row for each step of a phase.

    Raises:
        ConfigError: a column that does not exist.
    """
    usual = breakdown.COLUMNS_WITH_STEPS if steps else breakdown.COLUMNS
    chosen = None if columns is None else _columns(columns, {column.key: column for column in (CONFIGURATION, *usual)})
    found = breakdown.breakdown(runs, steps)
    rows = _labelled(found.to_dicts())
    shown = (CONFIGURATION, *(_measured(found, usual) if chosen is None else chosen))
    notes = (*breakdown.NOTES, *(breakdown.STEP_NOTES if steps else ()))
    return Sheet(shown, rows, _unfinished(runs), (*notes, *_meanings(shown, rows)))


def _columns(keys: Sequence[str], allowed: Mapping[str, Column]) -> list[Column]:
    for key in keys:
        if key not in allowed:
            raise ConfigError.of("--columns", key, f"no such column; allowed are {', '.join(allowed)}")
    return [allowed[key] for key in keys if allowed[key] not in (CONFIGURATION, ASSUMPTION)]


def _measured(compared: pl.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns that hold any figure; overheads only where a row is compared with plain."""
    others = compared.filter(~pl.col("plain"))
    return [column for column in columns if (others if column.source else compared)[column.key].count() > 0]


def _labelled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their labels, each plain row before those compared with it.

    `identity` keeps the former `configuration`, and `parts` the parts of its label.
    """
    parts = _parts(row["configuration"] for row in rows)
    told = [{**row, "identity": row["configuration"], "parts": parts[row["configuration"]]} for row in rows]
    ordered = sorted(told, key=lambda row: _order(row, row["parts"]))
    return [{**row, "configuration": text_of(row["parts"])} for row in ordered]


def _parts(configurations: Iterable[str]) -> dict[str, Parts]:
    """The keys that distinguish each configuration from the others."""
    known = list(dict.fromkeys(configurations))
    return dict(zip(known, label_parts([json.loads(text) for text in known]), strict=True))


def _order(row: Mapping[str, Any], parts: Parts) -> tuple[object, ...]:
    shared = [_natural(f"{key}={value}") for key, value in parts.items() if key.partition(".")[0] not in LAST]
    return shared, not row["plain"], parts.get("mechanism", "none") != "none", _natural(text_of(parts))


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """A sort key that puts `clients=5` before `clients=10`."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(False, float(piece), "") if index % 2 else (True, 0.0, piece) for index, piece in enumerate(pieces)]


def _unfinished(runs: pl.DataFrame) -> list[dict[str, Any]]:
    others = runs.filter(~pl.col("summarised")).to_dicts()
    parts = _parts(runs["configuration"].drop_nulls()) if others else {}
    return [{**run, "configuration": text_of(parts.get(run["configuration"], {}))} for run in others]


def _notes(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on figures with fewer seeds than their row, and on runs that stopped before their last round."""
    partial = [note for row in rows for column in columns if (note := _partial(row, column))]
    cut = [
        f"{row['configuration']}: {100 * row['cut_share']:.2g} % of a round's values were cut to secure_sum.bound, "
        "which is no cost of privacy."
        for row in rows
        if (row["cut_share"] or 0.0) >= TOLD_SHARE
    ]
    stopped = [f"{row['configuration']}: {row['status']}." for row in rows if row["status"] != "finished"]
    return [*partial, *cut, *stopped]


def _meanings(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on the meaning of the signs."""
    several = any(row["seeds"] > 1 for row in rows)
    kinds = {column.kind for column in columns}
    paired = {"ratio", "difference"}
    largest = [column.heading for column in columns if column.kind == "largest"]
    meaning = {
        "± is half the width of the 95 % t interval over seeds.": several and kinds & {"mean", "difference"},
        "Compared with plain: the plain run of the same seed and otherwise the same configuration.": kinds & paired,
        "Ratios are geometric means over seeds [95 % interval].": several and "ratio" in kinds,
        f"{NOISE}: the interval contains no difference from plain, so it may be noise.": _any_noise(columns, rows),
        "A comparison over one seed has no interval, so it may be noise.": _any_single(columns, rows),
        f"{' and '.join(largest)} {'is' if len(largest) == 1 else 'are'} the largest of any seed.": several and largest,
    }
    return [note for note, wanted in meaning.items() if wanted]


def _any_noise(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row.get(f"{column.key}_ns") for row in rows for column in columns)


def _any_single(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> bool:
    others = [row for row in rows if not row["plain"]]
    return any(row[f"{column.key}_n"] == 1 for row in others for column in columns if column.source)


def _partial(row: Mapping[str, Any], column: Column) -> str | None:
    n = row.get(f"{column.key}_n", 0)
    if not 0 < n < row["seeds"] or row[column.key] is None:
        return None
    return f"{column.heading} of {row['configuration']}: from {n} of {row['seeds']} seeds."


def _repetitions(runs: pl.DataFrame) -> list[str]:
    """A note on runs left out because a later run repeats their configuration and seed."""
    finished = runs.filter("summarised")
    left_out = finished.join(latest(finished), on="path", how="anti")["path"]
    return [f"Left out, since a later run repeats it: {path}." for path in left_out]
