"""The default runtime: a Flower grid that calls the ClientApp in this process, or in spawned worker processes."""

import multiprocessing
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count
from multiprocessing.queues import SimpleQueue
from typing import cast

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl.config.schema import FedveilConfig
from fl.keys.ledgers import kept_in
from fl.node import APPROVED
from fl.participant import SETUP_ROUND
from fl.plan import RunPlan
from fl.runtimes.simulated import client_app, server_app_of
from fl.server import Errand
from fl.spawned.lifetime import end_with_parent
from fl.transport import ENVELOPE, KEPT, MODEL, record_of
from fl.workspace import Workspace, workspace
from privacy.addresses import Address, client_address
from privacy.errors import ConfigError, RuntimeFailure

SERVER_NODE = 1
FIRST_CLIENT_NODE = 2
WAIT_S = 0.05  # wait for workers between two checks of the deadline


class InProcessGrid(Grid):
    """A grid with one exchange at a time: each call of `pull_messages` runs one of the pushed messages."""

    def __init__(self, run_hash: str, clients: int) -> None:
        self._hash = run_hash
        self._clients = clients
        self._run = Run.create_empty(run_id=1)
        self._numbers = count(1)
        self._queue: deque[Message] = deque()
        self._states: dict[int, RecordDict] = {}  # state by node id, of the nodes that have any in this round
        self._round = ""
        TaskIdentity.run_id = 1
        TaskIdentity.node_id = SERVER_NODE
        TaskIdentity.task_id = 1

    def set_run(self, run: Run) -> None:
        """Flower's hook; there is one run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """A node for each client, in order."""
        return range(FIRST_CLIENT_NODE, FIRST_CLIENT_NODE + self._clients)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue the messages of one exchange; what is left of the exchange before is forgotten."""
        self._queue.clear()
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(self._numbers))
            self._queue.append(message)
        if self._queue and self._queue[0].metadata.group_id != self._round:  # nodes keep their memory for one round
            self._round = self._queue[0].metadata.group_id
            kept = {node: _kept(state) for node, state in self._states.items()}
            self._states = {node: state for node, state in kept.items() if state}
        return [message.metadata.message_id for message in self._queue]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:  # noqa: ARG002
        """Run the next message and return its reply."""
        if not self._queue:
            return []
        message = self._queue.popleft()
        context = self.context(message.metadata.dst_node_id)
        reply = client_app(message, context)
        self.keep(context)
        return [reply]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        """Send messages and return all replies at once."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while len(replies) < len(waiting):
            replies.extend(self.pull_messages(waiting))
        return replies

    def context(self, node_id: int) -> Context:
        """Return a node's context, made on demand, so that memory does not grow with the number of clients."""
        state = self._states.pop(node_id, None) or RecordDict()
        return Context(1, node_id, {APPROVED: self._hash}, state, {})

    def keep(self, context: Context) -> None:
        """Keep the state of a node, where it has any."""
        if context.state:
            self._states[context.node_id] = context.state


def _kept(state: RecordDict) -> RecordDict:
    """Return the part of a node's state that is kept longer than a round."""
    return RecordDict({name: record for name, record in state.items() if name.startswith(KEPT)})


class WorkerGrid(InProcessGrid):
    """An in-process grid with the ClientApp in worker processes; any worker serves any client with its context."""

    def __init__(
        self, run_hash: str, clients: int, pool: ProcessPoolExecutor, group_of: Callable[[int, int], int] | None = None
    ) -> None:
        """`group_of` returns the group of a round and a client; None where clients train one by one."""
        super().__init__(run_hash, clients)
        self._pool = pool
        self._group_of = group_of
        self._futures: set[Future[list[tuple[Message, Context]]]] = set()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand the messages to the workers, and cancel messages of the exchange before that have not begun."""
        for future in self._futures:
            future.cancel()
        numbers = super().push_messages(messages)
        with _one_line(), _uninterrupted():
            self._futures = {self._pool.submit(_serve, part) for part in self._parts()}
        self._queue.clear()
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:  # noqa: ARG002
        """Return the replies that have arrived since the last call; wait a moment for the first."""
        done, self._futures = wait(self._futures, timeout=WAIT_S, return_when=FIRST_COMPLETED)
        with _one_line():
            finished = [future.result() for future in done]
        served = [one for part in finished for one in part]
        for _, context in served:
            self.keep(context)
        return [reply for reply, _ in served]

    def _parts(self) -> list[list[tuple[Message, Context]]]:
        """Divide the queue into parts for one worker each: the clients of a group that train, and each other one."""
        parts: dict[Hashable, list[tuple[Message, Context]]] = defaultdict(list)
        for place, message in enumerate(self._queue):
            node = message.metadata.dst_node_id
            parts[self._part_of(message.content, node, place)].append((message, self.context(node)))
        return list(parts.values())

    def _part_of(self, content: RecordDict, node: int, place: int) -> Hashable:
        envelope = record_of(content, ENVELOPE, ConfigRecord)
        number = 0 if envelope is None else cast(int, envelope["round"])
        if self._group_of is None or MODEL not in content or number == SETUP_ROUND:
            return "alone", place
        return "group", self._group_of(number, node - FIRST_CLIENT_NODE)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise RuntimeFailure("a worker process died (out of memory?): lower runtime.workers") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Block Ctrl-C in workers that start here: only the parent receives it, and then ends the workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(part: list[tuple[Message, Context]]) -> list[tuple[Message, Context]]:
    return [(client_app(message, context), context) for message, context in part]


def _start_worker(numbers: "SimpleQueue[int]", canonical: str, gpus_per_client: float) -> None:
    """In a new worker: end with the parent, take a GPU where there are any, and load the data."""
    end_with_parent()
    number = numbers.get()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(number * gpus_per_client) % torch.cuda.device_count())
    work = workspace(canonical)
    assert work.plan.partitions


def check_workers(config: FedveilConfig, device: torch.device) -> None:
    """Refuse more workers than the GPUs can hold.

    Raises:
        ConfigError: `runtime.workers` times `runtime.gpus_per_client` exceeds the number of GPUs.
    """
    runtime = config.runtime
    if not runtime.workers or device.type == "cpu":
        return
    if device.index is not None:
        raise ConfigError.of("device", config.device, "workers choose GPUs themselves: use device=cuda")
    present = torch.cuda.device_count()
    if runtime.workers * runtime.gpus_per_client > present:
        allowed = f"with runtime.workers={runtime.workers}, at most {present / runtime.workers:g} ({present} GPUs)"
        raise ConfigError.of("runtime.gpus_per_client", runtime.gpus_per_client, allowed)


@contextmanager
def grid_of(work: Workspace) -> Iterator[InProcessGrid]:
    """Yield the grid of a configuration; its workers run for the time of the block."""
    plan = work.plan
    runtime = plan.config.runtime
    if not runtime.workers:
        try:
            yield InProcessGrid(plan.hash, plan.config.clients)
        finally:
            work.close()
        return
    check_workers(plan.config, work.device)
    spawn = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
    numbers: SimpleQueue[int] = spawn.SimpleQueue()
    for number in range(runtime.workers):
        numbers.put(number)
    arguments = (numbers, plan.canonical, runtime.gpus_per_client)
    pool = ProcessPoolExecutor(runtime.workers, spawn, _start_worker, arguments)
    try:
        group_of = work.groups.group_of if work.together.choice.size > 1 else None
        yield WorkerGrid(plan.hash, plan.config.clients, pool, group_of)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def locate(grid: Grid, plan: RunPlan) -> Mapping[Address, int]:
    """Return the node id of each client. Simulated nodes can play any client, so they follow in the order of ids."""
    return {
        client_address(client): node
        for client, node in zip(range(plan.config.clients), grid.get_node_ids(), strict=True)
    }


def run(work: Workspace, errand: Errand) -> None:
    """Make a whole run in this process and its workers."""
    app = server_app_of(work, locate, errand)
    with kept_in(errand.folder), grid_of(work) as grid:
        app(grid, Context(1, SERVER_NODE, {}, RecordDict(), {}))
