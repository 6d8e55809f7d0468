"""Child processes of this process: each writes a log, and all of them end when this process ends, for any reason."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from privacy.errors import RuntimeFailure

SUPERVISOR = Path(__file__).with_name("supervisor.py")
GRACE_S = 2.0  # time between the request to stop and the kill
POLL_S = 0.1

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ERROR = re.compile(r"error|exception|failed|refused|\[code", re.IGNORECASE)
NO_ERROR = re.compile(r"\b(INFO|DEBUG|WARNING)\b|Exit Code: \d+$")


@dataclass(frozen=True)
class Process:
    """One supervised process; `popen` is its supervisor, which ends after the whole process tree."""

    name: str
    log: Path
    popen: "subprocess.Popen[bytes]"

    def check(self) -> None:
        """Raise RuntimeFailure if the process has ended."""
        if self.popen.poll() is not None:
            raise self.failure(f"ended with status {self.popen.returncode}")

    def failure(self, what: str) -> RuntimeFailure:
        """Return an error in one line: process, failure, the last line of its log with an error, and the log's path."""
        return RuntimeFailure(f"{self.name} {what}: {last_error(self.log)} (log: {self.log})")


class Processes:
    """The processes of one engine, as a context: its exit ends them all, with all their descendants."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._resident: list[Process] = []
        self._all: list[Process] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Process:
        """Start a process that must run until the end; `check` raises an error if it has ended before."""
        process = self._spawn(name, command, env)
        self._resident.append(process)
        return process

    def call(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        timeout_s: float,
        echo: Callable[[str], None] | None = None,
    ) -> str:
        """Run a process to its end, and return its output, which also goes to `echo` as it arrives.

        Raises:
            RuntimeFailure: the process fails or takes too long, or a resident process ends meanwhile.
        """
        process = self._spawn(name, command, env)
        deadline = time.monotonic() + timeout_s
        with process.log.open(errors="replace") as output:
            while process.popen.poll() is None:
                self.check()
                if time.monotonic() > deadline:
                    raise process.failure(f"has not ended after {timeout_s:.0f} s")
                _pass_on(output.read(), echo)
                time.sleep(POLL_S)
            _pass_on(output.read(), echo)
        if process.popen.returncode != 0:
            process.check()
        return process.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise RuntimeFailure if a resident process has ended."""
        for process in self._resident:
            process.check()

    def stop(self) -> None:
        """End every process, all at once; the supervisors kill processes that do not stop."""
        for process in self._all:
            assert process.popen.stdin is not None
            process.popen.stdin.close()
        for process in self._all:
            process.popen.wait()

    def _spawn(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Process:
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-P", str(SUPERVISOR), str(GRACE_S), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which then stops the others
            )
        self._all.append(Process(name, log, popen))
        return self._all[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def last_error(log: Path) -> str:
    """Return the last line of a log that reports an error; without such a line, the last line of the log."""
    lines = [COLOUR.sub("", line).strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if ERROR.search(line) and not NO_ERROR.search(line)]
    return (errors or [line for line in lines if line] or ["it wrote nothing"])[-1]


def _pass_on(text: str, echo: Callable[[str], None] | None) -> None:
    if echo is not None and text:
        echo(text)
