"""The names of a table's rows: short ones of backends, the keys that differ, and what a reader calls them instead."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from privacy.errors import ConfigError
from results.naming.labels import LAST, Parts, backend_of, label_of, label_parts, short_name, text_of
from results.naming.protection import PROTECTION

WEIGHTING = "training.weighting"
USUAL_WEIGHTING = "examples"

Row = Mapping[str, Any]


class Naming(NamedTuple):
    """A reader's choices.

    `renames` holds `OLD=NEW`, where OLD is a whole name or a backend's; `every_plain` keeps a plain row for each
    weighting of clients, see `Names`.
    """

    renames: tuple[str, ...] = ()
    every_plain: bool = False


USUAL = Naming()


class Name(NamedTuple):
    """The name of a row: its backend's, the keys that distinguish it, and both on one line."""

    backend: str
    parts: Parts
    label: str


class Names:
    """The names of the configurations of some runs, a frame of `results.runs.RUNS`.

    Mechanisms choose how clients are weighted, so that a sweep over backends has a plain twin for each weighting. Where
    no backend occurs with two weightings, one plain row is enough: the others are left out, and a note says so.

    Raises:
        ConfigError: a name to replace that no row has, or a new one that two rows would have.
    """

    def __init__(self, runs: pl.DataFrame, naming: Naming = USUAL) -> None:
        known = _known(runs.filter("summarised"))
        self._left_out = {} if naming.every_plain else _repeated_plain(known)
        shown = [text for text in known if text not in self._left_out]
        self._names = _renamed(_named(shown, known, bool(self._left_out)), naming.renames)

    def rows(self, rows: Iterable[Row], spread: str) -> list[dict[str, Any]]:
        """The rows with their names, each plain row before those compared with it.

        `identity` keeps the former `configuration`, `name` is the backend's, and `parts` are those of the label.
        """
        kept = [(row, self._names[row["configuration"]]) for row in rows if row["configuration"] in self._names]
        kept.sort(key=lambda pair: _order(*pair))
        return [
            {
                **row,
                "identity": row["configuration"],
                "configuration": name.label,
                "name": name.backend,
                "parts": name.parts,
                "spread": spread,
            }
            for row, name in kept
        ]

    def unfinished(self, runs: pl.DataFrame) -> list[dict[str, Any]]:
        """The runs without figures, with a label each."""
        others = runs.filter(~pl.col("summarised")).to_dicts()
        if not others:
            return []
        known = _known(runs)
        labels = {text: name.label for text, name in _named(list(known), known, False).items()}
        return [{**run, "configuration": labels.get(run["configuration"], "")} for run in others]

    def notes(self, rows: Iterable[Row]) -> list[str]:
        """A note on the plain rows that are left out: whose twins they are, and what a single one would show."""
        each = {row["configuration"]: row for row in rows}
        told = [row for row in each.values() if row["configuration"] in self._left_out]
        by_weighting: dict[str, list[Row]] = defaultdict(list)
        for row in told:
            by_weighting[self._left_out[row["configuration"]].weighting].append(row)
        return [self._note(weighting, those) for weighting, those in by_weighting.items()]

    def _note(self, weighting: str, rows: Sequence[Row]) -> str:
        twins = [other for row in rows for other in self._left_out[row["configuration"]].twins if other in self._names]
        names = ", ".join(dict.fromkeys(self._names[other].backend for other in twins))
        figures = _figures(rows[0]) if len(rows) == 1 else ""
        return (
            f"{WEIGHTING}={weighting} for {names}, compared with plain runs of that weighting, which are left out here"
            f"{figures}; --plain all shows them."
        )


def _figures(row: Row) -> str:
    accuracy = None if row.get("accuracy") is None else f"accuracy {100 * row['accuracy']:.4g} %"
    round_ = None if row.get("round_s") is None else f"round {row['round_s']:.3g} s"
    figures = ", ".join(filter(None, (accuracy, round_)))
    return f" ({figures})" if figures else ""


class LeftOut(NamedTuple):
    """A plain configuration without a row: its weighting of clients, and the configurations compared with it."""

    weighting: str
    twins: tuple[str, ...]


class Known(NamedTuple):
    """A configuration, the name of its backend, and whether it is plain."""

    configuration: Mapping[str, Any]
    backend: str
    plain: bool


def _known(runs: pl.DataFrame) -> dict[str, Known]:
    """The backend of each configuration; a run may say more of it, such as `crypten_median` of `crypten`."""
    found: dict[str, Known] = {}
    told = runs.select("configuration", "backend", "plain").unique(maintain_order=True).drop_nulls("configuration")
    for text, backend, plain in told.iter_rows():
        if text not in found:
            configuration = json.loads(text)
            found[text] = Known(configuration, backend_of(configuration), plain)
        if backend is not None and backend.startswith(found[text].backend):
            found[text] = found[text]._replace(backend=backend)
    return found


def _named(shown: Sequence[str], known: Mapping[str, Known], one_plain: bool) -> dict[str, Name]:
    parts = label_parts([known[text].configuration for text in shown])
    if one_plain:
        shorter = [{key: value for key, value in own.items() if key != WEIGHTING} for own in parts]
        if len({text_of(own) for own in shorter}) == len(shorter):
            parts = shorter
    names = [short_name(known[text].backend) for text in shown]
    return {text: Name(name, own, label_of(own, name)) for text, name, own in zip(shown, names, parts, strict=True)}


def _repeated_plain(known: Mapping[str, Known]) -> dict[str, LeftOut]:
    """The plain configurations that only another weighting of clients sets apart from one that is shown."""
    plain: dict[str, dict[str, str]] = defaultdict(dict)  # what they share -> weighting -> configuration
    for text, one in known.items():
        if one.plain:
            shared, weighting = _divided(one.configuration)
            plain[shared][weighting] = text
    plain = {shared: twins for shared, twins in plain.items() if len(twins) > 1}
    if not plain:
        return {}
    others: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    protected: dict[str, Counter[str]] = defaultdict(Counter)
    for text, one in known.items():
        if not one.plain:
            shared, weighting = _divided(one.configuration)
            others[shared][weighting].append(text)
            own = {key: one.configuration[key] for key in PROTECTION if key in one.configuration}
            protected[shared][json.dumps(own, sort_keys=True)] += 1
    found: dict[str, LeftOut] = {}
    for shared, twins in plain.items():
        used = [
            weighting for weighting in twins if others[shared][weighting]
        ]  # a plain run that nothing is compared with stays
        if set(protected[shared].values()) == {1}:  # no protection occurs with two weightings
            rest = sorted(used, key=lambda weighting: (weighting != USUAL_WEIGHTING, weighting))[1:]
            found |= {twins[other]: LeftOut(other, tuple(others[shared][other])) for other in rest}
    return found


def _divided(configuration: Mapping[str, Any]) -> tuple[str, str]:
    """A configuration without protection and weighting, as text, and its weighting."""
    left = {key: value for key, value in configuration.items() if key not in PROTECTION}
    training = dict(left.get("training") or {})
    weighting = str(training.pop("weighting", None))
    return json.dumps({**left, "training": training}, sort_keys=True), weighting


def _renamed(names: Mapping[str, Name], renames: Sequence[str]) -> dict[str, Name]:
    found = dict(names)
    whole: set[str] = set()  # rows whose whole name was replaced
    for text in renames:
        old, new = _split(text, found.values())
        for identity, name in found.items():
            backend = new if name.backend == old else name.backend
            label = name.label
            if label == old:
                label = new
                whole |= {identity}
            elif backend != name.backend and identity not in whole:
                label = label_of(name.parts, backend)
            found[identity] = Name(backend, name.parts, label)
    twice = [label for label, count in Counter(name.label for name in found.values()).items() if count > 1]
    if renames and twice:
        raise ConfigError.of("--rename", renames[-1], f"two rows would be called {twice[0]}")
    return found


def _split(text: str, names: Iterable[Name]) -> tuple[str, str]:
    """Split OLD=NEW at the sign before which a known name stands; names hold such signs themselves."""
    known = dict.fromkeys(text for name in names for text in (name.label, name.backend))
    for place in (match.start() for match in re.finditer("=", text)):
        if text[:place] in known and text[place + 1 :].strip():
            return text[:place], text[place + 1 :].strip()
    raise ConfigError.of("--rename", text, f"give OLD=NEW, where OLD is one of {'; '.join(sorted(known))}")


def _order(row: Row, name: Name) -> tuple[object, ...]:
    parts = name.parts
    shared = [_natural(f"{key}={value}") for key, value in parts.items() if key.partition(".")[0] not in LAST]
    return shared, not row["plain"], parts.get("mechanism", "none") != "none", _natural(text_of(parts))


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """A sort key that puts `clients=5` before `clients=10`."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(False, float(piece), "") if index % 2 else (True, 0.0, piece) for index, piece in enumerate(pieces)]
