"""What goes wrong on purpose, as `faults` in the configuration says: from the seed, so the same in every repetition.

Whom a fault strikes follows from the seed, the round and the client, so clients and server agree on it without a word:
clients do what goes wrong, and the server writes down that it did (`Noting`).
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
    """What a client multiplies its update by: 1, or the configured factor where it is one of those that cheat."""
    return faults.scale if client in scaled_clients(faults.scaled_clients, clients, seed) else 1.0


@lru_cache(maxsize=8)
def scaled_clients(count: int, clients: int, seed: int) -> frozenset[int]:
    """The clients that cheat."""
    generator = np.random.default_rng(seed_from(seed, "faults", "scaled clients"))
    return frozenset(map(int, generator.choice(clients, count, replace=False)))


def falls_silent(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> bool:
    """Whether it is this client's turn in a round; not at set-up, which everybody must live to see."""
    if not faults.dropout_rate or number == 0 or faults.dropout_stage not in (None, stage):
        return False
    return _drawn("drop-out", client, number, seed) < faults.dropout_rate


def drop_out(client: int, number: int, stage: str, faults: FaultsConfig, seed: int) -> None:
    """Fall silent in a round, where it is this client's turn.

    Raises:
        RuntimeFailure: it is.
    """
    if falls_silent(client, number, stage, faults, seed):
        raise RuntimeFailure(f"drops out on purpose (faults.dropout_rate={faults.dropout_rate:g})")


def kind_of(client: int, number: int, faults: FaultsConfig, seed: int) -> str | None:
    """The fault that strikes a client in a round, if one does. Who it is does not depend on the kind."""
    if not faults.rate or number == 0 or _drawn("kind", client, number, seed) >= faults.rate:
        return None
    return faults.kind


def _drawn(what: str, client: int, number: int, seed: int) -> float:
    return float(np.random.default_rng(seed_from(seed, "faults", what, number, client)).random())


def killed(address: Address, number: int, faults: FaultsConfig, claim: Callable[[str], bool]) -> None:
    """End this process as `kill -9` would, if its turn has come; once, as `claim` tells durably, so that it can go on.

    Args:
        address: whose process this is.
        number: the round.
        faults: what is to go wrong.
        claim: whether a name is claimed for the first time ever.
    """
    if address == faults.killed and number == faults.killed_round and claim(f"killed-{number}"):
        log.warning("%s dies on purpose in round %d (faults.killed=%s)", address, number, address)
        os.kill(os.getpid(), signal.SIGKILL)


def claims_in(folder: Path) -> Callable[[str], bool]:
    """Claims that a file each stands for."""

    def claim(name: str) -> bool:
        with suppress(FileExistsError), (folder / name).open("x"):
            return True
        return False

    return claim


# ---- What a client does


def claimed_weight(v: float, client: int, number: int, faults: FaultsConfig, seed: int) -> float:
    """What a client says of its weight, in [0, 1]: `v`, nothing, or what a liar does. Its update is weighted by it."""
    kind = kind_of(client, number, faults, seed)
    return {"weightless": 0.0, "lying": faults.claimed_weight}.get(kind or "", v)


def spoilt(vector: Vector, client: int, number: int, faults: FaultsConfig, seed: int) -> Vector:
    """What a client contributes, shape (D + 1,), or what a fault makes of it."""
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
    """Do to a client's reply what a fault does as it leaves; `own` is what the client keeps beside, for a replay."""
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
    """Keep what is sent for later rounds, and send what was kept where there is anything."""
    earlier = {name: own[key] for key in own if (name := key.removeprefix(_kept(stage))) != key}
    for name, record in content.items():
        own[_kept(stage) + name] = record
    if struck and earlier:
        content.clear()
        content.update(earlier)


def _kept(stage: str) -> str:
    return f"{KEPT}{stage}/"


def outlasting(state: RecordDict) -> RecordDict:
    """What a node keeps longer than a round, out of all that it remembers."""
    return RecordDict({name: record for name, record in state.items() if name.startswith(KEPT)})


def _damage(content: RecordDict, kind: str, generator: np.random.Generator) -> None:
    """Change the bytes of the largest array of a message, whatever it is; one without arrays has little to lose."""
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
    """Writes down each fault as it happens: whoever is asked for what is struck."""

    def __init__(self, config: FedveilConfig) -> None:
        self._config = config
        self._asked: dict[tuple[Address, str], int] = {}  # in which round first: only what was sent can be replayed

    def of(self, exchange: Exchange, number: int) -> dict[Address, str]:
        """The fault of each of those who are asked, where there is one."""
        clients = [address for address in exchange.outbox if is_client(address)] if number else []
        for address in clients if self._config.faults.kind == REPLAYED else ():
            self._asked.setdefault((address, exchange.stage), number)
        return {address: kind for address in clients if (kind := self._one(address, exchange, number))}

    def wire(self, struck: Mapping[str, str]) -> "Wire":
        """The way of the replies to one exchange, where so many messages are struck."""
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
    """The way of the replies to one exchange: some are held up, some come twice."""

    def __init__(self, struck: Mapping[str, str], delay_s: float) -> None:
        self._struck = {number: kind for number, kind in struck.items() if kind in WIRE}
        self._delay_s = delay_s
        self._held: dict[str, tuple[float, Message]] = {}

    def awaited(self, numbers: Iterable[str]) -> list[str]:
        """Those of the messages to which no reply is on its way."""
        return [number for number in numbers if number not in self._held]

    @property
    def pause_s(self) -> float:
        """For how long nothing will come that the engine does not bring."""
        return HELD_S if self._held else 0.0

    def brought(self, arrived: Iterable[Message]) -> Iterator[Message]:
        """What comes out at the end, of what the engine brought and of what was held up."""
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
