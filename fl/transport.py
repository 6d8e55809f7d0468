"""Moves records between the server and the participants as Flower messages, and counts their bytes.

A message holds the protocol's records, the global model at the stage that collects, and an envelope: address, stage,
round, attempt, and the configuration with its hash. A reply holds records, or an error by name, and measurements.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.metering import Meter, serialised_bytes
from privacy import errors
from privacy.secure_sum import Address, Exchange, Records, Value, Vector

TRAIN = "train"
IDENTIFY = "query.identify"
RAW_BYTES = "fedveil.bytes"  # the serialisation type of an Array that carries bytes as they are

ARRAYS, SCALARS, MODEL, ENVELOPE, METRICS, FAILURE = "arrays", "scalars", "model", "envelope", "metrics", "failure"
PROTOCOL = (ARRAYS, SCALARS)
log = logging.getLogger("fedveil")


def pack(records: Records) -> RecordDict:
    """A protocol's records as Flower's; byte strings travel as native arrays, uncopied."""
    arrays, scalars = ArrayRecord(), ConfigRecord()
    for name, value in records.items():
        if isinstance(value, np.ndarray):
            arrays[name] = Array(value)
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


def unpack(content: RecordDict) -> dict[str, Value]:
    """What `pack` packed.

    Raises:
        MalformedContribution: an array that cannot be read.
    """
    records: dict[str, Value] = {}
    for name, array in content.array_records.get(ARRAYS, ArrayRecord()).items():
        records[name] = array.data if array.stype == RAW_BYTES else _read_array(name, array)
    for name, scalar in content.config_records.get(SCALARS, ConfigRecord()).items():
        if isinstance(scalar, int | float | str | bytes):
            records[name] = scalar
    return records


def _read_array(name: str, array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    try:
        return array.numpy()
    except (ValueError, TypeError, EOFError, OSError, SyntaxError, MemoryError) as error:
        raise errors.MalformedContribution(f"the array {name} cannot be read: {error}") from None


def failure(error: Exception) -> ConfigRecord:
    """An error as a record that `raise_failure` understands at the other end."""
    return ConfigRecord({"type": type(error).__name__, "message": str(error) or type(error).__name__})


@dataclass(frozen=True)
class Attempt:
    """One try at one round: what is in every envelope of it."""

    run: str
    canonical: str
    round: int
    attempt: str


class Transport:
    """Carries exchanges over a Flower grid.

    `nodes` maps addresses to Flower's node ids. A participant that fails, answers late or not at all has dropped out.
    """

    def __init__(
        self, grid: Grid, nodes: Mapping[Address, int], meter: Meter, deadline_s: float | None, poll_s: float
    ) -> None:
        self._grid, self._nodes, self._meter = grid, nodes, meter
        self._deadline_s, self._poll_s = deadline_s, poll_s
        self._told = False
        self.dropped: dict[Address, str] = {}  # why, in the attempt under way

    def replies(
        self, exchange: Exchange, attempt: Attempt, model_D: Vector | None
    ) -> Iterator[tuple[Address, RecordDict]]:
        """Send the exchange and yield the content of each reply as it arrives, still packed."""
        stage = exchange.stage
        with self._meter.span("transport", stage):
            waiting = self._send(exchange, attempt, model_D)
            for reply in self._arrivals(set(waiting)):
                address = waiting[reply.metadata.reply_to_message_id]
                content = self._open(address, stage, reply)
                if content is not None:
                    yield address, content

    def drop(self, address: Address, stage: str, metric: str, reason: str) -> None:
        """Note that a participant is left out of this attempt, and why."""
        if not self._told:
            self._told = True  # once a run: with a drop-out rate there would be no end of it
            log.warning("round %d: %s is left out at stage %s: %s", self._meter.round, address, stage, reason)
        self.dropped[address] = reason
        self._meter.add(address, stage, metric, 1.0, "1")

    def _send(self, exchange: Exchange, attempt: Attempt, model_D: Vector | None) -> dict[str, Address]:
        model = ArrayRecord({MODEL: Array(model_D)}) if exchange.collect and model_D is not None else None
        addresses = list(exchange.outbox)
        messages = [self._message(exchange, address, attempt, model) for address in addresses]
        return dict(zip(self._grid.push_messages(messages), addresses, strict=True))

    def _message(self, exchange: Exchange, address: Address, attempt: Attempt, model: ArrayRecord | None) -> Message:
        content = pack(exchange.outbox[address])
        if model is not None:
            content[MODEL] = model  # one record for the whole cohort: serialised once
        content[ENVELOPE] = ConfigRecord(
            {
                "address": address,
                "stage": exchange.stage,
                "round": attempt.round,
                "attempt": attempt.attempt,
                "run": attempt.run,
                "config": attempt.canonical,
            }
        )
        down_bytes = serialised_bytes(content, (*PROTOCOL, MODEL))
        self._meter.add(address, exchange.stage, "down_bytes", down_bytes, "bytes")
        self._meter.add(address, exchange.stage, "envelope_bytes", serialised_bytes(content, (ENVELOPE,)), "bytes")
        return Message(content, self._nodes[address], TRAIN, group_id=str(attempt.round))

    def _arrivals(self, waiting: set[str]) -> Iterator[Message]:
        """Replies as they come, until all are here or the deadline has passed."""
        ends = None if self._deadline_s is None else time.monotonic() + self._deadline_s
        while waiting and (ends is None or time.monotonic() < ends):
            arrived = list(self._grid.pull_messages(waiting))
            for reply in arrived:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if not arrived:
                time.sleep(self._poll_s)

    def _open(self, address: Address, stage: str, reply: Message) -> RecordDict | None:
        """The content of a reply, counted; None when the participant could not answer."""
        if reply.has_error():
            self.drop(address, stage, "dropped", reply.error.reason or f"Flower error {reply.error.code}")
            return None
        content = reply.content
        if FAILURE in content.config_records:
            self._note_failure(address, stage, content.config_records[FAILURE])
            return None
        self._meter.add(address, stage, "up_bytes", serialised_bytes(content, PROTOCOL), "bytes")
        self._meter.phases(address, content.metric_records.get(METRICS, MetricRecord()))
        return content

    def _note_failure(self, address: Address, stage: str, record: ConfigRecord) -> None:
        kind, message = str(record["type"]), str(record["message"])
        if kind == errors.ConfigError.__name__:
            # a configuration that cannot work at one client is the user's to mend, not a drop-out
            raise errors.ConfigError(message)
        self.drop(address, stage, "dropped", message)


def identify(grid: Grid, node_ids: Iterable[int], timeout_s: float) -> dict[Address, int]:
    """Ask each node which address it answers to."""
    messages = [Message(RecordDict(), node_id, IDENTIFY) for node_id in node_ids]
    nodes: dict[Address, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        if reply.has_content():
            nodes[str(reply.content.config_records[ENVELOPE]["address"])] = reply.metadata.src_node_id
    return nodes
