"""Work of a protocol that does not depend on a contribution, done by a process of its own before it is asked for.

The process works while its client trains, checks or waits: SEAL holds Python's lock while it encrypts (TenSEAL 0.3.16),
so a thread would stop the training. It is always one result ahead. A result goes to one caller, and what nobody takes
is thrown away.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fl.spawned.lifetime import end_with_parent
from privacy.errors import FAULTS, FedveilError, RuntimeFailure, one_line

T = TypeVar("T")
Task = tuple[Callable[..., Any], tuple[Any, ...]]


class AheadOfTime:
    """A process that is spawned at the first request, and ends with this one."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pending: Task | None = None  # what the process is working on
        self._cpu_s = 0.0

    def take(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return `work(*arguments)`, and let the process begin with the next one.

        Raises:
            RuntimeFailure: the process has ended, or could not do the work.
        """
        task = (work, arguments)
        try:
            if self._pending is not None and self._pending != task:
                self._receive()
            if self._pending is None:
                self._begin(task)
            result, error, cpu_s = self._receive()
            if error is None:
                self._begin(task)
        except (EOFError, OSError) as lost:
            self.close()
            raise RuntimeFailure("the process of runtime.prepare_ahead has ended") from lost
        except BaseException:  # an interrupt: whose result comes next is not known any more
            self.close()
            raise
        self._cpu_s += cpu_s
        if isinstance(error, FedveilError):
            raise error
        if error is not None:
            raise RuntimeFailure(f"runtime.prepare_ahead: {one_line(error)}") from error
        return result  # type: ignore[no-any-return]

    def costs(self) -> dict[str, float]:
        """Return the processor seconds of what was taken since the last call, as a metric; empty where nothing was.

        The last result of a run, which nobody takes, is in none.
        """
        spent_s = self._cpu_s
        self._cpu_s = 0.0
        return {"ahead.cpu": spent_s} if spent_s else {}

    def close(self) -> None:
        """End the process, in the middle of its work."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
            self._pending = None

    def _begin(self, task: Task) -> None:
        if self._process is None:
            spawn = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
            self._here, there = spawn.Pipe()
            self._process = spawn.Process(target=_serve, args=(there,), name="prepare-ahead", daemon=True)
            self._process.start()
            there.close()
        self._here.send(task)
        self._pending = task

    def _receive(self) -> tuple[Any, Exception | None, float]:
        received: tuple[Any, Exception | None, float] = self._here.recv()
        self._pending = None
        return received


def _serve(connection: Connection) -> None:
    end_with_parent()
    while True:
        work, arguments = connection.recv()
        begun_s = time.process_time()
        result = error = None
        try:
            result = work(*arguments)
        except (FedveilError, *FAULTS) as fault:
            error = fault
        connection.send((result, error, time.process_time() - begun_s))


def second_core(lanes: int) -> str | None:
    """Return why there is no second core for each of `lanes` processes, as a clause; None where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= 2 * lanes:
        return None
    return f"{lanes} process{'es' * (lanes > 1)} of clients on {cores} core{'s' * (cores > 1)} leave no second one"
