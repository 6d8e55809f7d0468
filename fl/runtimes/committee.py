"""The parties beside clients and server: a process each, spawned once, alive all run.

`CommitteeGrid` hands their messages to them and everything else to the runtime's own grid, so that the transport counts
both alike.
"""

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl.runtimes.lifetime import end_with_parent
from privacy.errors import RuntimeFailure
from privacy.secure_sum import Address

FIRST_ROLE_NODE = 2**62  # far from the numbers that engines give their nodes
WAIT_S = 0.05

_context: Context  # of the role that this process plays


class CommitteeGrid(Grid):
    """A grid with the committee's processes beside another grid's nodes."""

    def __init__(self, inner: Grid, pools: Mapping[int, tuple[Address, ProcessPoolExecutor]]) -> None:
        self._inner, self._pools = inner, pools
        self._futures: dict[Future[Message], Address] = {}
        self._waiting: set[str] = set()  # messages that the other grid carries
        self._count = 0

    def set_run(self, run: Run) -> None:
        """Flower's hook."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The other grid's nodes: the clients."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand out the messages of one exchange; the numbers are in their order."""
        listed = list(messages)
        others = [message for message in listed if message.metadata.dst_node_id not in self._pools]
        self._futures.clear()
        carried = iter(list(self._inner.push_messages(others)))
        numbers = [self._submit(m) if m.metadata.dst_node_id in self._pools else next(carried) for m in listed]
        self._waiting = {n for n, m in zip(numbers, listed, strict=True) if m.metadata.dst_node_id not in self._pools}
        return numbers

    def _submit(self, message: Message) -> str:
        address, pool = self._pools[message.metadata.dst_node_id]
        self._count += 1
        message.metadata.__dict__["_message_id"] = number = f"committee-{self._count}"
        with _alive(address):
            self._futures[pool.submit(_serve, message)] = address
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come."""
        wanted = [number for number in message_ids if number in self._waiting]
        replies = list(self._inner.pull_messages(wanted)) if wanted else []
        self._waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        done, _ = wait(self._futures, timeout=0 if wanted else WAIT_S, return_when=FIRST_COMPLETED)
        for future in done:
            with _alive(self._futures.pop(future)):
                replies.append(future.result())
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """All replies at once."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while len(replies) < len(waiting):
            replies.extend(self.pull_messages(waiting))
        return replies


@contextmanager
def _alive(address: Address) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise RuntimeFailure(f"the process of {address} died") from None


def _start(canonical: str, run_hash: str, address: Address) -> None:
    """In the new process: it plays one role, for one configuration, and remembers it between stages."""
    from fl.apps import role_context
    from fl.workspace import workspace

    global _context
    end_with_parent()
    _context = role_context(address, run_hash)
    assert workspace(canonical).spec


def _serve(message: Message) -> Message:
    from fl.apps import client_app

    return client_app(message, _context)


def _ready() -> None:
    """A process that answers this has started."""


@contextmanager
def attended(
    canonical: str, run_hash: str, roles: Iterable[Address], grid: Grid
) -> Iterator[tuple[Grid, dict[Address, int]]]:
    """The grid with a process for each role beside it, and the roles' nodes, while the block runs."""
    roles = tuple(roles)
    if not roles:
        yield grid, {}
        return
    spawn = multiprocessing.get_context("spawn")  # nothing of this process is inherited
    with ExitStack() as stack:
        pools: dict[int, tuple[Address, ProcessPoolExecutor]] = {}
        for node, address in enumerate(roles, FIRST_ROLE_NODE):
            pool = stack.enter_context(ProcessPoolExecutor(1, spawn, _start, (canonical, run_hash, address)))
            pools[node] = address, pool
        for address, pool in pools.values():
            with _alive(address):
                pool.submit(_ready).result()
        yield CommitteeGrid(grid, pools), {address: node for node, (address, _) in pools.items()}
