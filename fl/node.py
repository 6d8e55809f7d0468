"""A node: what a process does with a message that asks one stage of the protocol of it.

A node acts only on a configuration whose hash is approved: by its node configuration (`approved-config`), or, in a
simulation, by the environment of the process that the simulation started. The node's own configuration,
never the server, names the folder of its keys (`keys`).
"""

import os
from functools import partial
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl.config.identity import hash_of
from fl.faults.options import FaultsConfig
from fl.keys import folders as keys
from fl.keys import ledgers
from fl.keys import relayed as relaying
from fl.participant import HONEST, SETUP_ROUND, Conduct, Request
from fl.plan import RunPlan
from fl.transport import (
    ADDRESS,
    ARRAYS,
    CLEAR,
    ENVELOPE,
    METRICS,
    MODEL,
    ROLE,
    SCALARS,
    STATE,
    as_array,
    pack,
    read_array,
    record_of,
    report,
    told,
    unpack,
)
from fl.workspace import Workspace, workspace
from privacy.addresses import Address, client_address, is_client
from privacy.errors import ConfigError, ProtocolError
from privacy.secure_sums.contract import Credentials, Pay, Value
from privacy.secure_sums.relayed_roster import STAGES
from privacy.secure_sums.vectors import Vector

APPROVED = "approved-config"
PARTITION = "partition-id"
KEYS = "keys"  # the folder of this node's keys, in a deployment
APPROVED_VARIABLE = "FEDVEIL_APPROVED_CONFIG"
MEMORY_ROUND = "memory-round"
DATA_READ = "data-read"  # the digest of this node's data, as the run found them


def reply(message: Message, context: Context) -> Message:
    """Return the reply to a message. An error travels back by name, so that the server can report the reason."""
    return Message(told(lambda: participate(message.content, context)), reply_to=message)


def participate(content: RecordDict, context: Context) -> RecordDict:
    """Take part in one stage: read the request, run the participant, keep its memory, and pack the answer.

    Raises:
        FedveilError: whatever makes an answer impossible.
    """
    envelope = record_of(content, ENVELOPE, ConfigRecord)
    to = record_of(content, ADDRESS, ConfigRecord)
    if envelope is None or to is None:
        raise ProtocolError("a message without an envelope or an address")
    work = accept(str(envelope["config"]), context)
    _require_same_data(work, context)
    request = Request(
        own_address(str(to["address"]), context),
        str(envelope["stage"]),
        cast(int, envelope["round"]),
        str(envelope["attempt"]),
        unpack(content),
        _model(content),
        _state(content),
    )
    memory = recall(context.state, request)
    clear = RecordDict()
    measured = work.plan.config.runtime.measure_sum_error and request.round != SETUP_ROUND

    def tell(vector: Vector) -> None:
        clear[CLEAR] = ArrayRecord({CLEAR: as_array(vector)})

    conduct = conduct_of(work, context.state)
    own = credentials(work.plan, request.address, context, request.stage)
    if own is not None and work.plan.relayed and request.stage in STAGES:
        records, metrics = relaying.join(work, request, own)
    else:
        pay = paying(work.plan, request, context)
        records, metrics = conduct.answer(work, request, memory, own, tell if measured else None, pay)
    remember(context.state, request, memory)
    answered = conduct.packed(request, records, signed=own is not None)
    answered.update(clear)
    if work.plan.config.runtime.client_metrics:
        answered[METRICS] = report(metrics)
    return answered


def accept(canonical: str, context: Context) -> Workspace:
    """Return the workspace of a configuration that this node approves.

    Raises:
        ConfigError: the hash is not the approved one, or no hash is approved.
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


def _require_same_data(work: Workspace, context: Context) -> None:
    """Refuse data of a deployment's client that are not those with which it began the run.

    They are the client's own, and the server does not know them, so nobody else could tell.

    Raises:
        ConfigError: the data changed during the run.
    """
    if not _stands_alone(context):
        return
    digest = str(work.data.fingerprint["sha256"])
    noted = context.state.get(DATA_READ)
    if noted is not None and noted != {"sha256": digest}:
        allowed = "the data of this node changed during the run: put them back, or start the run afresh"
        raise ConfigError.of("data.name", work.data.name, allowed)
    context.state[DATA_READ] = ConfigRecord({"sha256": digest})


def conduct_of(work: Workspace, state: RecordDict) -> Conduct:
    """Return the conduct of a node with this state: honest, unless the configuration asks for faults."""
    if work.plan.config.faults == FaultsConfig():
        return HONEST
    from fl.faults.participant import FaultyConduct

    return FaultyConduct(work.plan.config, state)


def own_address(asked: Address, context: Context) -> Address:
    """Return the address that this node answers to: its role's address. A simulated node plays any client.

    Raises:
        ProtocolError: the message is for another address.
    """
    own = context.node_config.get(ROLE)
    if own is None and _stands_alone(context):
        own = client_address(int(context.node_config[PARTITION]))
    if asked != (own or asked) or (own is None and not is_client(asked)):
        raise ProtocolError(f"a message for {asked} came to {own or 'a client'}")
    return asked


def _stands_alone(context: Context) -> bool:
    """True where this is a client's own node: in a simulation, the node configuration lacks these keys."""
    return APPROVED in context.node_config and PARTITION in context.node_config


def credentials(plan: RunPlan, address: Address, context: Context, stage: str) -> Credentials | None:
    """Return the keys and the store of a role; None where the secure sum needs none.

    Raises:
        ConfigError: this node has no keys, or its keys are not usable.
        PrivacyRefusal: the roster comes through the server, and this node accepted none at set-up.
    """
    secure_sum = plan.backend.secure_sum
    folder = context.node_config.get(KEYS)
    if not secure_sum.needs.roster:
        return None
    if folder is not None and plan.relayed:
        return relaying.credentials(Path(str(folder)), address, plan, stage)
    if folder is not None:
        return keys.deployed(Path(str(folder)), address, plan.everybody, plan.hash)
    if _stands_alone(context) or plan.relayed:
        allowed = f"secure_sum={secure_sum.name} needs the folder of {address}'s keys, in its --node-config"
        raise ConfigError.of(KEYS, None, allowed)
    return keys.simulated(address, plan.everybody)


def paying(plan: RunPlan, request: Request, context: Context) -> Pay | None:
    """Return the function that charges clients in this node's own ledger; None where its role keeps none.

    Raises:
        ConfigError: this node has no folder for its ledger, or its own limits are not allowed.
    """
    if not plan.backend.keeps_account(request.address):
        return None
    folder = context.node_config.get(KEYS)
    if folder is not None:
        own = ledgers.deployed(Path(str(folder)), plan, context.node_config)
    elif _stands_alone(context):
        names = " and ".join(mechanism.name for mechanism in plan.backend.mechanisms)
        allowed = f"mechanism={names} needs the folder of {request.address}'s ledger, in its --node-config"
        raise ConfigError.of(KEYS, None, allowed)
    else:
        own = ledgers.simulated(request.address, plan)
    return partial(own.pay, request.round, request.attempt)


def role_context(address: Address, approved: str, folder: Path | None = None) -> Context:
    """Return the Flower context of a process that plays one role other than client and server.

    The role's memory is in the state of this context.
    """
    config = {APPROVED: approved, ROLE: address} | ({} if folder is None else {KEYS: str(folder)})
    return Context(1, FIRST_ROLE_NODE, dict(config), RecordDict(), {})


def recall(state: RecordDict, request: Request) -> dict[str, Value]:
    """Return the participant's memory of this attempt at this round, and remove the memory of an earlier attempt."""
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


FIRST_ROLE_NODE = 2**62  # outside the range of node ids that engines assign
