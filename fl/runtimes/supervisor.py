"""A supervisor of one command: it ends the command and all its descendants when the parent dies or closes the pipe.

    python supervisor.py GRACE_S COMMAND...

The parent holds the other end of standard input and need do nothing: when it dies, the kernel closes the pipe.
This file imports no module of this project, so that a supervisor starts in some 60 ms and works from any folder.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.1
LIBC = ctypes.CDLL(None)


def main(grace_s: float, command: list[str]) -> int:
    """Run the command to its end or the parent's; return the command's exit status, or 128 + n for signal n."""
    parent = os.getppid()
    # Orphans become children of this process instead of init, even where they have a session of their own.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _stop)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_supervisor)
        while child.poll() is None and _is_wanted(parent):
            pass
        status = child.poll()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants(grace_s)
    return 128 + signal.SIGTERM if status is None else status if status >= 0 else 128 - status


def _is_wanted(parent: int) -> bool:
    """Wait a moment; return True while the parent lives and holds the pipe."""
    readable, _, _ = select.select([0], [], [], POLL_S)
    # A child of the parent may hold the pipe open after the parent's death, so the parent's id is checked as well.
    return os.getppid() == parent and not (readable and os.read(0, 1) == b"")


def _end_descendants(grace_s: float) -> None:
    """Ask every descendant to stop, kill the ones that still run after `grace_s` seconds, and reap them all."""
    me = psutil.Process()
    descendants = me.children(recursive=True)
    for process in descendants:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(descendants, timeout=grace_s)
    while descendants := [*descendants, *me.children(recursive=True)]:  # a dying process may have started another
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _reap()
        descendants = psutil.wait_procs(descendants, timeout=POLL_S)[1]


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_with_supervisor() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        LIBC.prctl(option, value, 0, 0, 0)


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
