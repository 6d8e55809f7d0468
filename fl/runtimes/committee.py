"""The roles beside clients and server: one process per role, alive for the whole run, with the role's own keys alone.

`CommitteeGrid` passes these roles' messages to their processes and all other messages to the runtime's own grid, so
that the transport counts both in the same way.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl.keys import folders as keys
from fl.node import FIRST_ROLE_NODE, reply, role_context
from fl.plan import RunPlan
from fl.spawned.lifetime import end_with_parent
from privacy.addresses import Address
from privacy.errors import RuntimeFailure
from privacy.secure_sums.contract import Credentials
from privacy.secure_sums.meeting import Meeting

WAIT_S = 0.05

_context: Context  # context of the role that this process plays
_own: Credentials | None  # the role's keys, where the secure sum needs keys

Pools = Mapping[int, tuple[Address, ProcessPoolExecutor]]  # processes by node id
T = TypeVar("T")


class CommitteeGrid(Grid):
    """A grid that adds the committee's processes to the nodes of another grid."""

    def __init__(self, inner: Grid, pools: Pools, dealer: "Dealing | None" = None) -> None:
        self._inner = inner
        self._pools = pools
        self._dealer = dealer
        self._futures: dict[Future[Message], Address] = {}
        self._waiting: set[str] = set()  # ids of messages that the other grid carries
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
        """Return the other grid's nodes: the clients."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand out the messages of one exchange; return their ids in the same order."""
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
        """Return the replies that have arrived."""
        wanted = [number for number in message_ids if number in self._waiting]
        replies = list(self._inner.pull_messages(wanted)) if wanted else []
        self._waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        done, _ = wait(self._futures, timeout=0 if wanted else WAIT_S, return_when=FIRST_COMPLETED)
        if self._dealer is not None:
            self._dealer.check()
        for future in done:
            with _alive(self._futures.pop(future)):
                replies.append(future.result())
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """Send messages and return all replies at once."""
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


def _start(canonical: str, run_hash: str, address: Address, parcel: keys.Parcel | None) -> None:
    """In the new process: set it up to play one role, for one configuration, with memory between stages."""
    from fl.workspace import workspace

    global _context, _own
    end_with_parent()
    _own = keys.hold(parcel) if parcel else None
    _context = role_context(address, run_hash)
    assert workspace(canonical).spec


def _serve(message: Message) -> Message:
    return reply(message, _context)


def _ready() -> int:
    """Return the process id; an answer shows that the process has started."""
    return os.getpid()


def _meet(address: Address, meeting: Meeting, run: str, private: Path) -> None:
    """In a party's process: join the other parties."""
    from fl.runtimes.peers import join  # imports CrypTen

    assert _own is not None, "parties that meet have keys"
    _own.peers = join(address, _own, meeting, run, private)


def _leave() -> None:
    """In a party's process: leave the other parties."""
    from fl.runtimes.peers import leave

    leave()


def _deal(address: Address, meeting: Meeting, run: str, private: Path) -> None:
    """In the dealer's process: deal until the parties leave."""
    from fl.runtimes.peers import deal

    assert _own is not None, "a dealer that meets parties has keys"
    deal(address, _own, meeting, run, private)


@dataclass(frozen=True)
class Dealing:
    """The running dealer, which ends with the run."""

    address: Address
    future: "Future[None]"

    def check(self) -> None:
        """Check that the dealer is still at work.

        Raises:
            RuntimeFailure: the dealer has stopped.
        """
        if self.future.done():
            self.end()
            raise RuntimeFailure(f"the {self.address} has stopped dealing")

    def end(self) -> None:
        """Wait until the dealer has ended, and raise the error that ended it too early, if any."""
        with _alive(self.address):
            self.future.result()


@contextmanager
def attended(plan: RunPlan, grid: Grid) -> Iterator[tuple[Grid, dict[Address, int]]]:
    """Start a process for each role, for the time of the block; yield the grid with them, and the roles' node ids."""
    secure_sum = plan.backend.secure_sum
    roles = secure_sum.parties.roles
    meeting = secure_sum.parties.meeting
    if not roles:
        yield grid, {}
        return
    with ExitStack() as stack:
        processes = {address: stack.enter_context(_process(plan, address)) for address in plan.members}
        pools = {node: (address, processes[address]) for node, address in enumerate(roles, FIRST_ROLE_NODE)}
        starting = {address: _ask(address, pool, _ready) for address, pool in processes.items()}  # all at once
        stack.enter_context(_killed_on_failure(_all(starting)))
        dealing = None if meeting is None else stack.enter_context(_meeting(plan, meeting, processes))
        yield CommitteeGrid(grid, pools, dealing), {address: node for node, (address, _) in pools.items()}


def _process(plan: RunPlan, address: Address) -> ProcessPoolExecutor:
    """Start a process that plays one role."""
    parcel = keys.parcel(address, plan.everybody) if plan.backend.secure_sum.needs.roster else None
    spawn = multiprocessing.get_context("spawn")  # the new process inherits no memory of this one
    return ProcessPoolExecutor(1, spawn, _start, (plan.canonical, plan.hash, address, parcel))


@contextmanager
def _meeting(
    plan: RunPlan, meeting: Meeting, processes: Mapping[Address, ProcessPoolExecutor]
) -> Iterator[Dealing | None]:
    """Let the parties meet before the block, and leave one another after it; yield the dealer where there is one."""
    parties = {address: processes[address] for address in meeting.parties}
    with TemporaryDirectory() as folder:
        terms = meeting, plan.hash, Path(folder)
        dealing = None
        if meeting.dealer is not None:
            dealing = Dealing(meeting.dealer, processes[meeting.dealer].submit(_deal, meeting.dealer, *terms))
        _all({address: _ask(address, pool, _meet, address, *terms) for address, pool in parties.items()})
        yield dealing
        _all({address: _ask(address, pool, _leave) for address, pool in parties.items()})
        if dealing is not None:
            dealing.end()


def _ask(address: Address, pool: ProcessPoolExecutor, what: Callable[..., T], *arguments: object) -> "Future[T]":
    with _alive(address):
        return pool.submit(what, *arguments)


def _all(futures: "Mapping[Address, Future[T]]") -> list[T]:
    """Return the answers of all processes; raise the first failure as soon as it occurs."""
    whose = {future: address for address, future in futures.items()}
    for future in as_completed(whose):
        with _alive(whose[future]):
            future.result()
    return [future.result() for future in futures.values()]


@contextmanager
def _killed_on_failure(ids: Collection[int]) -> Iterator[None]:
    """Kill the processes where the block fails: a process that hangs would not stop on request."""
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            if process.pid in ids:
                process.kill()
        raise
