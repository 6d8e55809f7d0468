"""A recording of the server's messages, byte by byte, in a folder."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fl.transport import ADDRESS, ENVELOPE


class Recorder:
    """A wrapper of any grid that writes a file for each message: `N-stage-address.sent` and `.received`."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self._numbers = count()
        self._names: dict[str, str] = {}
        folder.mkdir(parents=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        listed = list(messages)
        identifiers = list(self._inner.push_messages(listed))
        for identifier, message in zip(identifiers, listed, strict=True):
            stage = message.content[ENVELOPE]["stage"]
            address = str(message.content[ADDRESS]["address"])
            self._names[identifier] = f"{next(self._numbers):03d}-{stage}-{address.replace('/', '_')}"
            self._keep(self._names[identifier], "sent", message.content)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = list(self._inner.pull_messages(message_ids))
        for reply in replies:
            self._keep(self._names[reply.metadata.reply_to_message_id], "received", reply.content)
        return replies

    def _keep(self, name: str, way: str, content: RecordDict) -> None:
        (self._folder / f"{name}.{way}").write_bytes(recorddict_to_proto(content).SerializeToString())


def recorded(file: Path) -> RecordDict:
    """The records in a file."""
    return recorddict_from_proto(ProtoRecordDict.FromString(file.read_bytes()))
