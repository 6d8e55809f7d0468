"""The server's half of a run: sample a cohort, drive the secure sum, step, evaluate, checkpoint.

Shapes: D is the number of values of the model.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from flwr.serverapp import Grid
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl import vectors
from fl.checkpoint import Checkpoints, State
from fl.evaluation import Scores, evaluate
from fl.metering import Meter
from fl.rounds import drive
from fl.transport import Attempt, Transport
from fl.workspace import Workspace, preserved_generators
from privacy.errors import FedveilError, TooFewContributors
from privacy.mechanism import ServerJob
from privacy.randomness import OsRandomness, seed_from
from privacy.secure_sum import Address, Total

SETUP_ROUND = 0


@dataclass(frozen=True)
class Errand:
    """What a server is asked to do, beside the configuration: where to write, how to talk, how often to poll."""

    folder: Path  # checkpoints
    keep_checkpoints: int = 2
    progress: Literal["none", "bar", "lines"] = "none"
    poll_s: float = 0.0


class Server:
    """One run over one grid. `nodes` maps every client's address to its Flower node."""

    def __init__(self, work: Workspace, grid: Grid, nodes: Mapping[Address, int], errand: Errand) -> None:
        self.work, self._errand = work, errand
        self.meter = Meter()
        self.transport = Transport(grid, nodes, self.meter, work.config.server.deadline_s, errand.poll_s)
        self._checkpoints = Checkpoints(errand.folder, errand.keep_checkpoints)
        self._resume(self._checkpoints.latest())

    def _resume(self, state: State | None) -> None:
        start = self.work.initial_D if state is None else state.weights_D
        self.weights = torch.nn.Parameter(start.clone())
        self._optimizer = self.work.server_optimizer(self.weights)
        self._started = datetime.now(UTC).isoformat(timespec="seconds") if state is None else state.started
        self.round = SETUP_ROUND if state is None else state.round
        if state is not None:
            self._optimizer.load_state_dict(state.optimizer)

    def run(self) -> None:
        """All rounds that are left.

        Raises:
            FedveilError: the run cannot go on; what was measured is in the checkpoints.
        """
        rounds = self.work.config.rounds
        if self.round == SETUP_ROUND:
            self._set_up()
        with progress_bar(self._errand.progress == "bar") as bar:
            task = bar.add_task(self.work.backend.name, total=rounds, completed=self.round, note="")
            for number in range(self.round + 1, rounds + 1):
                scores = self._round(number)
                note = "" if scores is None else f"accuracy {scores.accuracy:.3f}"
                bar.update(task, completed=number, note=note)
                if self._errand.progress == "lines":
                    print(f"round {number} of {rounds}", note, flush=True)

    def _set_up(self) -> None:
        """Key distribution, once a run; it has no model and no contributions."""
        self.meter.round = SETUP_ROUND
        roles = [address_of(client) for client in self.work.candidates]
        with self.meter.span("server", "setup"):
            drive(
                self.work.backend.secure_sum.setup(roles, self.work.spec), self.transport, self.meter, self._attempt()
            )
        self._save()

    def _round(self, number: int) -> Scores | None:
        try:
            self.advance(number)
            scores = self._evaluate(number)
        except FedveilError:
            self._checkpoints.save_rows(self.work.hash, number, self.meter.take())
            raise
        self._save()
        return scores

    def advance(self, number: int) -> None:
        """The round itself: cohort, secure sum, step. `round_s` measures it; evaluation and checkpoint stand apart."""
        self.meter.round = number
        with self.meter.span("server", "round"):
            total = self.aggregate(number, [address_of(client) for client in self.sample(number)])
            with self.meter.span("server", "step"):
                self.step(number, total)
        self.round = number

    def sample(self, number: int) -> list[int]:
        """The cohort of a round, uniformly without replacement, sorted; from the run's seed alone."""
        candidates, size = self.work.candidates, self.work.spec.cohort_size
        if size == len(candidates):
            return [int(client) for client in candidates]
        generator = np.random.default_rng(seed_from(self.work.config.seed, "cohort", number))
        return sorted(int(client) for client in generator.choice(candidates, size, replace=False))

    def aggregate(self, number: int, cohort: list[Address]) -> Total:
        """One attempt at the secure sum over a cohort."""
        flow = self.work.backend.secure_sum.server(cohort, self.work.spec)
        abort = self.work.config.server.on_invalid == "abort"
        model_D = self.weights.detach().numpy()
        total = drive(flow, self.transport, self.meter, self._attempt(number), model_D, abort)
        assert total is not None
        self.meter.add("server", "protocol", "survivors", len(total.survivors), "1")
        self.meter.add("server", "protocol", "clipped", total.clipped, "1")
        return total

    def step(self, number: int, total: Total) -> None:
        """Noise the raw sum, divide, and let the server's optimizer step on the negative mean update."""
        if total.weight <= 0:
            raise TooFewContributors("the contributions weigh nothing together: no client holds an example")
        job = ServerJob(number, OsRandomness(), self.work.spec.cohort_size, total.survivors, total.weight)
        update_D = self.work.backend.on_total(job, total.update_D)
        mean_D = torch.from_numpy(update_D / total.weight).to(torch.float32)
        self.weights.grad = mean_D.neg_()
        self._optimizer.step()

    def _evaluate(self, number: int) -> Scores | None:
        every = self.work.config.server.evaluate_every
        if number != self.work.config.rounds and (every == 0 or number % every):
            return None
        with self.meter.span("server", "evaluate"):
            vectors.load(self.work.model, self.weights.detach())
            scores = evaluate(self.work)
        for metric, value in vars(scores).items():
            self.meter.add("server", "evaluate", metric, value, "1")
        return scores

    def _attempt(self, number: int = SETUP_ROUND) -> Attempt:
        self.transport.dropped.clear()
        # drawn afresh, not counted: a restored disk must not make a round reuse a key or a mask
        return Attempt(self.work.hash, self.work.canonical, number, secrets.token_hex(8))

    def _save(self) -> None:
        weights_D = self.weights.detach()
        state = State(self.work.hash, self.round, weights_D, self._optimizer.state_dict(), self._started)
        self._checkpoints.save(state, self.meter.take())


def address_of(client: int) -> Address:
    """The address of a client."""
    return f"client/{client}"


def progress_bar(wanted: bool) -> Progress:
    """A bar over the rounds on standard error, and none where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, disable=not (wanted and console.is_terminal))


Locate = Callable[[Grid, Workspace], Mapping[Address, int]]


def serve(work: Workspace, grid: Grid, locate: Locate, errand: Errand) -> None:
    """A whole run, or what is left of it: what every ServerApp does."""
    work.activate()
    with preserved_generators(work.device):
        Server(work, grid, locate(grid, work), errand).run()
