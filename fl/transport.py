"""The transport: it moves records between server and participants as Flower messages, and counts their bytes.

A message holds the protocol's records, the global model at the stage that collects contributions, the mechanisms'
public state, the address, and an envelope: run, round, attempt, stage and configuration. A reply holds records, or an
error by name, a note of the attempt, and measurements; in test mode also the contribution in the clear.
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

from fl.metering import Meter, serialised_bytes
from privacy import errors
from privacy.addresses import Address, is_client
from privacy.secure_sums.contract import Exchange, Records, Value
from privacy.secure_sums.vectors import Vector

TRAIN = "train"
RAW_BYTES = "fedveil.bytes"  # the serialisation type of an Array that carries bytes unchanged

ARRAYS = "arrays"
SCALARS = "scalars"
MODEL = "model"
METRICS = "metrics"
FAILURE = "failure"
CLEAR = "clear"  # in test mode alone: the client's contribution in the clear, beside the protocol's records
ADDRESS = "address"
ROLE = "role"  # in a node's configuration: the address of a role other than client and server
RESIDENT = "resident"  # in a node's configuration: the socket of the process that plays the role
ENVELOPE = "envelope"
STATE = "state"
KEPT = "kept/"  # before the name of a record of a node's state that the node keeps longer than a round
PROTOCOL = (ARRAYS, SCALARS)
MOST_OF_A_REASON = 1000  # largest number of characters kept of a participant's error message
NPY_HEADER_BYTES = 128  # size of the header of an array without fields, in NumPy's file format
log = logging.getLogger("fedveil")


def pack(records: Records) -> RecordDict:
    """Convert a protocol's records to Flower's; byte strings travel as native arrays, without a copy."""
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
    """Return the same as `Array(value)` in a third of its time: NumPy writes the header once per type and shape."""
    dtype, beginning = _npy_beginning(value.dtype, value.shape)
    return Array(dtype, value.shape, SType.NUMPY, b"".join((beginning, np.ascontiguousarray(value).data)))


@lru_cache(maxsize=256)
def _npy_beginning(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> tuple[str, bytes]:
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return str(dtype), file.getvalue()


def unpack(content: RecordDict) -> dict[str, Value]:
    """Convert Flower's records back to the protocol's records that `pack` was given.

    Raises:
        MalformedContribution: an array cannot be read.
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
    """Return a record by name and type, or None.

    Flower's own views would copy and check all records, several times a message.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def read_array(name: str, array: Array) -> NDArray[np.generic]:
    """Return the NumPy array that an Array carries, as a read-only view of its bytes.

    Raises:
        MalformedContribution: the array cannot be read; objects are never unpickled.
    """
    try:
        if array.stype != SType.NUMPY:
            raise TypeError(f"it is of type {array.stype}")
        shape, dtype, start = _npy_header(array.data[:NPY_HEADER_BYTES])
        if len(array.data) != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(array.data)} bytes are not those of {shape} values of {dtype}")
        return np.frombuffer(array.data, dtype, count=math.prod(shape), offset=start).reshape(shape)
    except Exception as error:  # NumPy's parsers can raise any exception on a peer's bytes
        raise errors.MalformedContribution(f"the array {name} cannot be read: {error}") from None


@lru_cache(maxsize=256)  # NumPy evaluates the header as Python code, and that takes longer than reading a small model
def _npy_header(beginning: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    file = io.BytesIO(beginning)
    version = np.lib.format.read_magic(file)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or fortran_order or dtype.hasobject:
        raise ValueError(f"it is of format {version}, order {'F' if fortran_order else 'C'}, type {dtype}")
    return shape, dtype, file.tell()


def failure(error: Exception) -> ConfigRecord:
    """Encode an error as a record, with its type's name and its message, which the server reads."""
    return ConfigRecord({"type": type(error).__name__, "message": str(error) or type(error).__name__})


def told(answered: Callable[[], RecordDict]) -> RecordDict:
    """Return an answer, or the record of the error that keeps a node from it."""
    try:
        return answered()
    except Exception as error:
        if not isinstance(error, errors.FedveilError):  # a defect, not a refusal: log the traceback
            log.warning("a client cannot answer", exc_info=error)
        return RecordDict({FAILURE: failure(error)})


def report(metrics: Mapping[str, float]) -> ConfigRecord:
    """Encode a client's measurements by phase: names, and values as bytes, as Flower checks lists value by value."""
    return ConfigRecord({"names": ",".join(metrics), "values": struct.pack(f"<{len(metrics)}d", *metrics.values())})


def read_report(content: RecordDict) -> dict[str, float]:
    """Decode the record that `report` wrote; return an empty dictionary where it cannot be read."""
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
    """One attempt at one round: the fields that are in the envelope of each of its messages."""

    run: str
    canonical: str
    round: int
    attempt: str
    state: Mapping[str, float] = field(default_factory=dict)  # public state of the mechanisms, which clients receive


def note_of(attempt: str, content: RecordDict, signed: bool) -> ConfigRecord:
    """Make the note of a reply: its attempt and, where the reply is not signed, a checksum of its arrays."""
    return ConfigRecord({"attempt": attempt} if signed else {"attempt": attempt, "checksum": _checksum(content)})


def require_intact(content: RecordDict, attempt: Attempt) -> None:
    """Refuse a reply that was misdirected or damaged in transit. Only signatures protect against a forged note.

    Raises:
        ProtocolError: the note names another attempt.
        MalformedContribution: the note holds another checksum.
    """
    note = record_of(content, ENVELOPE, ConfigRecord) or ConfigRecord()
    if note.get("attempt", attempt.attempt) != attempt.attempt:
        raise errors.ProtocolError("this is the reply to an earlier message")
    if "checksum" in note and note["checksum"] != _checksum(content):
        raise errors.MalformedContribution("the reply is damaged: it has another checksum")


def _checksum(content: RecordDict) -> int:
    """Compute the CRC-32 of all arrays, which detects every error burst of up to 32 bits.

    It takes a twentieth of the time of packing.
    """
    arrays = record_of(content, ARRAYS, ArrayRecord) or ArrayRecord()
    return reduce(lambda sum_, array: zlib.crc32(array.data, sum_), arrays.values(), 0)


def _shared(exchange: Exchange, attempt: Attempt, model_D: Vector | None) -> RecordDict:
    """Make the records that are the same for the whole cohort, once per exchange."""
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
    """The carrier of exchanges over a Flower grid.

    `nodes` maps addresses to Flower's node ids. A participant that fails, answers late or does not answer has dropped
    out.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[Address, int],
        meter: Meter,
        deadline_s: float | None,
        poll_s: float,
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._meter = meter
        self._deadline_s = deadline_s
        self._poll_s = poll_s
        self._told = False
        self.dropped: dict[Address, str] = {}  # reasons of drop-outs in the current attempt
        self.watch: Callable[[str], None] | None = None  # takes a few words on each answer
        self.overhear: Callable[[Address, object], None] | None = None  # in test mode: takes the clear contributions

    def replies(
        self, exchange: Exchange, attempt: Attempt, model_D: Vector | None
    ) -> Iterator[tuple[Address, RecordDict]]:
        """Send the exchange and yield the content of each reply as it arrives, still packed."""
        stage = exchange.stage
        limit_s, limit = self._limit(exchange)
        with self._meter.span("transport", stage):
            waiting = self._send(exchange, attempt, model_D)
            for reply in self._arrivals(waiting, limit_s):
                address = waiting.pop(reply.metadata.reply_to_message_id, None)
                if address is None:  # a second reply to the same message
                    continue
                if self.watch is not None:
                    asked = len(exchange.outbox)
                    self.watch(f"stage {stage}, {asked - len(waiting)} of {asked} answers")
                content = self._open(address, stage, reply)
                if content is not None:
                    yield address, content
            silent = dict.fromkeys(waiting.values(), f"no answer within {limit}={limit_s:g}")
            for address, reason in silent.items():
                self.drop(address, stage, "dropped", reason)
            self.dropped = silent | self.dropped  # silent ones first: others may have failed because of them

    def drop(self, address: Address, stage: str, metric: str, reason: str) -> None:
        """Record that a participant is left out of this attempt, and the reason."""
        if not self._told:
            self._told = True  # one warning a run: with a drop-out rate there would be one in every round
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
        """Return the wait for answers in seconds, and its key: the lesser of the deadline and the protocol's limit."""
        limits = [(self._deadline_s, "server.deadline_s"), (exchange.timeout_s, "secure_sum.timeout_s")]
        return min((limit_s, key) for limit_s, key in [*limits, (math.inf, "")] if limit_s is not None)

    def _arrivals(self, waiting: Mapping[str, Address], limit_s: float) -> Iterator[Message]:
        """Yield replies as they arrive, while any are awaited and the time limit has not passed."""
        ends = time.monotonic() + limit_s
        while waiting and time.monotonic() < ends:
            yield from self._arrived(list(waiting))

    def _arrived(self, awaited: Sequence[str]) -> list[Message]:
        """Return the replies to these messages that have arrived since the last call; pause where there are none."""
        arrived = list(self._grid.pull_messages(awaited))
        if not arrived:
            time.sleep(self._poll_s)
        return arrived

    def _open(self, address: Address, stage: str, reply: Message) -> RecordDict | None:
        """Return the content of a reply, and count its bytes; None where the participant could not answer."""
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
            # a configuration that cannot work at one client is an error that the user must fix, not a drop-out
            raise errors.ConfigError(message)
        if kind == errors.WitnessAlarm.__name__:
            raise errors.WitnessAlarm(message)  # all clients run the same code, so none of them is protected
        if kind == errors.RuntimeFailure.__name__ and not is_client(address):
            raise errors.RuntimeFailure(message)  # the role's process died, and no other process can replace it
        self.drop(address, stage, "dropped", message)
