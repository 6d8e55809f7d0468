"""The folder of one run: who may write into it, what it holds, and in which state it is.

It is `results/runs/<experiment>/<first 16 hex digits of the configuration's hash>/` unless the user says otherwise:

- .fedveil.lock: locked by the kernel while a run writes; its presence marks a folder as ours
- config.json: the canonical configuration; its SHA-256 is the run's identity
- config.yaml: the resolved configuration, for people
- environment.json: versions and hardware
- status.json: running, finished, failed or budget_exhausted; since when, which process, which error
- rows.parquet: every measurement
- summary.json: the figures that a table prints
- checkpoints/: what resuming needs
- keys/: what the roles of a simulation hold, where the secure sum needs any
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
# In the order in which starting afresh removes them: what says that a run is finished first, its identity last,
# so that a process killed on the way leaves a folder that is still known for what it is.
TRACKED = "tracked.json"  # by name, the trackers that were told of the run, and where
WRITTEN = (
    STATUS,
    SUMMARY,
    ROWS,
    "environment.json",
    TRACKED,
    "checkpoints",
    "keys",
    "config.yaml",
    CONFIG,
)
STATUSES = ("running", "finished", "failed", "budget_exhausted")
ENDED = ("finished", "budget_exhausted")  # well, so that running again would change nothing

# A reader of tables may hold the lock for an instant to learn whether a run is alive.
PATIENCE_S = 0.2


def default_directory(experiment: str, config_hash: str) -> Path:
    """Where a run goes unless it is told otherwise, relative to the working directory."""
    return Path("results", "runs", experiment, config_hash[:16])


class RunDirectory:
    """What a run wrote, and how it writes more. Reading needs no lock; writing is for who holds it (`open_run`).

    Every file is replaced atomically. Reading raises RunRefused when a file is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or made."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._started = _now()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, its summary included; a spent privacy budget is an end too."""
        status = self.status()
        return status is not None and status.get("status") in ENDED and self.summary() is not None

    def configuration(self) -> dict[str, Any] | None:
        """The canonical configuration, or None where none was written yet."""
        return files.read_json(self.path / CONFIG)

    def status(self) -> dict[str, Any] | None:
        """`status`, `started`, `ended`, `pid`, `error` and what else the run said of its state."""
        return files.read_json(self.path / STATUS)

    def summary(self) -> dict[str, Any] | None:
        """What `results.summary.summarise` gave, or None before the end."""
        return files.read_json(self.path / SUMMARY)

    def rows(self) -> pl.DataFrame:
        """All measurements, a frame of `results.rows.SCHEMA`."""
        return rows.read_rows(self.path / ROWS)

    def write_status(self, status: str, **fields: object) -> None:
        """Record the state (one of STATUSES); `error` and others come by keyword. Times are ISO 8601 in UTC."""
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
    waits: bool = False,
    since: float | None = None,
) -> Iterator[RunDirectory]:
    """Hold a run's folder for as long as the block lasts; a killed process lets go of it.

    Args:
        directory: made where it is missing.
        canonical: the configuration as canonical JSON; its SHA-256 identifies the run.
        resolved_yaml: the same for people, with what is no part of the identity.
        force: remove what an earlier run wrote there (and nothing else), and start afresh.
        waits: for another run that holds the folder, however long, in place of an error.
        since: in seconds since 1970; `force` leaves alone what ended later.

    Raises:
        RunRefused: another run holds the folder, or it holds another configuration or a damaged run (unless
            `force`), or something that fedveil did not write (always).
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
        yield run


def is_locked(directory: Path) -> bool:
    """Whether a process holds the folder now."""
    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0, fallback_to_soft=False):
            return False
    except (Timeout, OSError):  # held, or not ours to try
        return True


def _claim(directory: Path) -> None:
    """Make the folder, or see that it is empty or ours; a user's files are never touched."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / LOCK).exists() and any(entry.name != LOCK for entry in directory.iterdir()):
        raise RunRefused(f"{directory} is not empty, and no run made it: choose another out=")


def _lock(directory: Path, waits: bool) -> AcquireReturnProxy[FileLock]:
    # A lock of the kernel, or none: a lock that is only a file would outlive a killed process.
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
    """Refuse a folder that is not this configuration's, or damaged; write the configuration into a fresh one."""
    held = run.configuration()
    if held is None:
        _refuse_remains(run.path)
        files.write_text(run.path / CONFIG, canonical)
    elif (run.path / CONFIG).read_text() != canonical:
        raise RunRefused(_other_configuration(run.path, held, canonical))
    if not run.finished:
        files.write_text(run.path / "config.yaml", resolved_yaml)
    run.checkpoints.mkdir(exist_ok=True)


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
        # Renamed first: half a set of checkpoints must never pass for a whole one.
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(directory: Path) -> None:
    """Temporary files of a process that was killed while it wrote."""
    for name in WRITTEN:
        for leftover in directory.glob(f".{name}.*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
