"""A participant's side of a message: it runs `respond` of the secure sum and supplies the contribution.

Shapes: D is the number of values of the model; the vector that is summed has D + 1.
"""

import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import RecordDict

from fl.data.image_data import Split
from fl.evaluation import score
from fl.metering import Phases, parts
from fl.plan import RunPlan
from fl.training import local as training
from fl.training.generators import seed_generators
from fl.training.given import given_digest
from fl.training.sensitivity import sensitivity
from fl.training.together.groups import Taken
from fl.transport import ENVELOPE, note_of, pack
from fl.workspace import Workspace
from privacy.addresses import Address, client_index, is_client
from privacy.errors import MalformedContribution, ProtocolError
from privacy.mechanisms.contract import ClientJob
from privacy.randomness import OsRandomness
from privacy.secure_sums.contract import Credentials, Participant, Pay, Records, Value
from privacy.secure_sums.signed_replies import signed
from privacy.secure_sums.vectors import Vector
from privacy.spans import Recorder, recording, span
from privacy.witness.examine import Upload, allowance, examine
from results.measurements import EVALUATE, WITNESS

SETUP_ROUND = 0
PROTECT = "protect"  # the phase of the protocol: all time outside the contribution
LEDGER = "ledger"  # the phase in which a client charges itself
CONTRIBUTION = "contribution"  # the span of the contribution, which is not counted as a step of the protocol
Tell = Callable[[Vector], None]


@dataclass(frozen=True)
class Request:
    """The request in a message: a stage of one attempt at one round, for the participant at `address`."""

    address: Address
    stage: str
    round: int
    attempt: str
    inbound: Records
    model_D: Vector | None  # the global weights, at the stage that collects contributions
    state: Mapping[str, float] = field(default_factory=dict)  # public state of the mechanisms' server halves


class Conduct:
    """A participant's conduct in one message: this one is honest. `fl.faults.participant` has one with faults."""

    def answer(
        self,
        work: Workspace,
        request: Request,
        memory: MutableMapping[str, Value],
        credentials: Credentials | None = None,
        tell: Tell | None = None,
        pay: Pay | None = None,
    ) -> tuple[Records, dict[str, float]]:
        """Answer the request, as `answer` does."""
        return answer(work, request, memory, credentials, tell, pay, self)

    def contribution(
        self, work: Workspace, request: Request, memory: MutableMapping[str, Value], phases: Phases
    ) -> Vector:
        """Return the vector that is summed, as `contribution` does."""
        return contribution(work, request, memory, phases, self)

    def train(self, work: Workspace, job: ClientJob) -> None:
        """Train the job's model in place, alone."""
        work.train(job)

    def taken(self, work: Workspace, request: Request, global_D: torch.Tensor) -> Taken | None:
        """Return what the client trains with its group; None where it trains alone."""
        return work.taken(request.round, request.attempt, client_index(request.address), global_D)

    def weight(self, work: Workspace, job: ClientJob) -> float:
        """Return the weight that is claimed and applied to the update, in [0, 1]."""
        return work.plan.weight(client_index(job.address))

    def update(
        self, work: Workspace, job: ClientJob, global_D: torch.Tensor, v: float, out: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `v * update`, float32, shape (D,), as `weighted_update` does."""
        return weighted_update(work, job, global_D, v, out)

    def packed(self, request: Request, records: Records, signed: bool) -> RecordDict:
        """Return the content of the reply: the records, and a note of the attempt."""
        content = pack(records)
        content[ENVELOPE] = note_of(request.attempt, content, signed)
        return content


HONEST = Conduct()


def participant(
    work: Workspace,
    request: Request,
    memory: MutableMapping[str, Value],
    credentials: Credentials | None = None,
) -> Participant:
    """Return the role that a request addresses, with its randomness and device."""
    given = b""
    if request.model_D is not None and credentials is not None:  # without keys nothing is bound to it
        given = given_digest(request.model_D, request.state)
    return Participant(
        address=request.address,
        run=work.plan.hash,
        round=request.round,
        attempt=request.attempt,
        spec=work.spec,
        memory=memory,
        randomness=OsRandomness(),
        credentials=credentials,
        noise=work.plan.randomness(request.address, request.round),
        device=str(work.device),
        given=given,
        ahead=work.ahead,
    )


def answer(
    work: Workspace,
    request: Request,
    memory: MutableMapping[str, Value],
    credentials: Credentials | None = None,
    tell: Tell | None = None,
    pay: Pay | None = None,
    conduct: Conduct = HONEST,
) -> tuple[Records, dict[str, float]]:
    """Return the records that answer a request, signed where there are credentials, and the costs by phase.

    `tell` receives the vector in the clear, before the protocol may write to it: only for `measure_sum_error`. `pay`
    charges clients in this role's own ledger, where it keeps one: a client for each contribution, before it is made.
    `conduct` supplies the contribution.

    Raises:
        FedveilError: an answer is impossible; no records are sent then.
    """
    plan = work.plan
    phases = Phases(work.device)
    recorder = Recorder()
    if work.ahead:
        work.ahead.costs()  # of an answer that failed: they are none of this one's
    require_asked(plan, request)
    before = dict(memory)
    contributed: list[Vector] = []
    me = participant(work, request, memory, credentials)
    if pay is not None:
        me.pay = pay

    def contribute() -> Vector:
        phases.end(PROTECT)
        if pay is not None:
            pay([request.address])
            phases.end(LEDGER)
        with span(CONTRIBUTION):
            vector = conduct.contribution(work, request, memory, phases)
            if tell is not None:
                tell(vector)
                phases.end("tell")
            if plan.config.witness and plan.hides_something:
                contributed.append(vector.copy())
                phases.end(WITNESS)
        return vector

    with recording(recorder):
        records = plan.backend.secure_sum.respond(request.stage, request.inbound, me, contribute)
        if credentials is not None:
            with span("sign"):
                records = signed(records, me, request.stage)
    phases.end(PROTECT)
    for vector in contributed:
        allowed = allowance(plan.config.rounds, plan.cohort_size)
        upload = Upload(request.stage, request.inbound, records, me, vector, before, allowed)
        examine(plan.backend.secure_sum, upload, rehearse=_rehearses(plan, request))
        phases.end(WITNESS)
    recorder.seconds.pop(CONTRIBUTION, None)
    peers = credentials.peers if credentials else None
    prepared = work.ahead.costs() if work.ahead else {}
    return records, phases.metrics() | parts(PROTECT, recorder) | (dict(peers.costs()) if peers else {}) | prepared


def require_asked(plan: RunPlan, request: Request) -> None:
    """Refuse a round that the plan does not have, and a client's part in a round whose cohort it is not in.

    Raises:
        ProtocolError: there is no such round, or the client is not in its cohort.
    """
    if request.round == SETUP_ROUND:
        return
    if is_client(request.address):
        plan.require_in_cohort(request.round, request.address)
    else:
        plan.require_round(request.round, request.address)


def _rehearses(plan: RunPlan, request: Request) -> bool:
    """True where this client rehearses its upload for the witness: one client of the cohort does so in each round."""
    if request.round == SETUP_ROUND:
        return False
    cohort = plan.cohort(request.round)
    return cohort[request.round % len(cohort)] == client_index(request.address)


def contribution(
    work: Workspace,
    request: Request,
    memory: MutableMapping[str, Value],
    phases: Phases,
    conduct: Conduct = HONEST,
) -> Vector:
    """Train, and return `[v * update, v]`, shape (D + 1,): float32 on the host, or residues where the spec says so.

    At set-up, where the secure sum asks for sensitivities, there is no training: the vector is `[v * sensitivity, v]`.
    """
    if request.model_D is None:
        raise ProtocolError(f"stage {request.stage} asks for a contribution without a model")
    plan = work.plan
    config = plan.config
    client = client_index(request.address)
    first = SETUP_ROUND if work.plan.backend.secure_sum.needs.survey else 1
    if client >= work.plan.config.clients or not first <= request.round <= work.plan.config.rounds:
        raise ProtocolError(f"{request.address} has nothing to contribute to round {request.round}")
    seed = seed_generators(work.device, config.seed, "train", request.round, client)
    global_D = torch.from_numpy(request.model_D).to(work.device)
    taken = None if request.round == SETUP_ROUND else conduct.taken(work, request, global_D)
    if taken is not None:
        phases.end("train", taken.costs)
        phases.compiled(work.together.compiling_s())
    job = client_job(work, request, memory, global_D, seed, grouped=taken is not None)
    if request.round == SETUP_ROUND:
        return _sensitivities(work, job, plan.weight(client), phases)
    if config.runtime.client_evaluation:
        phases.end("prepare")
        own = plan.partitions[client]
        work.load(global_D)
        phases.scores = score(work, Split(work.data.train.images[own], work.data.train.labels[own]))
        phases.end(EVALUATE)
    if taken is None:
        plan.backend.prepare(job)
        phases.end("prepare")
        conduct.train(work, job)
        work.require_kept(job.model)
        phases.end("train")
    else:
        work.give(job, taken)
        work.require_kept(job.model)
        phases.end("prepare")
    if work.spec.modulus_bits is not None:
        vector: Vector = np.append(released(work, job, global_D).numpy(), np.int64(1))
        phases.end("flatten")
    else:
        vector = _floats(work, job, global_D, conduct, phases)
    if work.plan.config.runtime.client_diagnostics:
        phases.diagnostics = job.diagnostics
    return vector


def _sensitivities(work: Workspace, job: ClientJob, v: float, phases: Phases) -> Vector:
    update = work.spec.segments[0]
    weight = work.spec.length - 1
    host = np.zeros(work.spec.length, np.float32)
    assert isinstance(job.batches, training.Batches)
    host[: update.length] = sensitivity(job.model, work.layout(job.model), job.batches, job.examples).cpu().numpy()
    host[: update.length] *= np.float32(v * update.bound * (1 - 2**-20))  # as float32 may round the bound up
    host[weight] = v
    phases.end("sensitivity")
    return host


def _floats(work: Workspace, job: ClientJob, global_D: torch.Tensor, conduct: Conduct, phases: Phases) -> Vector:
    v = conduct.weight(work, job)
    host = np.empty(work.spec.length, np.float32)
    host_D = torch.from_numpy(host[: len(global_D)])
    update_D = conduct.update(work, job, global_D, v, host_D if work.device.type == "cpu" else None)
    phases.end("flatten")
    if update_D is not host_D:  # the one crossing from the device
        host_D.copy_(update_D)
    over = limited(host_D, work.spec.segments[0].bound)
    if work.plan.cut_metric is not None:
        phases.cut[work.plan.cut_metric] = over
    host[len(global_D) : -1] = job.extra
    host[-1] = v
    phases.end("transfer")
    return host


def limited(host_D: torch.Tensor, bound: float) -> int:
    """Cut values beyond the bound of the vector's range, in place; return their number. NaN stays, and is refused."""
    if math.isinf(bound):
        return 0
    largest = np.float32(bound)
    if float(largest) > bound:  # as float32 may round it
        largest = np.nextafter(largest, np.float32(0))
    over = int((host_D.abs() > float(largest)).sum())
    if over:
        host_D.clamp_(-float(largest), float(largest))
    return over


def weighted_update(
    work: Workspace, job: ClientJob, global_D: torch.Tensor, v: float, out: torch.Tensor | None
) -> torch.Tensor:
    """Return `v * update` of the trained model, float32, shape (D,), on its device; in `out` where that is given."""
    own_D = torch.empty_like(global_D) if out is None else out
    update_D = released(work, job, global_D, own_D)
    return own_D if v == 1.0 and update_D is own_D else torch.mul(update_D, v, out=own_D)


def released(work: Workspace, job: ClientJob, global_D: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return the update of the trained model as the mechanisms release it, of the spec's length.

    Raises:
        MalformedContribution: a mechanism returned a vector of another length.
    """
    own_D = work.layout(job.model).update(global_D, torch.empty_like(global_D) if out is None else out)
    update_D = work.plan.backend.on_update(job, own_D)
    length = work.spec.segments[0].length
    dtype = str(work.spec.dtype)
    if update_D.shape != (length,):
        got = f"{str(update_D.dtype).removeprefix('torch.')} {tuple(update_D.shape)}"
        raise MalformedContribution(f"an update must be {dtype} ({length},), got {got}")
    return update_D


def client_job(
    work: Workspace,
    request: Request,
    memory: MutableMapping[str, Value],
    global_D: torch.Tensor,
    seed: int,
    grouped: bool = False,
) -> ClientJob:
    """Make the training objects of one client in one round, before any mechanism changes them.

    Those of a `grouped` client, whose training is done, stay as they are.
    """
    plan = work.plan
    client = client_index(request.address)
    batches = work.batches(client, seed)
    if grouped:
        optimizer = work.idle_optimizer
    else:
        work.load(global_D)
        optimizer = work.client_optimizer(work.parameters, lr=plan.learning_rates[max(request.round, 1) - 1])
    randomness = plan.randomness(request.address, request.round)
    return ClientJob(
        request.address,
        request.round,
        memory,
        randomness,
        len(batches.indices),
        work.model,
        optimizer,
        batches,
        work.loss,
        request.state,
        grouped=grouped,
    )
