"""Messages between a SuperNode and the resident process of its role, over a Unix socket.

A message, and the answer to it, is its length in 8 bytes, and Flower's records as Protocol Buffers.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from privacy.addresses import Address
from privacy.errors import ProtocolError, RuntimeFailure

SOCKET = "socket"  # file name in the role's folder


LENGTH_BYTES = 8


MAX_BYTES = 2**31 - 1  # the limit of Protocol Buffers


CHUNK_BYTES = 1 << 20  # memory is allocated as bytes arrive, whatever the announced length


def relay(path: Path, role: Address, content: RecordDict) -> RecordDict:
    """Relay a message to the process that plays a role, and return its answer.

    Raises:
        RuntimeFailure: the process is not listening, or died.
    """
    try:
        connection = _connected(path)
    except OSError:
        start = f"start `python -m fl.runtimes.resident {role}`"
        raise RuntimeFailure(f"the process of {role} does not answer at {path}: {start}") from None
    try:
        with connection:
            send(connection, content)
            return receive(connection)
    except (OSError, ProtocolError):
        raise RuntimeFailure(f"the process of {role} died") from None


def answers(path: Path) -> bool:
    """True where a process listens at a socket."""
    try:
        _connected(path).close()
    except OSError:
        return False
    return True


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with short_name(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Yield a short name for a path, because the name of a socket has at most 108 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def send(connection: socket.socket, content: RecordDict) -> None:
    """Write one message to a connection."""
    data = recorddict_to_proto(content).SerializeToString()
    connection.sendall(len(data).to_bytes(LENGTH_BYTES, "big"))
    connection.sendall(data)


def receive(connection: socket.socket) -> RecordDict:
    """Receive the records of one message.

    Raises:
        ProtocolError: the message is too long, ends early, or holds no records.
    """
    length = int.from_bytes(_exactly(connection, LENGTH_BYTES), "big")
    if length > MAX_BYTES:
        raise ProtocolError(f"a message of {length} bytes is longer than {MAX_BYTES}")
    data = _exactly(connection, length)
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except Exception as error:  # the parsers can raise any exception on these bytes
        raise ProtocolError(f"{length} bytes are not records: {error}") from None


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(min(CHUNK_BYTES, count - len(data)))
        if not chunk:
            raise ProtocolError(f"a message ends after {len(data)} of {count} bytes")
        data += chunk
    return bytes(data)
