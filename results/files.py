"""Atomic writing of files, never half written, and of valid JSON."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from privacy.errors import RunRefused


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without error, its file replaces `path`.

    The file and its folder are synced to disk, so after a crash `path` holds either the old bytes or the new ones.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write one JSON object atomically; NaN and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(plain(values), indent=2, allow_nan=False) + "\n")


def write_private_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write one JSON object as `write_json` does, for the owner of the file alone."""
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(plain(values), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no file.

    Raises:
        RunRefused: the file cannot be read, or does not hold a JSON object.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(values, dict):
        raise damaged(path, "it holds no JSON object")
    return values


def damaged(path: Path, reason: object) -> RunRefused:
    """The one-line message for a file of a run that cannot be read."""
    why = " ".join(str(reason).split())
    return RunRefused(f"{path} is damaged ({why}): restore it, or start afresh with force=true")


def plain(value: Any) -> Any:
    """The value in JSON's own types, NumPy's scalars included; numbers that are not finite become None."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def sync(path: Path) -> None:
    """Sync a file to disk; for a folder, sync the names of new files in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
