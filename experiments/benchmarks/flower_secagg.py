"""Flower's SecAgg+, unchanged, for measurement: its workflow for the server, its mod for the clients, on one machine.

A grid passes messages directly to the mod. The vector to mask is prepared in Flower's format, so that training does
not count. The model sent to clients has one value, so that sending a model does not count either. The strategy keeps
the aggregate unchanged; FedAvg would average it once more.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Scalar, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage
from flwr.common.secure_aggregation.secaggplus_constants import Key as Entry
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

from experiments.benchmarks.secagg_costs import Costs, SecAggCase
from fl.runtimes.inprocess import FIRST_CLIENT_NODE, InProcessGrid
from privacy.errors import RuntimeFailure
from privacy.secure_sums.vectors import Sum


@dataclass(frozen=True)
class FlowerSettings:
    """Parameters of `SecAggPlusWorkflow`; the defaults are Flower's own."""

    num_shares: int | float
    threshold: int | float
    clipping_range: float = 8.0
    quantization_range: int = 1 << 22
    modulus_range: int = 1 << 32

    @property
    def tolerance(self) -> float:
        """The largest change by stochastic rounding in one contribution."""
        return 2 * self.clipping_range / self.quantization_range


def flower_round(case: SecAggCase, settings: FlowerSettings) -> Costs:
    """Run and measure one round of Flower's SecAgg+.

    Raises:
        RuntimeFailure: the workflow halted, or its sum is wrong.
    """
    costs = Costs()
    strategy = _Handed(case.clients)
    grid = _Grid(case, costs)
    strategy.grid = grid
    workflow = SecAggPlusWorkflow(
        settings.num_shares,
        settings.threshold,
        max_weight=1.0,
        clipping_range=settings.clipping_range,
        quantization_range=settings.quantization_range,
        modulus_range=settings.modulus_range,
    )
    context = LegacyContext(Context(1, 1, {}, RecordDict(), {}), strategy=strategy)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord([np.zeros(1)])
    with _quiet(), costs.of_server():
        workflow(grid, context)
    costs.server_s -= grid.inside_s
    left = case.clients - len(case.gone)
    if strategy.aggregate is None:
        raise RuntimeFailure("Flower's SecAgg+ halted")
    _check(left * parameters_to_ndarrays(strategy.aggregate)[0], case, left * settings.tolerance)
    return costs


def _check(sum_D: Sum, case: SecAggCase, allowed: float) -> None:
    off = float(np.abs(sum_D - case.exact()).max())
    if off > allowed:
        raise RuntimeFailure(f"Flower's SecAgg+ is off by {off:g}, allowed {allowed:g}")


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclass
class _Handed(FedAvg):
    """A strategy that samples all clients and keeps their aggregate unchanged."""

    clients: int
    aggregate: Parameters | None = None
    grid: "_Grid | None" = field(default=None, repr=False)

    def configure_fit(self, *_: object) -> list[tuple[ClientProxy, FitIns]]:
        assert self.grid is not None
        nodes = range(FIRST_CLIENT_NODE, FIRST_CLIENT_NODE + self.clients)
        nothing = ndarrays_to_parameters([np.zeros(1)])
        return [(GridClientProxy(node, self.grid, 1), FitIns(nothing, {})) for node in nodes]

    def aggregate_fit(
        self, _round: int, results: list[tuple[ClientProxy, FitRes]], _failures: object
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        self.aggregate = results[0][1].parameters
        return self.aggregate, {}


class _Grid(InProcessGrid):
    """A grid that passes each message to the mod; dropped clients do not answer from the masked vectors on."""

    def __init__(self, case: SecAggCase, costs: Costs) -> None:
        super().__init__("", case.clients)
        self._case = case
        self._costs = costs
        self.inside_s = 0.0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        """The replies of all clients that have not dropped out."""
        outgoing = list(messages)
        start_s = time.process_time()
        self.push_messages(outgoing)
        replies = [reply for message in outgoing if (reply := self._asked(message)) is not None]
        self.inside_s += time.process_time() - start_s
        return replies

    def _asked(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        client = node - FIRST_CLIENT_NODE
        configs = message.content.config_records[RECORD_KEY_CONFIGS]
        masking = configs[Entry.STAGE] == Stage.COLLECT_MASKED_VECTORS
        if client in self._case.gone and (masking or configs[Entry.STAGE] == Stage.UNMASK):
            return None
        ready = self._trained(client) if masking else RecordDict()
        # a copy, as from a transport: the mod removes entries from the message
        own = Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(dict(configs))}), node, "train", group_id="1")
        context = self.context(node)
        with self._costs.of_client(client):
            reply = secaggplus_mod(own, context, lambda asked, _: Message(ready, reply_to=asked))
        self.keep(context)
        answered = reply.content.config_records[RECORD_KEY_CONFIGS]
        self._costs.passed(client, _size(configs), _size(answered))
        return reply

    def _trained(self, client: int) -> RecordDict:
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self._case.update(client)]), 1, {})
        return recorddict_compat.fitres_to_recorddict(result, keep_input=False)


def _size(records: ConfigRecord) -> int:
    """Bytes of names and values; Flower's own count fails on an empty list."""
    listed = [value if isinstance(value, list) else [value] for value in records.values()]
    sizes = (len(one) if isinstance(one, bytes | str) else 8 for values in listed for one in values)
    return sum(map(len, records)) + sum(sizes)
