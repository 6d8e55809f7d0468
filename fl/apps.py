"""The ServerApp and the ClientApp: the same ones in every runtime.

A client acts only on a configuration whose hash is approved: by its node configuration (`approved-config`), or, in a
simulation, by the environment of the process that the simulation started.
"""

import logging
import os
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.config import hash_of
from fl.participant import SETUP_ROUND, Request, answer
from fl.server import Errand, Locate, serve
from fl.transport import (
    ADDRESS,
    ARRAYS,
    CLEAR,
    ENVELOPE,
    FAILURE,
    METRICS,
    MODEL,
    SCALARS,
    STATE,
    as_array,
    failure,
    pack,
    read_array,
    record_of,
    report,
    unpack,
)
from fl.workspace import Workspace, workspace
from privacy.errors import ConfigError, FedveilError, ProtocolError
from privacy.secure_sum import Address, Value, Vector

APPROVED = "approved-config"
PARTITION = "partition-id"
ROLE = "role"  # of a party beside clients and server
APPROVED_VARIABLE = "FEDVEIL_APPROVED_CONFIG"
MEMORY_ROUND = "memory-round"

log = logging.getLogger("fedveil")
client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def participate(message: Message, context: Context) -> Message:
    """Answer one stage of the protocol; an error travels back by name, for the server to tell why."""
    try:
        return Message(_participate(message, context), reply_to=message)
    except Exception as error:
        if not isinstance(error, FedveilError):  # a defect, not a refusal: show where
            log.warning("a client cannot answer", exc_info=error)
        return Message(RecordDict({FAILURE: failure(error)}), reply_to=message)


def _participate(message: Message, context: Context) -> RecordDict:
    envelope, to = record_of(message.content, ENVELOPE, ConfigRecord), record_of(message.content, ADDRESS, ConfigRecord)
    if envelope is None or to is None:
        raise ProtocolError("a message without an envelope or an address")
    work = accept(str(envelope["config"]), context)
    request = Request(
        own_address(str(to["address"]), context),
        str(envelope["stage"]),
        cast(int, envelope["round"]),
        str(envelope["attempt"]),
        unpack(message.content),
        _model(message.content),
        _state(message.content),
    )
    memory = recall(context.state, request)
    told, measured = RecordDict(), work.config.runtime.measure_sum_error and request.round != SETUP_ROUND

    def tell(vector: Vector) -> None:
        told[CLEAR] = ArrayRecord({CLEAR: as_array(vector)})

    records, metrics = answer(work, request, memory, tell if measured else None)
    remember(context.state, request, memory)
    content = pack(records)
    content.update(told)
    if work.config.runtime.client_metrics:
        content[METRICS] = report(metrics)
    return content


def accept(canonical: str, context: Context) -> Workspace:
    """The workspace of a configuration that this node approves.

    Raises:
        ConfigError: the hash is not the approved one, or none is approved.
    """
    approved = context.node_config.get(APPROVED) or os.environ.get(APPROVED_VARIABLE)
    asked = hash_of(canonical)
    if approved != asked:
        raise ConfigError.of(
            APPROVED, approved, f"this node refuses the configuration {asked}, which it did not approve"
        )
    work = workspace(canonical)
    work.activate()
    return work


def own_address(asked: Address, context: Context) -> Address:
    """The address that this node answers to: its role's; simulated nodes play whichever client is asked.

    Raises:
        ProtocolError: the message is for somebody else.
    """
    own = context.node_config.get(ROLE)
    if own is None and APPROVED in context.node_config and PARTITION in context.node_config:
        own = f"client/{context.node_config[PARTITION]}"
    if asked != (own or asked) or (own is None and not asked.startswith("client/")):
        raise ProtocolError(f"a message for {asked} came to {own or 'a client'}")
    return asked


def recall(state: RecordDict, request: Request) -> dict[str, Value]:
    """The participant's memory of this attempt at this round; that of an earlier one is removed."""
    noted = state.get(MEMORY_ROUND)
    if noted == {"round": request.round, "attempt": request.attempt}:
        return unpack(state)
    remember(state, request, {})
    return {}


def remember(state: RecordDict, request: Request, memory: dict[str, Value]) -> None:
    """Keep the memory in the node's state until another attempt or round begins."""
    for name in (ARRAYS, SCALARS, MEMORY_ROUND):
        state.pop(name, None)
    if memory:
        state.update(pack(memory))
        state[MEMORY_ROUND] = ConfigRecord({"round": request.round, "attempt": request.attempt})


def _model(content: RecordDict) -> Vector | None:
    model = record_of(content, MODEL, ArrayRecord)
    return None if model is None else cast(Vector, read_array(MODEL, model[MODEL]).copy())  # torch wants to own it


def _state(content: RecordDict) -> dict[str, float]:
    record = record_of(content, STATE, ConfigRecord) or ConfigRecord()
    return {name: value for name, value in record.items() if isinstance(value, float)}


def server_app_of(work: Workspace, locate: Locate, errand: Errand) -> ServerApp:
    """A ServerApp for the runtimes that run it in this process."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        serve(work, grid, locate, errand)

    return app


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """The ServerApp of a deployment: configuration and folder come in Flower's run configuration."""
    from fl.runtimes.deployment import POLL_S, locate

    work = workspace(str(context.run_config["config"]))
    folder = Path(str(context.run_config["directory"])) / "checkpoints"
    keep = int(str(context.run_config["keep-checkpoints"]))
    serve(work, grid, locate, Errand(folder, keep, progress="lines", poll_s=POLL_S))
