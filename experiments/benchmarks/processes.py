"""Time and memory of commands as processes of their own, from start to end."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

LOOK_S = 0.005  # between two samples of a process's memory


@dataclass(frozen=True)
class Timed:
    """Time and peak memory of a process, with the processes that it waited for."""

    wall_s: float
    processor_s: float
    peak_bytes: int

    @staticmethod
    def of(
        command: Sequence[str], status: int = 0, env: Mapping[str, str] | None = None, quiet: bool = False
    ) -> "Timed":
        """Run a command to its end.

        Args:
            command: the program and its arguments.
            status: the exit status that it has to end with.
            env: the environment, if not that of this process.
            quiet: throw its output away.

        Raises:
            CalledProcessError: the exit status is another.
        """
        sink = subprocess.DEVNULL if quiet else None
        start_s = time.perf_counter()
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)
        _, ended, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode != status:
            raise subprocess.CalledProcessError(process.returncode, command)
        return Timed(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def sampled_peak_bytes(command: Sequence[str]) -> int:
    """Return the peak resident memory of a command, sampled every few milliseconds; its output is thrown away.

    The kernel's high-water mark does not serve where the command resets it, or inherits that of this process.

    Raises:
        CalledProcessError: it fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen = psutil.Process(process.pid)
    peak_bytes = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            peak_bytes = max(peak_bytes, seen.memory_info().rss)
        time.sleep(LOOK_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak_bytes
