"""The server's half of a run: sample a cohort, drive the secure sum, step, evaluate, checkpoint.

Shapes: D is the number of values of the model.
"""

import logging
import math
import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from flwr.serverapp import Grid

from fl.checkpoint import Checkpoints, State
from fl.config import ranges
from fl.evaluation import Scores, evaluate, score
from fl.ledger import EMPTY, LedgerFile
from fl.metering import Meter
from fl.participant import SETUP_ROUND
from fl.rounds import drive
from fl.sum_error import ClearContributions, require_within
from fl.training.stopping import PUBLIC_LOSS, public_losses, stops
from fl.transport import Attempt, Transport
from fl.workspace import Workspace
from privacy.addresses import Address, client_address
from privacy.checks import UNITS
from privacy.errors import PrivacyRefusal, RunRefused, TooFewContributors
from privacy.mechanisms.contract import ServerJob
from privacy.sealing import Roster
from privacy.secure_sums.contract import Exchange
from privacy.secure_sums.relayed_roster import RelayedRoster
from privacy.secure_sums.signed_replies import require_everybody
from privacy.secure_sums.vectors import Total, Vector
from results.measurements import WITNESS
from results.progress import Steps, progress

if TYPE_CHECKING:  # accounting loads Opacus, and a run without differential privacy does not need it
    from privacy.accounting.charges import Charge

log = logging.getLogger("fedveil")
T = TypeVar("T")


@dataclass(frozen=True)
class Errand:
    """A server's options beside the configuration: folder, progress, interval of polls, roster."""

    folder: Path  # folder of the checkpoints
    keep_checkpoints: int = 2
    show_every_s: float | None = None  # `every_s` of `results.progress.progress`
    poll_s: float = 0.0
    roster: Roster | None = None  # all roles' public keys, where the secure sum pins them and they are not relayed


class Server:
    """One run over one grid. `nodes` maps every address to its Flower node.

    Raises:
        ConfigError: the roster lacks a role that will have to sign.
        RunRefused: the ledger is damaged, or lacks charges that the checkpoint knows of; the checkpoint holds another
            number of values than the model trains.
    """

    def __init__(self, work: Workspace, grid: Grid, nodes: Mapping[Address, int], errand: Errand) -> None:
        self.work = work
        self._errand = errand
        self.meter = Meter()
        deadline_s = work.plan.config.server.deadline_s
        self.transport = Transport(grid, nodes, self.meter, deadline_s, errand.poll_s)
        self._roster = _roster(work, errand)
        self._cut = _cut_values(work)
        self._checkpoints = Checkpoints(errand.folder, errand.keep_checkpoints)
        state = self._checkpoints.latest()
        self.ledger = LedgerFile(errand.folder, EMPTY if state is None else state.ledger)
        self._public_losses = public_losses(self._checkpoints.rows())
        self._resume(state)

    def _resume(self, state: State | None) -> None:
        start = self.work.initial_D if state is None else state.weights_D
        if len(start) != len(self.work.initial_D):
            held = f"the checkpoint has {len(start)} values, and the model trains {len(self.work.initial_D)}"
            raise RunRefused(f"{held}: another version made it; start afresh with force=true")
        self.weights = torch.nn.Parameter(start.clone())
        self._optimizer = self.work.server_optimizer(self.weights)
        self._started = datetime.now(UTC).isoformat(timespec="seconds") if state is None else state.started
        self.round = SETUP_ROUND if state is None else state.round
        self.state = self.work.plan.backend.initial_state() if state is None else state.mechanisms
        self.secrets = {} if state is None else state.secrets
        if state is not None:
            self._optimizer.load_state_dict(state.optimizer)

    def run(self) -> None:
        """Run all remaining rounds.

        Raises:
            FedveilError: the run cannot go on; the measurements so far are in the checkpoints.
        """
        plan = self.work.plan
        sizes = f"{plan.config.clients} clients, {len(self.work.initial_D):,} values"
        about = f"{sizes}, {self.work.device}, {self.work.together.told}{self.work.told_ahead}"
        text = f"{plan.backend.name}, round"
        shown = progress(text, plan.config.rounds, note=about, done=self.round, every_s=self._errand.show_every_s)
        with shown as steps:
            self.transport.watch = steps.within
            if self.round == SETUP_ROUND:
                self._refuse_early()
            if plan.relayed:
                self._relay_roster()
            if self.round == SETUP_ROUND:
                self._set_up()
            self._remaining_rounds(steps)

    def _remaining_rounds(self, steps: Steps) -> None:
        config = self.work.plan.config
        budget = config.epsilon_budget
        for number in range(self.round + 1, config.rounds + 1):
            if self._stops:
                log.warning("server.patience=%d ends the run before round %d", config.server.patience, number)
                return
            if not self.within_budget(number):
                log.warning("epsilon_budget=%g ends the run before round %d", budget, number)
                self._evaluate_last()
                return
            scores = self._round(number)
            steps.advance("" if scores is None else f"accuracy {scores.accuracy:.3f}")

    def _refuse_early(self) -> None:
        """Refuse a model that cannot be trained, and a run whose first round passes the budget, before any training."""
        self.work.try_model()
        worst = self._after(1)
        budget = self.work.plan.config.epsilon_budget
        if budget is not None and any(epsilon > budget for epsilon in worst.values()):
            what = "the first round costs" if not self.ledger.ledger else "the first round and earlier tries at it cost"
            raise PrivacyRefusal(f"epsilon_budget={budget:g}: {what} more; raise it, or the noise")

    def _relay_roster(self) -> None:
        """Relay the public keys of all roles to all roles; again when a run resumes, to find keys that have changed."""
        self.meter.round = SETUP_ROUND
        attempt = self._attempt()
        flow = RelayedRoster(self.work.plan.everybody).flow(attempt.run, attempt.round, attempt.attempt)
        with self.meter.span("server", "setup"):
            self._roster = self._drive(flow, attempt)

    def _set_up(self) -> None:
        """Distribute keys, once a run; clients contribute nothing, except sensitivities to some secure sums."""
        self.meter.round = SETUP_ROUND
        secure_sum = self.work.plan.backend.secure_sum
        roles = [*(client_address(client) for client in self.work.plan.candidates), *secure_sum.parties.roles]
        with self.meter.span("server", "setup"):
            self._drive(secure_sum.setup(roles, self.work.spec), self._attempt(), self.weights.detach().numpy())
        self._save()

    def _drive(self, flow: Generator[Exchange, list[Address], T], attempt: Attempt, model_D: Vector | None = None) -> T:
        abort = self.work.plan.config.server.on_invalid == "abort"
        return drive(flow, self.transport, self.meter, attempt, model_D, abort, self._roster)

    def _round(self, number: int) -> Scores | None:
        try:
            self.advance(number)
            scores = self._evaluate(number)
        except Exception:
            self._checkpoints.save_rows(self.work.plan.hash, number, self.meter.take())
            raise
        self._save()
        return scores

    def advance(self, number: int) -> None:
        """Run the round itself: cohort, secure sum, step. `round_s` measures it, not the server's evaluation."""
        self.meter.round = number
        with self.meter.span("server", "round"):
            total = self.aggregate(number, self.work.plan.cohort(number))
            with self.meter.span("server", "step"):
                self.step(number, total)
        if self.work.plan.config.witness:
            self.meter.add("server", "round", WITNESS, self.meter.witnessing_s(self.work.plan.lanes), "s")
        self.round = number

    def aggregate(self, number: int, cohort: Sequence[int]) -> Total:
        """Make one attempt at the secure sum over a cohort, after charging the cohort for it."""
        attempt = self._attempt(number)
        self.charge(attempt, cohort)
        measured = self.work.plan.config.runtime.measure_sum_error
        total = (self._measured_sum if measured else self._sum)(attempt, [client_address(client) for client in cohort])
        self.meter.quantiles("update_norm")
        self.meter.add("server", "protocol", "survivors", len(total.survivors), "1")
        if self.work.plan.tells_figures:
            self.meter.add("server", "protocol", "clipped", total.clipped, "1")
        if self._cut is not None:
            share = self._cut.share(self.meter.values(ranges.CUT), total.survivors, number)
            self.meter.add("server", "protocol", "cut_share", share, "1")
        return total

    def _sum(self, attempt: Attempt, addresses: Sequence[Address]) -> Total:
        flow = self.work.plan.backend.secure_sum.server(addresses, self.work.spec)
        assert self._roster is not None or not self.work.plan.backend.secure_sum.needs.roster, "replies are signed"
        return self._drive(flow, attempt, self.weights.detach().numpy())

    def _measured_sum(self, attempt: Attempt, addresses: Sequence[Address]) -> Total:
        """In test mode: compute the sum and measure its error."""
        with ClearContributions(self.work.spec, self._errand.folder) as clear:
            self.transport.overhear = clear.take
            total = self._sum(attempt, addresses)
            with self.meter.span("server", "sum_error"):
                error = clear.error_of(total, addresses, self.work.tolerance)
        for metric, value in error.metrics().items():
            self.meter.add("server", "protocol", metric, value, "1")
        require_within(error, total, self.work.plan.backend.secure_sum.name)
        return total

    def charge(self, attempt: Attempt, cohort: Sequence[int]) -> None:
        """Record the privacy charges of an attempt, before any of its messages is sent."""
        charges = self._owed(attempt.round, cohort)
        if charges:
            with self.meter.span("server", "ledger"):
                self.ledger.charge(attempt.round, attempt.attempt, charges)

    def _owed(self, number: int, cohort: Sequence[int]) -> "dict[int, list[Charge]]":
        """Return the charges of an attempt at a round, by client.

        A repeated attempt releases the earlier rounds on which its noise depends once more, so the clients of those
        rounds are charged again, too.
        """
        backend = self.work.plan.backend
        owed = {client: backend.charges(client) for client in cohort}
        if number in self.ledger.rounds:
            for ago in range(1, min(backend.window, number)):
                for client in self.work.plan.cohort(number - ago):
                    owed[client] = owed.get(client, []) + backend.charges(client, ago)
        return {client: charges for client, charges in owed.items() if charges}

    def within_budget(self, number: int) -> bool:
        """True where the largest epsilon after this round is within `epsilon_budget`."""
        budget = self.work.plan.config.epsilon_budget
        return budget is None or all(epsilon <= budget for epsilon in self._after(number).values())

    def _after(self, number: int) -> dict[str, float]:
        """Return the largest epsilon by unit, with this round charged as well."""
        config = self.work.plan.config
        owed = self._owed(number, self.work.plan.cohort(number))
        return self.ledger.ledger.with_charges(owed).worst(config.delta, config.accountant)

    def step(self, number: int, total: Total) -> None:
        """Noise the raw sum, divide, and let the server's optimizer step on the negative mean update.

        Raises:
            TooFewContributors: the total weight is zero, up to the tolerance of the sum.
        """
        backend = self.work.plan.backend
        if total.weight <= len(total.survivors) * self.work.tolerance:  # an approximate sum of zeros is not exactly 0
            why = (
                "no client holds an example"
                if self.work.plan.backend.secure_sum.carries.additive
                else "no contribution counted"
            )
            raise TooFewContributors(f"the total weight of the contributions is 0: {why}")
        size = self.work.plan.cohort_size
        sums = np.split(total.update_D, [self.work.spec.segments[0].length])
        randomness = self.work.plan.randomness("server", number)
        extra = sums[1].tolist()
        job = ServerJob(number, randomness, size, total.survivors, total.weight, self.state, self.secrets, extra)
        update_D = backend.on_total(job, sums[0])
        divisor = float(size) if backend.fixed_denominator else total.weight
        mean_D = torch.from_numpy(update_D / divisor).to(torch.float32)
        moved = self.weights.detach()[self.work.trained :] + mean_D[self.work.trained :]
        self.weights.grad = mean_D.neg_()
        self._optimizer.step()
        # buffers such as running variances are averaged: a step with momentum could put them where none can be
        self.weights.detach()[self.work.trained :] = moved
        self.meter.phases("server", job.diagnostics)

    def _evaluate(self, number: int) -> Scores | None:
        every = self.work.plan.config.server.evaluate_every
        last = number == self.work.plan.config.rounds or not self.within_budget(number + 1)
        if not last and (every == 0 or number % every):
            return None
        scores = self._score()
        if not last and self._stops:
            last = True
            self._charge_rest(number)
        self._tell_spending(last)
        return scores

    @property
    def _stops(self) -> bool:
        """True where the loss on the public examples says that the run ends early."""
        config = self.work.plan.config.server
        return stops(self._public_losses, config.patience, config.least_gain)

    def _charge_rest(self, number: int) -> None:
        """Charge the planned rounds after this one, which will not run.

        How many rounds run depends on models that the data shaped. Epsilon of all planned rounds holds whenever the
        run ends, since fewer rounds are a function of all; epsilon of the rounds that ran would need an account of its
        own for a run that chooses its end (Rogers et al. 2016, section 1).
        """
        for later in range(number + 1, self.work.plan.config.rounds + 1):
            if not self.within_budget(later):
                return
            if later not in self.ledger.rounds:
                self.charge(self._attempt(later), self.work.plan.cohort(later))

    def _tell_spending(self, last: bool) -> None:
        """Record the largest epsilon of any client so far, by unit; at the end record each client's epsilon, too."""
        delta = self.work.plan.config.delta
        accountant = self.work.plan.config.accountant
        for unit in UNITS:
            values = self.ledger.ledger.epsilons(unit, delta, accountant)
            if values:
                self.meter.add("server", "ledger", f"epsilon_{unit}", max(values.values()), "1")
            for client, value in values.items() if last else ():
                self.meter.add(client_address(client), "ledger", f"epsilon_{unit}", value, "1")

    def _score(self) -> Scores:
        with self.meter.span("server", "evaluate"):
            self.work.load(self.weights.detach())
            scores = evaluate(self.work, self.transport.watch)
            public = self.work.tests.public
            told = {} if public is None else {PUBLIC_LOSS: score(self.work, public)["loss"]}
        self._public_losses += told.values()
        for metric, value in (vars(scores) | told).items():
            self.meter.add("server", "evaluate", metric, value, "1")
        return scores

    def _evaluate_last(self) -> None:
        """Tell the spending of the last round, which a crashed attempt at the next one has raised, and its scores."""
        rows = self._checkpoints.rows()
        self.meter.round = self.round
        self._tell_spending(last=True)
        scored = (rows["where"] == "server") & (rows["stage"] == "evaluate") & (rows["round"] == self.round)
        if rows.filter(scored & (rows["metric"] == "accuracy")).is_empty():
            self._score()
        self._checkpoints.put_rows(self.work.plan.hash, self.round, self.meter.take())

    def _attempt(self, number: int = SETUP_ROUND) -> Attempt:
        self.transport.dropped.clear()
        # the attempt's name is random, not a counter: a restored disk must not make a round reuse a key or a mask
        return Attempt(self.work.plan.hash, self.work.plan.canonical, number, secrets.token_hex(8), self.state)

    def _save(self) -> None:
        weights_D = self.weights.detach()
        optimizer = self._optimizer.state_dict()
        run = self.work.plan.hash
        own = self.state, self.secrets
        state = State(run, self.round, weights_D, optimizer, self._started, *own, ledger=self.ledger.head)
        self._checkpoints.save(state, self.meter.take())


def _cut_values(work: Workspace) -> ranges.CutValues | None:
    update = work.spec.segments[0]
    if work.plan.cut_metric is None or work.spec.modulus_bits is not None or math.isinf(update.bound):
        return None
    return ranges.CutValues(update.length, update.bound, work.plan.enlarges_updates)


def _roster(work: Workspace, errand: Errand) -> Roster | None:
    if work.plan.relayed or not work.plan.backend.secure_sum.needs.roster:
        return None
    assert errand.roster is not None, "the caller that starts a run makes or reads a roster"
    require_everybody(errand.roster, work.plan.everybody)
    return errand.roster
