"""Worker processes that do not outlive the process that spawned them."""

import multiprocessing
import os
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """Called once in a process that `multiprocessing` spawned: it ends as soon as its parent does, however that died.

    A daemon thread waits, without polling, on the pipe whose other end the parent alone holds.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process started by multiprocessing has a parent to wait for"
    Thread(target=_end_after, args=(parent.sentinel,), name="end-with-parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # the main thread may be inside native code, where no exception would reach it
