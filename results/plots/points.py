"""Axes and points of a picture, from the rows of a table."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from privacy.errors import ConfigError
from results.columns import Column
from results.naming.labels import Parts, flatten, text_of

Row = Mapping[str, Any]  # a row of `results.table.table`
HIGHER_IS_BETTER = ("accuracy", "accuracy_points", "macro_f1")
MOST_PERCENT = 100.0
MOST = {"accuracy": MOST_PERCENT, "macro_f1": MOST_PERCENT}  # figures that cannot be larger
NUMBERS = ("mean", "largest", "ratio", "difference")


class Interval(NamedTuple):
    """A figure in the unit of its heading, with the bounds of its spread over seeds, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> tuple[float, float]:
        """The distances from the figure down and up to its bounds."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return self.value - self.low, self.high - self.value


class Axis(NamedTuple):
    """One axis: its name, its heading, and the value of a row; `follows` are the keys that repeat its information."""

    key: str
    heading: str
    of: Callable[[Row], Interval | None]
    follows: tuple[str, ...] = ()

    @property
    def most(self) -> float | None:
        """The largest possible value, at which the axis ends."""
        return MOST.get(self.key)

    @property
    def higher_is_better(self) -> bool:
        """True where larger is better; smaller is better for overheads and epsilon."""
        return self.key in HIGHER_IS_BETTER

    def says(self, key: str) -> bool:
        """Tell whether a key of the configuration only repeats this axis."""
        return key == self.key or any(key == other or key.startswith(f"{other}.") for other in self.follows)


FOLLOWS = {"parameters": ("model", "data"), "epsilon": ("mechanism", "delta", "epsilon_budget")}


class Point(NamedTuple):
    """A configuration as a point of the picture."""

    row: Row
    x: Interval
    y: Interval

    @property
    def backend(self) -> str:
        """The backend that protects the configuration."""
        return str(self.row["name"])


def of_column(column: Column) -> Axis:
    """The axis of a column of figures."""
    return Axis(column.key, column.heading, lambda row: figure(row, column), FOLLOWS.get(column.key, ()))


def of_key(key: str) -> Axis:
    """The axis of a numeric key of the configuration."""
    return Axis(key, key, lambda row: _number(numbers(row).get(key)))


def axis(option: str, key: str, columns: Sequence[Column], rows: Sequence[Row], configured: bool = False) -> Axis:
    """The axis that a user named.

    Args:
        option: the option that named it, for the error.
        key: the key of a column of figures, or (`configured`) a numeric key of the configurations.
        columns: all columns.
        rows: the rows of the table.
        configured: whether keys of the configuration are allowed, too.

    Raises:
        ConfigError: the key names neither.
    """
    figures = {column.key: column for column in columns if column.kind in NUMBERS}
    keys = varied(rows) if configured else []
    if configured and any(key in numbers(row) for row in rows):
        return of_key(key)
    if key in figures:
        return of_column(figures[key])
    named = f"; or a numeric key of the configuration; these vary: {', '.join(keys) or 'none'}" if configured else ""
    raise ConfigError.of(option, key, f"no such figure; allowed are {', '.join(figures)}{named}")


def figure(row: Row, column: Column) -> Interval | None:
    """A figure of a row in the unit of its heading, or None where it was not measured."""
    value, low, high = (row.get(f"{column.key}{bound}") for bound in ("", "_low", "_high"))
    if value is None:
        return None
    if low is None or high is None:
        return Interval(value * column.scale)
    most = MOST.get(column.key, high * column.scale)
    return Interval(value * column.scale, low * column.scale, min(high * column.scale, most))


def numbers(row: Row) -> dict[str, float]:
    """The numeric keys of a row's configuration."""
    found = {}
    for key, text in flatten(json.loads(row["identity"])).items():
        try:
            found[key] = float(text)
        except ValueError:
            continue
    return found


def varied(rows: Sequence[Row]) -> list[str]:
    """The numeric keys that differ between some rows."""
    values: dict[str, set[float]] = {}
    for row in rows:
        for key, number in numbers(row).items():
            values.setdefault(key, set()).add(number)
    return sorted(key for key, seen in values.items() if len(seen) > 1)


def _number(value: float | None) -> Interval | None:
    return None if value is None else Interval(value)


def points(rows: Sequence[Row], x: Axis, y: Axis) -> list[Point]:
    """The rows that have both figures, in their order.

    Raises:
        ConfigError: there is no such row.
    """
    found = [
        Point(row, at, value) for row in rows if (at := x.of(row)) is not None and (value := y.of(row)) is not None
    ]
    if not found:
        raise ConfigError(f"{x.key} and {y.key}: no finished run has both, so there is nothing to draw")
    return found


def front(found: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """The Pareto front by rising x: the points that no other point beats on one axis without losing on the other."""
    sign_x, sign_y = (-1 if better.higher_is_better else 1 for better in (x, y))
    ordered = sorted(found, key=lambda point: (sign_x * point.x.value, sign_y * point.y.value))
    kept: list[Point] = []
    for point in ordered:
        same = bool(kept) and (point.x.value, point.y.value) == (kept[-1].x.value, kept[-1].y.value)
        if not kept or same or sign_y * point.y.value < sign_y * kept[-1].y.value:
            kept.append(point)
    return sorted(kept, key=lambda point: point.x.value)


def series(found: Sequence[Point], x: Axis) -> dict[str, list[Point]]:
    """The points of each line by rising x; points of a line differ only in x.

    The name of a line is its backend, and the other keys that distinguish it.
    """
    parts = [point.row["parts"] for point in found]
    keys = {key for own in parts for key in own if not x.says(key)} - {"mechanism", "secure_sum"}
    # a number always equal to x, such as the `clients` of a secure sum, only repeats x
    telling = {key for key in keys if not _repeats(parts, key, x.key) and len({own.get(key) for own in parts}) > 1}
    lines: dict[str, list[Point]] = {}
    for point, own in zip(found, parts, strict=True):
        others = text_of({key: value for key, value in own.items() if key in telling})
        lines.setdefault(f"{point.backend} {others}".rstrip(), []).append(point)
    return {label: sorted(line, key=lambda point: point.x.value) for label, line in lines.items()}


def _repeats(parts: Sequence[Parts], key: str, other: str) -> bool:
    return all(own[key] == own.get(other) for own in parts if key in own)


def backends(rows: Sequence[Row]) -> dict[str, int]:
    """The index of each backend among all backends of the rows."""
    return {name: i for i, name in enumerate(dict.fromkeys(str(row["name"]) for row in rows))}
