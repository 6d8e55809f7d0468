"""The order of a write on the disk: files are synced under a name that nobody reads, then take their final name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Event = tuple[str, int]


def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The requests to the disk from now on: (`sync`, inode of a file or folder) and (`name`, inode of a file)."""
    events: list[Event] = []
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        events.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def naming(move: Callable[..., None]) -> Callable[..., None]:
        def moved(source: Path, target: Path) -> None:
            events.append(("name", os.stat(source).st_ino))
            move(source, target)

        return moved

    monkeypatch.setattr(os, "fsync", syncing)
    for name in ("replace", "rename", "link"):
        monkeypatch.setattr(os, name, naming(getattr(os, name)))
    return events


def assert_durable(events: list[Event], path: Path) -> None:
    """A file that was synced before it got its name, whose folder was synced after that."""
    written = path.stat().st_ino
    named = max(i for i, event in enumerate(events) if event == ("name", written))
    assert ("sync", written) in events[:named], f"{path.name} has its name before its bytes are on the disk"
    assert ("sync", path.parent.stat().st_ino) in events[named:], f"the name {path.name} is not on the disk"
