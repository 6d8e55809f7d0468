"""The faults that a participant commits: it drops out, dies, contributes something else, or damages its reply."""

from collections.abc import MutableMapping

import numpy as np
import torch
from flwr.app import Array, RecordDict

from fl.config.schema import FedveilConfig
from fl.faults.inject import drop_out, killed, kind_of, scale_of
from fl.faults.options import REPLAYED, TAMPERED, ZERO
from fl.metering import Phases
from fl.participant import Conduct, Request, Tell
from fl.training.together.groups import Taken
from fl.transport import KEPT
from fl.workspace import Workspace
from privacy.addresses import client_index, is_client
from privacy.mechanisms.contract import ClientJob
from privacy.randomness import seed_from
from privacy.secure_sums.contract import Credentials, Pay, Records, Value
from privacy.secure_sums.vectors import Vector

EXCESS = 8  # how often an oversized message repeats its largest record


class FaultyConduct(Conduct):
    """The conduct of a participant that faults may strike; that of an honest one otherwise.

    `own` is the state of the node, with replies to replay.
    """

    def __init__(self, config: FedveilConfig, own: RecordDict) -> None:
        self._config = config
        self._faults = config.faults
        self._own = own

    def answer(
        self,
        work: Workspace,
        request: Request,
        memory: MutableMapping[str, Value],
        credentials: Credentials | None = None,
        tell: Tell | None = None,
        pay: Pay | None = None,
    ) -> tuple[Records, dict[str, float]]:
        """Drop out or die, where the faults say so; else answer.

        Raises:
            RuntimeFailure: the client drops out.
        """
        if is_client(request.address):
            client = client_index(request.address)
            drop_out(client, request.round, request.stage, self._faults, self._config.seed)
        elif credentials is not None:
            killed(request.address, request.round, self._faults, credentials.store.claim)
        return super().answer(work, request, memory, credentials, tell, pay)

    def contribution(
        self, work: Workspace, request: Request, memory: MutableMapping[str, Value], phases: Phases
    ) -> Vector:
        """Return the client's contribution, shape (D + 1,), or its replacement by a fault."""
        vector = super().contribution(work, request, memory, phases)
        return spoilt(vector, self._kind(client_index(request.address), request.round))

    def train(self, work: Workspace, job: ClientJob) -> None:
        """Train, unless the fault is an update of zero."""
        if self._kind(client_index(job.address), job.round) != ZERO:
            super().train(work, job)

    def taken(self, work: Workspace, request: Request, global_D: torch.Tensor) -> Taken | None:
        """Return what the client trains with its group, unless the fault is an update of zero."""
        if self._kind(client_index(request.address), request.round) == ZERO:
            return None
        return super().taken(work, request, global_D)

    def weight(self, work: Workspace, job: ClientJob) -> float:
        """Return the weight that the client claims and applies, in [0, 1]: its own, 0, or a false claim."""
        kind = self._kind(client_index(job.address), job.round)
        claims = {"weightless": 0.0, "lying": self._faults.claimed_weight}
        return claims[kind] if kind in claims else super().weight(work, job)

    def update(
        self, work: Workspace, job: ClientJob, global_D: torch.Tensor, v: float, out: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `v * update`, float32, shape (D,), multiplied by the factor of a client that cheats."""
        update_D = super().update(work, job, global_D, v, out)
        scale = scale_of(client_index(job.address), self._faults, self._config.clients, self._config.seed)
        return update_D if scale == 1.0 else update_D.mul_(scale)

    def packed(self, request: Request, records: Records, signed: bool) -> RecordDict:
        """Return the content of the reply, after a fault of messages."""
        content = super().packed(request, records, signed)
        self._tamper(content, request)
        return content

    def _kind(self, client: int, number: int) -> str | None:
        return kind_of(client, number, self._faults, self._config.seed)

    def _tamper(self, content: RecordDict, request: Request) -> None:
        """Apply a fault to a client's reply before it is sent."""
        befallen = is_client(request.address) and request.round > 0 and self._faults.stage in (None, request.stage)
        if self._faults.kind not in TAMPERED or not befallen:
            return
        client = client_index(request.address)
        kind = self._kind(client, request.round)
        if self._faults.kind == REPLAYED:
            _replay(content, request.stage, self._own, kind == REPLAYED)
        elif kind is not None:
            place = seed_from(self._config.seed, "faults", "place", request.round, client)
            _damage(content, kind, np.random.default_rng(place))


def spoilt(vector: Vector, kind: str | None) -> Vector:
    """Return a contribution, shape (D + 1,), or its replacement by this kind of fault; it may change in place."""
    if kind == "not_finite":
        vector[0] = np.inf
        vector[len(vector) // 2] = np.nan
    if kind == "misshapen":
        return np.append(vector, vector[-1:])
    return vector.astype(np.float64) if kind == "retyped" else vector


def _replay(content: RecordDict, stage: str, own: RecordDict, struck: bool) -> None:
    """Keep the records of this reply for later rounds; where struck, send the records kept earlier, if any."""
    earlier = {name: own[key] for key in own if (name := key.removeprefix(_kept(stage))) != key}
    for name, record in content.items():
        own[_kept(stage) + name] = record
    if struck and earlier:
        content.clear()
        content.update(earlier)


def _kept(stage: str) -> str:
    return f"{KEPT}{stage}/"


def _damage(content: RecordDict, kind: str, generator: np.random.Generator) -> None:
    """Change the bytes of the largest array of a message; a message without arrays is left unchanged."""
    found = [
        (len(array.data), record, name) for record in content.array_records.values() for name, array in record.items()
    ]
    if not found:
        return
    _, record, name = max(found, key=lambda one: one[0])
    array = record[name]
    record[name] = Array(array.dtype, array.shape, array.stype, _damaged(array.data, kind, generator))


def _damaged(data: bytes, kind: str, generator: np.random.Generator) -> bytes:
    if kind == "truncated":
        return data[: len(data) // 2]
    if kind == "oversized":
        return data * (1 + EXCESS)
    changed = bytearray(data)
    if changed:
        changed[int(generator.integers(len(changed)))] ^= 1 << int(generator.integers(8))
    return bytes(changed)
