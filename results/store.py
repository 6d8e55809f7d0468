"""The folder of one run: its lock, its files, and its state.

It is `results/runs/<experiment>/<first 16 hex digits of the configuration's hash>/` unless the user says otherwise:

- .fedveil.lock: locked by the kernel while a run writes; its presence marks a folder as ours
- config.json: the canonical configuration; its SHA-256 is the run's identity
- data.json: the shape, the examples and labels, and a digest of the data that the run read; for the owner alone. The
  configuration names a place alone, so this is compared before a run goes on, or is taken as finished.
- config.yaml: the resolved configuration, for people
- environment.json: versions and hardware
- status.json: running, finished, failed, budget_exhausted or stopped_early; start time, process and error
- rows.parquet: every measurement
- summary.json: the figures of a table
- checkpoints/: the state needed to resume, the ledger, and in a simulation the clients' own ledgers
- keys/: the keys of the roles of a simulation, where the secure sum needs keys
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import AcquireReturnProxy, FileLock, Timeout

from privacy.errors import RunRefused
from results import files, rows

LOCK = ".fedveil.lock"
CONFIG = "config.json"
STATUS = "status.json"
SUMMARY = "summary.json"
ROWS = "rows.parquet"
DATA = "data.json"
DIGEST = "sha256"
LISTED = 4  # differences of data that a message lists
# In the order in which a fresh start removes them: the marks of a finished run first, its identity last,
# so that a process killed in between leaves a folder that can still be identified.
TRACKED = "tracked.json"  # the trackers that have the run, by name, and their locations
WRITTEN = (
    STATUS,
    SUMMARY,
    ROWS,
    "environment.json",
    TRACKED,
    "checkpoints",
    "keys",
    "config.yaml",
    DATA,
    CONFIG,
)
STATUSES = ("running", "finished", "failed", "budget_exhausted", "stopped_early")
ENDED = ("finished", "budget_exhausted", "stopped_early")  # without error; a repetition would change nothing

# A reader of tables may hold the lock briefly, to see whether a run is alive.
PATIENCE_S = 0.2


def default_directory(experiment: str, config_hash: str) -> Path:
    """The default folder of a run, relative to the working directory."""
    return Path("results", "runs", experiment, config_hash[:16])


class RunDirectory:
    """The files of a run. Reading needs no lock; writing needs the lock of `open_run`.

    Every file is replaced atomically. Reading raises RunRefused when a file is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or created."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._started = _now()

    @property
    def finished(self) -> bool:
        """True where the run has ended, its summary included; a spent privacy budget is an end too."""
        status = self.status()
        return status is not None and status.get("status") in ENDED and self.summary() is not None

    def configuration(self) -> dict[str, Any] | None:
        """The canonical configuration, or None where none was written yet."""
        return files.read_json(self.path / CONFIG)

    def data(self) -> dict[str, Any] | None:
        """The record of the data that the run read, or None where there is none, as of earlier versions."""
        return files.read_json(self.path / DATA)

    def status(self) -> dict[str, Any] | None:
        """`status`, `started`, `ended`, `pid`, `error` and other entries of the run's state."""
        return files.read_json(self.path / STATUS)

    def summary(self) -> dict[str, Any] | None:
        """The summary by `results.summary.summarise`, or None before the end."""
        return files.read_json(self.path / SUMMARY)

    def rows(self) -> pl.DataFrame:
        """All measurements, a frame of `results.rows.SCHEMA`."""
        return rows.read_rows(self.path / ROWS)

    def write_status(self, status: str, **fields: object) -> None:
        """Record the state (one of STATUSES); `error` and other entries are keywords. Times are ISO 8601 in UTC."""
        assert status in STATUSES, status
        ended = None if status == "running" else _now()
        known = {"status": status, "started": self._started, "ended": ended, "pid": os.getpid(), "error": None}
        files.write_json(self.path / STATUS, known | fields)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write `summary.json`; numbers that are not finite become null."""
        files.write_json(self.path / SUMMARY, summary)

    def write_rows(self, frame: pl.DataFrame) -> None:
        """Write `rows.parquet` whole; the frame has `results.rows.SCHEMA`."""
        rows.write_rows(self.path / ROWS, frame)

    def write_environment(self, environment: Mapping[str, object]) -> None:
        """Write `environment.json`, see `results.environment.describe`."""
        files.write_json(self.path / "environment.json", environment)


@contextmanager
def open_run(
    directory: Path,
    canonical: str,
    resolved_yaml: str,
    force: bool,
    *,
    data: Mapping[str, Any] | None = None,
    waits: bool = False,
    since: float | None = None,
) -> Iterator[RunDirectory]:
    """Hold the lock of a run's folder during the block; the kernel releases it if the process is killed.

    Args:
        directory: the folder; created if missing.
        canonical: the configuration as canonical JSON; its SHA-256 identifies the run.
        resolved_yaml: the same for people, with the keys outside the identity.
        force: remove the files of an earlier run (and nothing else), and start afresh.
        data: the fingerprint of the data that the run reads; None where they cannot be read.
        waits: wait for another run that holds the folder, without limit, instead of an error.
        since: in seconds since 1970; `force` keeps runs that ended later.

    Raises:
        RunRefused: another run holds the folder, or it holds another configuration, a run on other data or a damaged
            run (unless `force`), or files that fedveil did not write (always).
    """
    run = RunDirectory(directory)
    try:
        _claim(directory)
        lock = _lock(directory, waits)
    except OSError as error:
        raise RunRefused(f"{directory} cannot be used: {error.strerror or error}; choose another out=") from error
    with lock:
        _remove_leftovers(directory)
        if force and not _ended_after(run, since):
            _remove_run(directory)
        _adopt(run, canonical, resolved_yaml)
        _adopt_data(run, data)
        yield run


def marked(directory: Path, data: Mapping[str, Any]) -> Path:
    """Return the folder of a run on other data, beside that of its configuration."""
    return directory.with_name(f"{directory.name}-{short(data)}")


def short(data: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that stand for some data."""
    return str(data[DIGEST])[:8]


def changes(held: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return how data differ from those of a record, in one line."""
    before = _flat(held)
    now = _flat(data)
    keys = [key for key in dict.fromkeys((*before, *now)) if key != DIGEST and before.get(key) != now.get(key)]
    told = [f"{key} {now.get(key, 'none')}, not {before.get(key, 'none')}" for key in keys[:LISTED]]
    more = [f"{len(keys) - LISTED} more differences"] if len(keys) > LISTED else []
    return "; ".join(told + more) or "other images or another order, with the same numbers of examples and labels"


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def is_locked(directory: Path) -> bool:
    """True while a process holds the folder."""
    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0, fallback_to_soft=False):
            return False
    except (Timeout, OSError):  # held, or no permission
        return True


def _claim(directory: Path) -> None:
    """Create the folder, or check that it is empty or made by a run; a user's files are never touched."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / LOCK).exists() and any(entry.name != LOCK for entry in directory.iterdir()):
        raise RunRefused(f"{directory} is not empty, and no run made it: choose another out=")


def _lock(directory: Path, waits: bool) -> AcquireReturnProxy[FileLock]:
    # Only a lock of the kernel: a lock that is merely a file would outlive a killed process.
    lock = FileLock(directory / LOCK, timeout=-1 if waits else PATIENCE_S, poll_interval=0.02, fallback_to_soft=False)
    try:
        return lock.acquire()
    except Timeout:
        held = f"{directory}: another run holds it{_holder(directory)}"
        raise RunRefused(f"{held}; wait, or choose another out=") from None


def _ended_after(run: RunDirectory, since: float | None) -> bool:
    if since is None:
        return False
    try:
        ended = (run.status() or {}).get("ended")
    except RunRefused:  # damaged
        return False
    return ended is not None and datetime.fromisoformat(ended).timestamp() > since


def _holder(directory: Path) -> str:
    try:
        status = RunDirectory(directory).status() or {}
    except RunRefused:
        return ""
    return f" (pid {status['pid']})" if status.get("status") == "running" and "pid" in status else ""


def _adopt(run: RunDirectory, canonical: str, resolved_yaml: str) -> None:
    """Refuse a folder that is not this configuration's, or is damaged; write the configuration into a fresh one."""
    held = run.configuration()
    if held is None:
        _refuse_remains(run.path)
        files.write_text(run.path / CONFIG, canonical)
    elif (run.path / CONFIG).read_text() != canonical:
        raise RunRefused(_other_configuration(run.path, held, canonical))
    if not run.finished:
        files.write_text(run.path / "config.yaml", resolved_yaml)
    run.checkpoints.mkdir(exist_ok=True)


def _adopt_data(run: RunDirectory, data: Mapping[str, Any] | None) -> None:
    """Refuse a folder whose run read other data; write the record into a run that has not ended."""
    held = run.data()
    if held is None and data is not None and not run.finished:
        files.write_private_json(run.path / DATA, data)
    elif held is not None and data is not None and held != data:
        told = f"{run.path} holds a run on other data (now {changes(held, data)})"
        raise RunRefused(f"{told}: choose another out=, or replace it with force=true")


def _refuse_remains(directory: Path) -> None:
    remains = [name for name in WRITTEN if os.path.lexists(directory / name)]
    if remains:
        raise RunRefused(f"{directory} holds {', '.join(remains)} but no {CONFIG}: start afresh with force=true")


def _other_configuration(directory: Path, held: dict[str, Any], canonical: str) -> str:
    wanted = json.loads(canonical)
    keys = [key for key in sorted(held.keys() | wanted.keys()) if held.get(key) != wanted.get(key)]
    held_hash = hashlib.sha256((directory / CONFIG).read_bytes()).hexdigest()[:16]
    return (
        f"{directory} holds another configuration ({held_hash}; it differs in {', '.join(keys) or 'its form'}): "
        "choose another out=, or replace it with force=true"
    )


def _remove_run(directory: Path) -> None:
    for name in WRITTEN:
        _remove(directory / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Renamed first: an incomplete set of checkpoints must never look complete.
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(directory: Path) -> None:
    """Remove temporary files of a process that was killed while it wrote."""
    for name in WRITTEN:
        for leftover in directory.glob(f".{name}.*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
