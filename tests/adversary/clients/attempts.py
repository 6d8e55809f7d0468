"""Scenery: a client, in process or on a node of its own, that a server asks again and again for one round."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fl.keys import ledgers
from fl.node import APPROVED, KEYS, PARTITION, participate
from fl.transport import ADDRESS, ENVELOPE, MODEL, STATE, as_array, pack, unpack
from fl.workspace import Workspace, workspace
from privacy.errors import PrivacyRefusal
from tests.composed import canonical

DELTA = 1e-3
LOCAL = ("mechanism=local_dp", "mechanism.local_dp.epsilon_per_round=8", f"delta={DELTA}", "accountant=rdp")
PLANNED = 2  # rounds of the small configuration, in each of which every client takes part
RETRIES = 3  # the default
MOST = PLANNED + RETRIES


def work_of(*overrides: str) -> Workspace:
    """The workspace in which a node of this process acts on the configuration."""
    return workspace(canonical(*overrides))


def request(work: Workspace, attempt: str, client: int = 0, number: int = 1) -> RecordDict:
    """A message that asks a client for its contribution, as the server's transport writes it."""
    content = pack({})
    content[ADDRESS] = ConfigRecord({"address": f"client/{client}"})
    envelope = {"run": work.plan.hash, "round": number, "attempt": attempt, "stage": "collect"}
    content[ENVELOPE] = ConfigRecord({**envelope, "config": work.plan.canonical})
    content[MODEL] = ArrayRecord({MODEL: as_array(work.initial_D.numpy())})
    content[STATE] = ConfigRecord(dict(work.plan.backend.initial_state()))
    return content


def simulated(work: Workspace) -> Context:
    return Context(1, 2, {APPROVED: work.plan.hash}, RecordDict(), {})


def deployed(work: Workspace, folder: Path, **own: float) -> Context:
    """The context of a client's own SuperNode."""
    config = {APPROVED: work.plan.hash, PARTITION: 0, KEYS: str(folder), **own}
    return Context(1, 2, config, RecordDict(), {})


def answers(work: Workspace, context: Context, attempts: int, same: bool = False) -> list[np.ndarray]:
    """The answers of a client in many attempts at round 1, or many times in one of them; refusals are left out."""
    found = []
    for number in range(attempts):
        with suppress(PrivacyRefusal):
            content = request(work, "same" if same else f"{number}")
            found.append(np.array(unpack(participate(content, context))["vector"])[:-1])
    return found


def restarted() -> None:
    """Forget what a process knows of ledgers, as a new one does."""
    ledgers._opened.cache_clear()


def epsilon_of(times: int, sigma: float) -> float:
    return float(RdpAccountant().compose(GaussianDpEvent(sigma), times).get_epsilon(DELTA))
