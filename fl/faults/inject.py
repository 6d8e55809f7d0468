"""Faults that are injected on purpose, as `faults` in the configuration says: the same in every repetition of a seed.

The seed, the round and the client determine whether a fault strikes. So clients and server agree on it without a
message: clients commit the fault, and the server records it (`Noting`).
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Array, Message, RecordDict

from fl.config.schema import FedveilConfig
from fl.faults.options import DUPLICATED, LATE, MESSAGES, REPLAYED, TAMPERED, WIRE, FaultsConfig
from privacy.addresses import Address, is_client
from privacy.errors import RuntimeFailure
from privacy.randomness import seed_from
from privacy.secure_sums.contract import Exchange
from privacy.secure_sums.vectors import Vector

FAULT = "fault_"  # and what it is: the metric of one that happened
KEPT = "kept/"  # before the name of a record of an earlier round, which a client keeps to send it again
EXCESS = 8  # how often an oversized message repeats its largest record
HELD_S = 0.01  # between looks at messages that are held up
log = logging.getLogger("fedveil")


# ---- Whom it strikes


def scale_of(client: int, faults: FaultsConfig, clients: int, seed: int) -> float:
    """Return the factor of a client's update: the configured scale for a cheating client, 1 for the others."""
    return faults.scale if client in scaled_clients(faults.scaled_clients, clients, seed) else 1.0


@lru_cache(maxsize=8)
def scaled_clients(count: int, clients: int, seed: int) -> frozenset[int]:
    """Draw the indices of the clients that cheat."""
    generator = np.random.default_rng(seed_from(seed, "faults", "scaled clients"))
    return frozenset(map(int, generator.choice(clients, count, replace=False)))


def falls_silent(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> bool:
    """True where this client drops out in a round; never at set-up, which every client must complete."""
    if not faults.dropout_rate or number == 0 or faults.dropout_stage not in (None, stage):
        return False
    return _drawn("drop-out", client, number, seed) < faults.dropout_rate


def drop_out(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> None:
    """Drop out, where the seed says so for this client and round.

    Raises:
        RuntimeFailure: the client drops out.
    """
    if falls_silent(client, number, stage, faults, seed):
        raise RuntimeFailure(f"drops out on purpose (faults.dropout_rate={faults.dropout_rate:g})")


def kind_of(client: int, number: int, faults: FaultsConfig, seed: int) -> str | None:
    """Return the kind of fault that strikes a client in a round, or None. The choice of clients ignores the kind."""
    if not faults.rate or number == 0 or _drawn("kind", client, number, seed) >= faults.rate:
        return None
    return faults.kind


def _drawn(what: str, client: int, number: int, seed: int) -> float:
    return float(np.random.default_rng(seed_from(seed, "faults", what, number, client)).random())


def killed(address: Address, number: int, faults: FaultsConfig, claim: Callable[[str], bool]) -> None:
    """End this process as `kill -9` would, where the faults say so, and once only, so that the run can resume.

    Args:
        address: address of the role that this process plays.
        number: the round.
        faults: the configured faults.
        claim: claims a name durably; returns True where the name was never claimed before.
    """
    if address == faults.killed and number == faults.killed_round and claim(f"killed-{number}"):
        log.warning("%s dies on purpose in round %d (faults.killed=%s)", address, number, address)
        os.kill(os.getpid(), signal.SIGKILL)


def claims_in(folder: Path) -> Callable[[str], bool]:
    """Return a function that claims names durably, with a file in `folder` for each claim."""

    def claim(name: str) -> bool:
        with suppress(FileExistsError), (folder / name).open("x"):
            return True
        return False

    return claim


# ---- What a client does


def claimed_weight(v: float, client: int, number: int, faults: FaultsConfig, seed: int) -> float:
    """Return the weight that a client claims and applies to its update, in [0, 1]: `v`, 0, or a false claim."""
    kind = kind_of(client, number, faults, seed)
    return {"weightless": 0.0, "lying": faults.claimed_weight}.get(kind or "", v)


def spoilt(vector: Vector, client: int, number: int, faults: FaultsConfig, seed: int) -> Vector:
    """Return a client's contribution, shape (D + 1,), or its replacement by a fault."""
    kind = kind_of(client, number, faults, seed)
    if kind == "not_finite":
        vector[0] = np.inf
        vector[len(vector) // 2] = np.nan
    if kind == "misshapen":
        return np.append(vector, vector[-1:])
    return vector.astype(np.float64) if kind == "retyped" else vector


def tamper(
    content: RecordDict, address: Address, number: int, stage: str, config: FedveilConfig, own: RecordDict
) -> None:
    """Apply a fault to a client's reply before it is sent; `own` is the client's state, with replies to replay."""
    faults = config.faults
    befallen = is_client(address) and number > 0 and faults.stage in (None, stage)
    if faults.kind not in TAMPERED or not befallen:
        return
    client = _index(address)
    kind = kind_of(client, number, faults, config.seed)
    if faults.kind == REPLAYED:
        _replay(content, stage, own, kind == REPLAYED)
    elif kind is not None:
        _damage(content, kind, np.random.default_rng(seed_from(config.seed, "faults", "place", number, client)))


def _replay(content: RecordDict, stage: str, own: RecordDict, struck: bool) -> None:
    """Keep the records of this reply for later rounds; where struck, send the records kept earlier, if any."""
    earlier = {name: own[key] for key in own if (name := key.removeprefix(_kept(stage))) != key}
    for name, record in content.items():
        own[_kept(stage) + name] = record
    if struck and earlier:
        content.clear()
        content.update(earlier)


def _kept(stage: str) -> str:
    return f"{KEPT}{stage}/"


def outlasting(state: RecordDict) -> RecordDict:
    """Return the part of a node's state that is kept longer than a round."""
    return RecordDict({name: record for name, record in state.items() if name.startswith(KEPT)})


def _damage(content: RecordDict, kind: str, generator: np.random.Generator) -> None:
    """Change the bytes of the largest array of a message; a message without arrays is left unchanged."""
    found = [
        (len(array.data), record, name) for record in content.array_records.values() for name, array in record.items()
    ]
    if not found:
        return
    _, record, name = max(found, key=lambda one: one[0])
    array = record[name]
    record[name] = Array(array.dtype, array.shape, array.stype, _damaged(array.data, kind, generator))


def _damaged(data: bytes, kind: str, generator: np.random.Generator) -> bytes:
    if kind == "truncated":
        return data[: len(data) // 2]
    if kind == "oversized":
        return data * (1 + EXCESS)
    changed = bytearray(data)
    if changed:
        changed[int(generator.integers(len(changed)))] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _index(address: Address) -> int:
    return int(address.partition("/")[2])


# ---- What the server sees of it


class Noting:
    """The server's record of each fault as it happens: the address that is asked, and the kind of fault."""

    def __init__(self, config: FedveilConfig) -> None:
        self._config = config
        self._asked: dict[tuple[Address, str], int] = {}  # in which round first: only what was sent can be replayed

    def of(self, exchange: Exchange, number: int) -> dict[Address, str]:
        """Return the faults of an exchange, by the address of each participant that is struck."""
        clients = [address for address in exchange.outbox if is_client(address)] if number else []
        for address in clients if self._config.faults.kind == REPLAYED else ():
            self._asked.setdefault((address, exchange.stage), number)
        return {address: kind for address in clients if (kind := self._one(address, exchange, number))}

    def wire(self, struck: Mapping[str, str]) -> "Wire":
        """Make the channel of the replies to one exchange; `struck` maps message ids to kinds of fault."""
        return Wire(struck, self._config.faults.delay_s)

    def _one(self, address: Address, exchange: Exchange, number: int) -> str | None:
        faults = self._config.faults
        seed = self._config.seed
        client = _index(address)
        if falls_silent(client, number, exchange.stage, faults, seed):
            return "dropout"
        kind = kind_of(client, number, faults, seed)
        if kind is not None and self._happens(kind, address, exchange, number):
            return kind
        scaled = exchange.collect and client in scaled_clients(faults.scaled_clients, self._config.clients, seed)
        return "scaled" if scaled else None

    def _happens(self, kind: str, address: Address, exchange: Exchange, number: int) -> bool:
        if kind not in MESSAGES:
            return exchange.collect
        first = self._asked.get((address, exchange.stage), 0)
        return self._config.faults.stage in (None, exchange.stage) and first < number


class Wire:
    """The channel of the replies to one exchange: it delays some replies, and duplicates some."""

    def __init__(self, struck: Mapping[str, str], delay_s: float) -> None:
        self._struck = {number: kind for number, kind in struck.items() if kind in WIRE}
        self._delay_s = delay_s
        self._held: dict[str, tuple[float, Message]] = {}

    def awaited(self, numbers: Iterable[str]) -> list[str]:
        """Return the ids of the messages whose reply is not being delayed."""
        return [number for number in numbers if number not in self._held]

    @property
    def pause_s(self) -> float:
        """The pause between two checks, in seconds, while replies are delayed; 0 where there are none."""
        return HELD_S if self._held else 0.0

    def brought(self, arrived: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies to deliver: delayed ones that are due, then those that have arrived and are not delayed."""
        now_s = time.monotonic()
        for number in [number for number, (due_s, _) in self._held.items() if due_s <= now_s]:
            yield self._held.pop(number)[1]
        for reply in arrived:
            number = reply.metadata.reply_to_message_id
            kind = self._struck.get(number)
            if kind == LATE:
                self._held[number] = now_s + self._delay_s, reply
                continue
            yield reply
            if kind == DUPLICATED:
                yield reply
