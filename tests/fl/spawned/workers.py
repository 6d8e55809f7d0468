"""Workers for the tests of spawned processes, in a module that costs nothing to import."""

import os
import time
from multiprocessing.connection import Connection


def guarded(pipe: Connection) -> None:
    """A worker that is busy, not waiting on anything of its parent's."""
    from fl.spawned.lifetime import end_with_parent

    end_with_parent()
    pipe.send("ready")
    time.sleep(600)


def unguarded(pipe: Connection) -> None:
    """The same without the guard."""
    pipe.send("ready")
    time.sleep(600)


def random_bytes(length: int) -> bytes:
    """Work whose results all differ."""
    return os.urandom(length)


def busy(seconds: float) -> None:
    """Work that takes processor time."""
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


def failing(text: str) -> None:
    """Work that cannot be done."""
    raise ValueError(text)


def ending(status: int) -> None:
    """Work that takes its process with it."""
    os._exit(status)
