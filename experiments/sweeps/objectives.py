"""Objectives of a search (`output.objectives`): columns of the table, each with its better direction.

A Hydra sweeper such as Optuna's asks each cell for these numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from privacy.errors import ConfigError
from results.columns import BY_KEY, Column

HIGHER_IS_BETTER = ("accuracy", "accuracy_points", "macro_f1")


def directions(keys: Sequence[str]) -> list[str]:
    """`maximize` or `minimize`, for Optuna.

    Raises:
        ConfigError: a key that does not name a column of figures.
    """
    return ["maximize" if _column(key).key in HIGHER_IS_BETTER else "minimize" for key in keys]


def values(keys: Sequence[str], cell: Mapping[str, Any], twin: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The figures of a finished cell, None for one that was not measured. An unbounded epsilon is infinite.

    Args:
        keys: keys of columns.
        cell: the summary of the cell.
        twin: the summary of its plain twin, for ratios and differences; empty where there is none.
    """
    found = [_value(_column(key), cell, twin) for key in keys]
    return None if None in found else tuple(float(value) for value in found if value is not None)


def _column(key: str) -> Column:
    column = BY_KEY.get(key)
    if column is None or column.kind in ("text", "count"):
        allowed = [known.key for known in BY_KEY.values() if known.kind not in ("text", "count")]
        raise ConfigError.of("output.objectives", key, f"allowed are {', '.join(allowed)}")
    return column


def _value(column: Column, cell: Mapping[str, Any], twin: Mapping[str, Any]) -> float | None:
    own = cell.get(column.source or column.key)
    if column.key == "epsilon" and own is None:
        return math.inf
    if not column.source or own is None:
        return own
    plain = twin.get(column.source)
    if plain is None:
        return None
    return float(own - plain) if column.kind == "difference" else float(own / plain)
