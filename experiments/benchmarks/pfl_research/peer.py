"""The rounds of pfl-research beside ours: its process, in an environment of its own, and what it is given."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fl.workspace import Workspace
from privacy.errors import ConfigError

SCRIPT = Path(__file__).with_name("rounds.py")
CHECK = "import pfl, torch, sys; sys.exit(pfl.__version__ != '0.6.0')"


class Lap(NamedTuple):
    """The times of one round, in seconds."""

    wall_s: float
    cpu_s: float


class Peer:
    """A process that makes a round of pfl-research when it is asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def round(self, cohort: Sequence[int]) -> Lap:
        """Let it train a cohort, and return its own times."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([int(client) for client in cohort]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "pfl-research has ended"
        return Lap(*json.loads(line))


def require_pfl(python: Path) -> None:
    """Refuse an interpreter without pfl-research 0.6.0.

    Raises:
        ConfigError: it cannot be run, or lacks the library.
    """
    try:
        found = subprocess.run([python, "-c", CHECK], capture_output=True, check=False).returncode
    except OSError:
        found = 1
    if found:
        allowed = "must be the interpreter of an environment with: pip install pfl==0.6.0 torch"
        raise ConfigError.of("--pfl", python, allowed)


@contextmanager
def peer_of(python: Path | None, work: Workspace) -> Iterator[Peer | None]:
    """Start the process with the data of a workspace, for the time of the block; None without an interpreter."""
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(work, Path(folder))
        # without a buffer of warnings, which would fill a pipe that nobody reads
        process = subprocess.Popen(
            [python, SCRIPT, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield Peer(process)
        finally:
            process.kill()
            process.wait()


def _write(work: Workspace, folder: Path) -> None:
    """Write inputs, normalised before any clock starts, and who owns them."""
    parts = work.plan.partitions
    np.save(folder / "inputs.npy", work.data.normalise(work.data.train.images).numpy())
    np.save(folder / "labels.npy", work.data.train.labels.numpy())
    np.save(folder / "indices.npy", np.concatenate(parts))
    np.save(folder / "ends.npy", np.cumsum([len(part) for part in parts]))
