"""Workers for the tests of lifetimes, in a module that costs nothing to import."""

import time
from multiprocessing.connection import Connection


def guarded(pipe: Connection) -> None:
    """A worker that is busy, not waiting on anything of its parent's."""
    from fl.runtimes.lifetime import end_with_parent

    end_with_parent()
    pipe.send("ready")
    time.sleep(600)


def unguarded(pipe: Connection) -> None:
    """The same without the guard."""
    pipe.send("ready")
    time.sleep(600)
