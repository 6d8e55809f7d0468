"""Runs found on disk, as a frame with one row a run."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from privacy.errors import ConfigError, RunRefused
from results.columns import SUMMARISED, TEXTS
from results.naming.former_names import renamed
from results.naming.later_keys import with_later_keys
from results.naming.protection import PROTECTION, is_plain
from results.store import CONFIG, ENDED, LOCK, STATUS, SUMMARY, RunDirectory, is_locked, short

STAMPED = ("", f"/{CONFIG}", f"/{STATUS}", f"/{SUMMARY}")  # the folder itself, and the files read from it
FINGERPRINT = "fingerprint"  # key of `data`, in the identity of a row alone

# the two long texts shared by many runs are categories, to save memory
RUNS = pl.Schema(
    {
        "path": pl.String(),
        "status": pl.String(),  # of results.store.STATUSES, or interrupted, not started, damaged
        "error": pl.String(),
        "ended": pl.String(),
        "seed": pl.String(),
        "configuration": pl.Categorical(),  # canonical, without the seed; a table has one row for each
        "pair": pl.Categorical(),  # canonical, without the keys that only protection reads; shared with the plain twin
        "plain": pl.Boolean(),
        "summarised": pl.Boolean(),
        **{key: pl.String() for key in TEXTS},
        **{key: pl.Float64() for key in SUMMARISED},
    }
)


class Found(NamedTuple):
    """A run's folder; `stamp` changes with every change of the files that a table reads.

    A leaf contains no folder that could hold another run; its stamp changes when one is added.
    """

    path: str
    stamp: int
    leaf: bool


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Every run's folder at or under each root, each once, in the order of their paths.

    Raises:
        ConfigError: there is no run under a root.
    """
    return [Path(run.path) for runs in find_stamped(roots).values() for run in runs]


def find_stamped(
    roots: Iterable[Path], known: Callable[[Path], Mapping[str, int]] = lambda _: {}
) -> dict[Path, list[Found]]:
    """The runs of `find_runs` by root, with stamps. `known` gives stamps of leaves under a root, to find them faster.

    Raises:
        ConfigError: as `find_runs`.
    """
    found: dict[Path, list[Found]] = {}
    for root in dict.fromkeys(roots):
        found[root] = sorted(_below(root, known(root)))
        if not found[root]:
            raise ConfigError.of("RUN", root, f"no run was found in {root.absolute()} or under it")
    return found if len(found) == 1 else _each_once(found)


def _each_once(found: Mapping[Path, Sequence[Found]]) -> dict[Path, list[Found]]:
    """Keep each run under its first root; one root holds no folder twice, since links are not followed."""
    seen: dict[Path, Path] = {}
    for root, runs in found.items():
        for run in runs:
            seen.setdefault(Path(run.path).resolve(), root)
    return {root: [run for run in runs if seen[Path(run.path).resolve()] == root] for root, runs in found.items()}


def collect(paths: Sequence[Path]) -> pl.DataFrame:
    """Status, configuration and summary of each run, a frame of `RUNS`; a damaged run has the error in its row."""
    return pl.DataFrame([_describe(path) for path in paths], schema=RUNS, orient="row")


def _below(root: Path, known: Mapping[str, int]) -> Iterator[Found]:
    """The runs below a folder, found by `os.scandir`, which is faster than `os.walk` and `os.stat`."""
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        if folder in known and _stamp(folder) == known[folder]:
            yield Found(folder, known[folder], True)
            continue
        names, inner = _listed(folder)
        folders += inner
        if CONFIG in names and (LOCK in names or STATUS in names):
            yield Found(folder, _stamp(folder), not inner)


def _listed(folder: str) -> tuple[set[str], list[str]]:
    """The names in a folder, and the paths of its subfolders that may hold runs."""
    names = set[str]()
    inner = list[str]()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            if entry.name != "checkpoints" and entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
    return names, inner


def _stamp(folder: str) -> int:
    """A stamp of change time (which users cannot set back), size and inode of the folder and its three files."""
    parts: list[int] = []
    for name in STAMPED:
        try:
            stat = os.stat(folder + name)
        except OSError:  # missing, or without permission
            continue
        parts += stat.st_ctime_ns, stat.st_size, stat.st_ino
    return hash(tuple(parts))


def _describe(path: Path) -> dict[str, object]:
    try:
        return {"path": str(path), **_read(RunDirectory(path))}
    except RunRefused as error:
        return {"path": str(path), "status": "damaged", "error": str(error), "summarised": False}


def _read(run: RunDirectory) -> dict[str, object]:
    status = run.status() or {}
    summary = run.summary() or {}
    ended = status.get("status") in ENDED
    if ended and not summary:
        raise RunRefused("it has no summary.json: run it again")
    return {
        "status": _state(run, status),
        "error": _optional_text(status.get("error")),
        "ended": _optional_text(status.get("ended")),
        "summarised": ended,
        **_identity(_with_data(with_later_keys(renamed(run.configuration() or {})), run.data())),
        **({key: _number(summary.get(key)) for key in SUMMARISED} if ended else {}),
        **{key: _optional_text(summary.get(key)) for key in TEXTS},
    }


def _state(run: RunDirectory, status: Mapping[str, Any]) -> str:
    state = str(status.get("status", "not started"))
    return "interrupted" if state == "running" and not is_locked(run.path) else state


def _with_data(configuration: dict[str, Any], data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add the data that a run read to its configuration: runs on other data are no seeds of one row, and no twins."""
    if data is None:
        return configuration
    return {**configuration, "data": {**configuration.get("data", {}), FINGERPRINT: short(data)}}


def _identity(configuration: Mapping[str, Any]) -> dict[str, object]:
    return {
        "seed": json.dumps(configuration.get("seed")),
        "configuration": _canonical(configuration, without=("seed",)),
        "pair": _canonical(configuration, without=PROTECTION),
        "plain": is_plain(configuration),
    }


def _canonical(configuration: Mapping[str, Any], without: Sequence[str]) -> str:
    return json.dumps({key: value for key, value in configuration.items() if key not in without}, sort_keys=True)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _optional_text(value: object) -> str | None:
    return None if value is None else " ".join(str(value).split())
