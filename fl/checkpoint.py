"""A checkpoint after each round, and the round's rows beside it; neither holds secrets of the round's protocol.

A file starts with the SHA-256 of its content. A damaged file is refused, and the checkpoint before it is used.
"""

import hashlib
import io
import logging
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from fl.ledger import EMPTY, Head
from privacy.errors import RunRefused
from results.files import replacing
from results.measurements import Row
from results.rows import read_rows, to_frame, write_rows

MAGIC = b"fedveil checkpoint 1\n"
HEADER_BYTES = len(MAGIC) + 65  # the checksum in hexadecimal and a new line
_NUMBER = re.compile(r"round-(\d+)\.(ckpt|parquet)$")
log = logging.getLogger("fedveil")


@dataclass
class State:
    """The state from which a run continues after a round. `weights_D` is float32, shape (D,), on the CPU."""

    run: str
    round: int
    weights_D: torch.Tensor
    optimizer: dict[str, Any]
    started: str
    mechanisms: dict[str, float] = field(default_factory=dict)  # state of the mechanisms' server halves
    secrets: dict[str, torch.Tensor] = field(default_factory=dict)  # their secret state, which is never sent
    ledger: Head = EMPTY  # the end of the ledger; a checkpoint of an earlier version knows of none


def _generators() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "python": (version, internal, gauss),
    }


def _restore_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(states["python"])


def encode(state: State) -> bytes:
    """Encode a state and the process's random states as one checksummed byte string."""
    buffer = io.BytesIO()
    torch.save({"state": vars(state), "generators": _generators()}, buffer)
    payload = buffer.getvalue()
    return _header(payload) + payload


def _header(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def decode(content: bytes) -> State:
    """Decode the output of `encode`, and restore the random states.

    Raises:
        RunRefused: the checksum does not match.
    """
    loaded = _loaded(content)
    _restore_generators(loaded["generators"])
    return State(**loaded["state"])


def _loaded(content: bytes) -> dict[str, Any]:
    payload = content[HEADER_BYTES:]
    if content[:HEADER_BYTES] != _header(payload):
        raise RunRefused("the checksum does not match")
    loaded: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
    return loaded


def last_ledger(folder: Path) -> Head:
    """Return the end of the ledger that the newest checkpoint in a folder knows; nothing is changed there.

    Raises:
        RunRefused: there is no checkpoint, or it is damaged.
    """
    newest = max(folder.glob("round-*.ckpt"), default=None)
    if newest is None:
        raise RunRefused(f"{folder} holds no checkpoint, which knows where the ledger ended")
    try:
        return State(**_loaded(newest.read_bytes())["state"]).ledger
    except RunRefused as error:
        raise RunRefused(f"{newest} is damaged: {error}") from None


class Checkpoints:
    """The checkpoints and row segments of one run, in a folder of their own."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def _numbered(self, suffix: str) -> dict[int, Path]:
        found = ((_NUMBER.search(path.name), path) for path in self.folder.glob(f"round-*.{suffix}"))
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def save(self, state: State, rows: Iterable[Row]) -> None:
        """Write the round's rows, then its checkpoint (each atomic), then drop the oldest checkpoints."""
        self.save_rows(state.run, state.round, rows)
        with replacing(self.folder / f"round-{state.round:06d}.ckpt") as temporary:
            temporary.touch(mode=0o600)  # the state may hold noise, which must stay secret
            temporary.write_bytes(encode(state))
        for path in list(self._numbered("ckpt").values())[: -self._keep]:
            path.unlink()

    def save_rows(self, run: str, number: int, rows: Iterable[Row]) -> None:
        """Write a round's rows alone: the measurements of a failed round. Running the round again replaces them."""
        write_rows(self.folder / f"round-{number:06d}.parquet", to_frame(run, rows))

    def put_rows(self, run: str, number: int, rows: Iterable[Row]) -> None:
        """Add to a round's rows, in place of those that say the same."""
        path = self.folder / f"round-{number:06d}.parquet"
        added = to_frame(run, rows)
        kept = read_rows(path).join(added, on=["where", "stage", "metric"], how="anti", maintain_order="left")
        write_rows(path, pl.concat([kept, added]))

    def latest(self) -> State | None:
        """Return the newest undamaged state, and remove the rows of later rounds, because those rounds run again."""
        for leftover in self.folder.glob(".round-*.tmp"):  # left by a process that was killed while it wrote
            leftover.unlink()
        for number, path in reversed(self._numbered("ckpt").items()):
            try:
                state = decode(path.read_bytes())
            except RunRefused as error:
                log.warning("checkpoint %s is damaged (%s): going back to the one before it", path.name, error)
                path.unlink()
                continue
            self._forget_rows_after(number)
            return state
        self._forget_rows_after(-1)
        return None

    def _forget_rows_after(self, last: int) -> None:
        for number, path in self._numbered("parquet").items():
            if number > last:
                path.unlink()

    def rows(self) -> pl.DataFrame:
        """Return all rows so far, in the order of the rounds."""
        frames = [read_rows(path) for path in self._numbered("parquet").values()]
        return pl.concat(frames) if frames else to_frame("", [])
