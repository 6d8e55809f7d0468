"""The table: one row a configuration, with its overheads against the paired plain run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from privacy.errors import ConfigError
from results import breakdown
from results.columns import ASSUMPTION, BY_KEY, COLUMNS, CONFIGURATION, DEFAULT, Column
from results.comparison import Spread, compare, latest
from results.measurements import TOLD_SHARE
from results.naming.names import USUAL, Names, Naming
from results.networks import replay
from results.networks.links import Network
from results.render import NOISE, Sheet


class SpreadWords(NamedTuple):
    """What the bounds of figures and of ratios are, in words for a note, and for the legend of a plot."""

    figures: str
    ratios: str
    bars: str


SPREADS: dict[Spread, SpreadWords] = {
    "ci": SpreadWords("± is half the width of the 95 % t interval over seeds.", "95 % interval", "95 % intervals"),
    "std": SpreadWords(
        "± is the standard deviation over seeds.",
        "one standard deviation of their logarithms",
        "standard deviations over seeds",
    ),
    "range": SpreadWords(
        "[ ] holds the least and the largest figure of a seed.", "least, largest", "least to largest seed"
    ),
}


def usual_spread(runs: pl.DataFrame) -> Spread:
    """The spread that a plot shows: the interval, or the range where two seeds would make it many times as wide."""
    seeds = latest(runs.filter("summarised")).group_by("configuration").len()["len"]
    return "ci" if (seeds >= 3).all() or (seeds == 1).all() else "range"


def table(
    runs: pl.DataFrame,
    columns: Sequence[str] | None = None,
    networks: Sequence[Network] = (),
    naming: Naming = USUAL,
    spread: Spread = "ci",
) -> Sheet:
    """The table of some runs, a frame of `results.runs.RUNS`.

    Args:
        runs: finished runs make the rows; the others are listed below them.
        columns: keys of `results.columns.COLUMNS`, and of `results.networks.replay.columns` of a network; None for the
        usual
            ones that were measured, and those of the networks. The configuration comes first and the trust assumption
            last in any case.
        networks: over which rounds are modelled.
        naming: how rows are named, and whether each plain run has one.
        spread: what stands beside the mean over seeds, see `results.comparison.compare`.

    Raises:
        ConfigError: a column, or a row to rename, that does not exist.
    """
    modelled = [column for network in networks for column in replay.columns(network)]
    allowed = BY_KEY | {column.key: column for column in modelled}
    chosen = None if columns is None else _columns(columns, allowed)
    compared = compare(replay.with_modelled(runs, networks), (*COLUMNS, *modelled), spread)
    names = Names(runs, naming)
    rows = names.rows(compared.to_dicts(), spread)
    usual = [BY_KEY[key] for key in DEFAULT] + modelled
    shown = (CONFIGURATION, *(_measured(compared, usual) if chosen is None else chosen), ASSUMPTION)
    meanings = _meanings(shown, rows, spread) + ([replay.NOTE, *map(replay.note, networks)] if networks else [])
    notes = (*meanings, *names.notes(compared.to_dicts()), *_notes(shown, rows), *_repetitions(runs))
    return Sheet(shown, rows, names.unfinished(runs), notes)


def phases(
    runs: pl.DataFrame,
    columns: Sequence[str] | None = None,
    steps: bool = False,
    naming: Naming = USUAL,
    spread: Spread = "ci",
) -> Sheet:
    """The table of `results.breakdown.breakdown`: a row for each configuration, party and phase.

    Args:
        runs: a frame of `results.runs.RUNS`.
        columns: keys of the breakdown's columns; None for those that were measured.
        steps: add a row for each step of a phase.
        naming: as in `table`.
        spread: as in `table`.

    Raises:
        ConfigError: a column, or a row to rename, that does not exist.
    """
    usual = breakdown.COLUMNS_WITH_STEPS if steps else breakdown.COLUMNS
    chosen = None if columns is None else _columns(columns, {column.key: column for column in (CONFIGURATION, *usual)})
    found = breakdown.breakdown(runs, steps, spread)
    names = Names(runs, naming)
    rows = names.rows(found.to_dicts(), spread)
    shown = (CONFIGURATION, *(_measured(found, usual) if chosen is None else chosen))
    notes = (*breakdown.NOTES, *(breakdown.STEP_NOTES if steps else ()))
    left_out = names.notes(found.to_dicts())
    return Sheet(shown, rows, names.unfinished(runs), (*notes, *_meanings(shown, rows, spread), *left_out))


def _columns(keys: Sequence[str], allowed: Mapping[str, Column]) -> list[Column]:
    for key in keys:
        if key not in allowed:
            raise ConfigError.of("--columns", key, f"no such column; allowed are {', '.join(allowed)}")
    return [allowed[key] for key in keys if allowed[key] not in (CONFIGURATION, ASSUMPTION)]


def _measured(compared: pl.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns that hold any figure; overheads only where a row is compared with plain."""
    others = compared.filter(~pl.col("plain"))
    return [column for column in columns if (others if column.source else compared)[column.key].count() > 0]


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


def _meanings(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], spread: Spread) -> list[str]:
    """Notes on the meaning of the signs."""
    several = any(row["seeds"] > 1 for row in rows)
    kinds = {column.kind for column in columns}
    averaged = kinds & {"mean", "difference"}
    largest = [column.heading for column in columns if column.kind == "largest"]
    told = SPREADS[spread]
    meaning = {
        told.figures: several and averaged,
        "With two seeds that is 12.7 standard errors to each side; --spread range shows both figures.": (
            spread == "ci" and averaged and any(row["seeds"] == 2 for row in rows)
        ),
        "Compared with plain: the plain run of the same seed and otherwise the same configuration.": (
            kinds & {"ratio", "difference"}
        ),
        f"Ratios are geometric means over seeds [{told.ratios}].": several and "ratio" in kinds,
        f"{NOISE}: the 95 % interval contains no difference from plain, so it may be noise.": (
            _any_noise(columns, rows)
        ),
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
