"""Worker processes that do not outlive the process that spawned them."""

import multiprocessing
import os
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """End this process as soon as its parent ends, for any reason. Call it once in a process of `multiprocessing`.

    A daemon thread waits, without polling, on a pipe; only the parent holds the other end.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process started by multiprocessing has a parent to wait for"
    Thread(target=_end_after, args=(parent.sentinel,), name="end-with-parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # the main thread may be inside native code, where no exception would reach it
