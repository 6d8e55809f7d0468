"""Moves records between the server and the participants as Flower messages, and counts their bytes.

A message holds the protocol's records, the global model at the stage that collects, what mechanisms tell clients, the
address, and an envelope: run, round, attempt, stage and configuration. A reply holds records, or an error by name, a
note of the attempt, and measurements; in test mode also the contribution as it was.
"""

import io
import logging
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import SType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fl.faults.inject import FAULT, Noting, Wire
from fl.metering import Meter, serialised_bytes
from privacy import errors
from privacy.addresses import Address, is_client
from privacy.secure_sums.contract import Exchange, Records, Value
from privacy.secure_sums.vectors import Vector

TRAIN = "train"
RAW_BYTES = "fedveil.bytes"  # the serialisation type of an Array that carries bytes as they are

ARRAYS = "arrays"
SCALARS = "scalars"
MODEL = "model"
METRICS = "metrics"
FAILURE = "failure"
CLEAR = "clear"  # in test mode alone: what a client contributed, beside what the protocol makes of it
ADDRESS = "address"
ENVELOPE = "envelope"
STATE = "state"
PROTOCOL = (ARRAYS, SCALARS)
MOST_OF_A_REASON = 1000  # characters of what a participant says of its failure
NPY_HEADER_BYTES = 128  # of an array without fields, in NumPy's own files
log = logging.getLogger("fedveil")


def pack(records: Records) -> RecordDict:
    """A protocol's records as Flower's; byte strings travel as native arrays, uncopied."""
    arrays = ArrayRecord()
    scalars = ConfigRecord()
    for name, value in records.items():
        if isinstance(value, np.ndarray):
            arrays[name] = as_array(value)
        elif isinstance(value, bytes):
            arrays[name] = Array("uint8", (len(value),), RAW_BYTES, value)
        else:
            scalars[name] = value
    content = RecordDict()
    if arrays:
        content[ARRAYS] = arrays
    if scalars:
        content[SCALARS] = scalars
    return content


def as_array(value: NDArray[np.generic]) -> Array:
    """What `Array(value)` gives, in a third of its time: NumPy writes the header once for each type and shape."""
    dtype, beginning = _npy_beginning(value.dtype, value.shape)
    return Array(dtype, value.shape, SType.NUMPY, b"".join((beginning, np.ascontiguousarray(value).data)))


@lru_cache(maxsize=256)
def _npy_beginning(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> tuple[str, bytes]:
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return str(dtype), file.getvalue()


def unpack(content: RecordDict) -> dict[str, Value]:
    """What `pack` packed.

    Raises:
        MalformedContribution: an array that cannot be read.
    """
    records: dict[str, Value] = {}
    arrays = record_of(content, ARRAYS, ArrayRecord)
    scalars = record_of(content, SCALARS, ConfigRecord)
    for name, array in arrays.items() if arrays else ():
        records[name] = array.data if array.stype == RAW_BYTES else read_array(name, array)
    for name, scalar in scalars.items() if scalars else ():
        if isinstance(scalar, int | float | str | bytes):
            records[name] = scalar
    return records


R = TypeVar("R")


def record_of(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """A record by name and kind, or None. Flower's own views copy and check all records, several times a message."""
    record = content.get(name)
    return record if isinstance(record, kind) else None


def read_array(name: str, array: Array) -> NDArray[np.generic]:
    """The NumPy array that an Array carries, over its bytes and therefore read-only.

    Raises:
        MalformedContribution: it cannot be read; objects are never unpickled.
    """
    try:
        if array.stype != SType.NUMPY:
            raise TypeError(f"it is of type {array.stype}")
        shape, dtype, start = _npy_header(array.data[:NPY_HEADER_BYTES])
        if len(array.data) != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(array.data)} bytes are not those of {shape} values of {dtype}")
        return np.frombuffer(array.data, dtype, count=math.prod(shape), offset=start).reshape(shape)
    except Exception as error:  # a peer's bytes make NumPy raise whatever its parsers may
        raise errors.MalformedContribution(f"the array {name} cannot be read: {error}") from None


@lru_cache(maxsize=256)  # NumPy evaluates the header as Python, which costs more than reading a small model
def _npy_header(beginning: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    file = io.BytesIO(beginning)
    version = np.lib.format.read_magic(file)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or fortran_order or dtype.hasobject:
        raise ValueError(f"it is of format {version}, order {'F' if fortran_order else 'C'}, type {dtype}")
    return shape, dtype, file.tell()


def failure(error: Exception) -> ConfigRecord:
    """An error as a record that `raise_failure` understands at the other end."""
    return ConfigRecord({"type": type(error).__name__, "message": str(error) or type(error).__name__})


def report(metrics: Mapping[str, float]) -> ConfigRecord:
    """What a client says of its phases: names, and numbers as bytes, because Flower checks lists number by number."""
    return ConfigRecord({"names": ",".join(metrics), "values": struct.pack(f"<{len(metrics)}d", *metrics.values())})


def read_report(content: RecordDict) -> dict[str, float]:
    """What `report` wrote; nothing where it cannot be read."""
    record = record_of(content, METRICS, ConfigRecord) or ConfigRecord()
    names = record.get("names")
    values = record.get("values")
    if not isinstance(names, str) or not isinstance(values, bytes):
        return {}
    split = names.split(",")
    try:
        return dict(zip(split, struct.unpack(f"<{len(split)}d", values), strict=True))
    except struct.error:
        return {}


@dataclass(frozen=True)
class Attempt:
    """One try at one round: what is in every envelope of it."""

    run: str
    canonical: str
    round: int
    attempt: str
    state: Mapping[str, float] = field(default_factory=dict)  # what the mechanisms' server halves tell clients


def note_of(attempt: str, content: RecordDict, signed: bool) -> ConfigRecord:
    """What a reply says of itself: the attempt that it belongs to, and a checksum of arrays that nobody signed."""
    return ConfigRecord({"attempt": attempt} if signed else {"attempt": attempt, "checksum": _checksum(content)})


def require_intact(content: RecordDict, attempt: Attempt) -> None:
    """Refuse what went astray or was damaged on its way. Who lies in it is found out by signatures alone.

    Raises:
        ProtocolError: it says that it belongs to another attempt.
        MalformedContribution: it says that it was otherwise.
    """
    note = record_of(content, ENVELOPE, ConfigRecord) or ConfigRecord()
    if note.get("attempt", attempt.attempt) != attempt.attempt:
        raise errors.ProtocolError("this is the reply to an earlier message")
    if "checksum" in note and note["checksum"] != _checksum(content):
        raise errors.MalformedContribution("the reply is damaged: it has another checksum")


def _checksum(content: RecordDict) -> int:
    """CRC-32: no accident of up to 32 bits in a row escapes it, and it takes a twentieth of what packing does."""
    arrays = record_of(content, ARRAYS, ArrayRecord) or ArrayRecord()
    return reduce(lambda sum_, array: zlib.crc32(array.data, sum_), arrays.values(), 0)


def _shared(exchange: Exchange, attempt: Attempt, model_D: Vector | None) -> RecordDict:
    """The records that are the same for the whole cohort, made once."""
    envelope = ConfigRecord({"run": attempt.run, "round": attempt.round, "attempt": attempt.attempt})
    envelope["stage"] = exchange.stage
    envelope["config"] = attempt.canonical
    shared = RecordDict({ENVELOPE: envelope})
    if exchange.collect and model_D is not None:
        shared[MODEL] = ArrayRecord({MODEL: as_array(model_D)})
    if attempt.state:
        shared[STATE] = ConfigRecord(dict(attempt.state))
    return shared


class Transport:
    """Carries exchanges over a Flower grid.

    `nodes` maps addresses to Flower's node ids, `faults` tells what goes wrong on purpose, where anything does. A
    participant that fails, answers late or not at all has dropped out.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[Address, int],
        meter: Meter,
        deadline_s: float | None,
        poll_s: float,
        faults: Noting | None = None,
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._meter = meter
        self._deadline_s = deadline_s
        self._poll_s = poll_s
        self._faults = faults
        self._told = False
        self.dropped: dict[Address, str] = {}  # why, in the attempt under way
        self.overhear: Callable[[Address, object], None] | None = None  # in test mode: takes what is told in the clear

    def replies(
        self, exchange: Exchange, attempt: Attempt, model_D: Vector | None
    ) -> Iterator[tuple[Address, RecordDict]]:
        """Send the exchange and yield the content of each reply as it arrives, still packed."""
        stage = exchange.stage
        limit_s, limit = self._limit(exchange)
        with self._meter.span("transport", stage):
            waiting = self._send(exchange, attempt, model_D)
            for reply in self._arrivals(waiting, limit_s, self._wire(exchange, attempt.round, waiting)):
                address = waiting.pop(reply.metadata.reply_to_message_id, None)
                if address is None:  # answered before
                    continue
                content = self._open(address, stage, reply)
                if content is not None:
                    yield address, content
            silent = dict.fromkeys(waiting.values(), f"no answer within {limit}={limit_s:g}")
            for address, reason in silent.items():
                self.drop(address, stage, "dropped", reason)
            self.dropped = silent | self.dropped  # they come first: others may have failed for want of them

    def drop(self, address: Address, stage: str, metric: str, reason: str) -> None:
        """Note that a participant is left out of this attempt, and why."""
        if not self._told:
            self._told = True  # once a run: with a drop-out rate there would be no end of it
            log.warning("round %d: %s is left out at stage %s: %s", self._meter.round, address, stage, reason)
        self.dropped[address] = reason
        self._meter.add(address, stage, metric, 1.0, "1")

    def _send(self, exchange: Exchange, attempt: Attempt, model_D: Vector | None) -> dict[str, Address]:
        shared = _shared(exchange, attempt, model_D)
        addresses = list(exchange.outbox)
        messages = [self._message(exchange, address, attempt, shared) for address in addresses]
        self._count_sent(exchange, shared, messages)
        numbers = list(self._grid.push_messages(messages))
        if len(numbers) != len(addresses):
            raise errors.RuntimeFailure(f"stage {exchange.stage}: the engine did not take the messages (too large?)")
        for number, address in zip(numbers, addresses, strict=True):
            if not number:
                self.drop(address, exchange.stage, "dropped", "the engine did not take the message for it")
        return {number: address for number, address in zip(numbers, addresses, strict=True) if number}

    def _message(self, exchange: Exchange, address: Address, attempt: Attempt, shared: RecordDict) -> Message:
        content = pack(exchange.outbox[address])
        content[ADDRESS] = ConfigRecord({"address": address})
        content.update(shared)
        return Message(content, self._nodes[address], TRAIN, group_id=str(attempt.round))

    def _count_sent(self, exchange: Exchange, shared: RecordDict, messages: Sequence[Message]) -> None:
        model_bytes = serialised_bytes(shared, (MODEL, STATE))
        envelope_bytes = serialised_bytes(shared, (ENVELOPE,))
        for address, message in zip(exchange.outbox, messages, strict=True):
            own_bytes = serialised_bytes(message.content, PROTOCOL)
            routing_bytes = serialised_bytes(message.content, (ADDRESS,))
            self._meter.add(address, exchange.stage, "down_bytes", own_bytes + model_bytes, "bytes")
            self._meter.add(address, exchange.stage, "envelope_bytes", routing_bytes + envelope_bytes, "bytes")

    def _limit(self, exchange: Exchange) -> tuple[float, str]:
        """How many seconds to wait for answers, and what says so: the sooner of the deadline and the protocol's own."""
        limits = [(self._deadline_s, "server.deadline_s"), (exchange.timeout_s, "secure_sum.timeout_s")]
        return min((limit_s, key) for limit_s, key in [*limits, (math.inf, "")] if limit_s is not None)

    def _wire(self, exchange: Exchange, number: int, waiting: Mapping[str, Address]) -> Wire:
        """The way that the replies take; the faults that happen in this exchange are written down."""
        if self._faults is None:
            return Wire({}, 0.0)
        struck = self._faults.of(exchange, number)
        for address, kind in struck.items():
            log.info("round %d: a fault on purpose: %s of %s at stage %s", number, kind, address, exchange.stage)
            self._meter.add(address, exchange.stage, f"{FAULT}{kind}", 1.0, "1")
        return self._faults.wire({message: struck[one] for message, one in waiting.items() if one in struck})

    def _arrivals(self, waiting: Mapping[str, Address], limit_s: float, wire: Wire) -> Iterator[Message]:
        """Replies as they come, while the caller still waits for any and the time has not passed."""
        ends = time.monotonic() + limit_s
        while waiting and time.monotonic() < ends:
            awaited = wire.awaited(waiting)
            arrived = list(self._grid.pull_messages(awaited)) if awaited else []
            yield from wire.brought(arrived)
            if not arrived:
                time.sleep(max(self._poll_s, wire.pause_s))

    def _open(self, address: Address, stage: str, reply: Message) -> RecordDict | None:
        """The content of a reply, counted; None when the participant could not answer."""
        if reply.has_error():
            self.drop(address, stage, "dropped", reply.error.reason or f"Flower error {reply.error.code}")
            return None
        content = reply.content
        failed = record_of(content, FAILURE, ConfigRecord)
        if failed is not None:
            self._note_failure(address, stage, failed)
            return None
        self._meter.add(address, stage, "up_bytes", serialised_bytes(content, PROTOCOL), "bytes")
        self._meter.phases(address, read_report(content))
        told = record_of(content, CLEAR, ArrayRecord)
        if told is not None and self.overhear is not None:
            self.overhear(address, read_array(CLEAR, told[CLEAR]))
            del content[CLEAR]
        return content

    def _note_failure(self, address: Address, stage: str, record: ConfigRecord) -> None:
        kind = str(record.get("type"))
        message = errors.shown(record.get("message"), MOST_OF_A_REASON)
        if kind == errors.ConfigError.__name__:
            # a configuration that cannot work at one client is the user's to mend, not a drop-out
            raise errors.ConfigError(message)
        if kind == errors.WitnessAlarm.__name__:
            raise errors.WitnessAlarm(message)  # what one client's code does not do, no other's does
        if kind == errors.RuntimeFailure.__name__ and not is_client(address):
            raise errors.RuntimeFailure(message)  # its process died, and nobody takes its place
        self.drop(address, stage, "dropped", message)
