"""In-process grids with an attacker on the wire: real clients, with their replies changed in transit."""

from collections.abc import Callable, Iterable

from flwr.app import Error, Message, RecordDict

from fl.runtimes.inprocess import FIRST_CLIENT_NODE, InProcessGrid
from fl.workspace import Workspace

Tamper = Callable[[str, Message], Iterable[Message]]


class Tampered(InProcessGrid):
    """A grid that passes each reply with its sender's address to `tamper`, and delivers the result."""

    def __init__(self, work: Workspace, tamper: Tamper) -> None:
        super().__init__(work.plan.hash, work.plan.config.clients)
        self.tamper = tamper
        self.ran: list[tuple[str, str]] = []  # address and stage of each message that a client was given
        self.pushed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.pushed = list(messages)
        return super().push_messages(self.pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        stages = {m.metadata.message_id: m.content["envelope"]["stage"] for m in self.pushed}
        replies = super().pull_messages(message_ids)
        self.ran += [(sender(reply), str(stages[reply.metadata.reply_to_message_id])) for reply in replies]
        return [delivered for reply in replies for delivered in self.tamper(sender(reply), reply)]


def sender(reply: Message) -> str:
    return f"client/{reply.metadata.src_node_id - FIRST_CLIENT_NODE}"


def untouched(_: str, reply: Message) -> list[Message]:
    return [reply]


def only(address: str, change: Callable[[Message], Iterable[Message]]) -> Tamper:
    """Change the replies of one client."""
    return lambda who, reply: change(reply) if who == address else [reply]


def with_content(reply: Message, content: RecordDict) -> Message:
    return Message(metadata=reply.metadata, content=content)


def with_error(reply: Message, code: int, reason: str | None) -> Message:
    return Message(metadata=reply.metadata, error=Error(code, reason))
