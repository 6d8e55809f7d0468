"""Record-level differential privacy: DP-SGD in each client's training (Abadi et al. 2016), by Opacus.

Every step draws each example with probability q (Poisson sampling), clips its gradient, and adds Gaussian noise of
`noise_multiplier` times the clip to the sum. The client's release is then private against every adversary, including
the server.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from dp_accounting import DpEvent
from opacus.validators import ModuleValidator

from privacy.accounting import calibration, charges
from privacy.accounting import epsilon as accounting
from privacy.accounting.charges import Charge
from privacy.checks import check_noise, clip_norm, positive, within
from privacy.errors import ConfigError, one_line, refusal
from privacy.mechanisms.contract import CLIENT, Batch, ClientJob, Loader, Mechanism, Plan, StackedSteps
from privacy.mechanisms.dp_sgd_ghost import Ghost, GhostLoss
from privacy.mechanisms.dp_sgd_layers import KEY, SWAPPED, swapped
from privacy.mechanisms.dp_sgd_modes import AUTO, MODES, settled_mode, wrapped
from privacy.mechanisms.dp_sgd_optimizers import Adaptive, Flat, PerLayer, Sourced, figures
from privacy.mechanisms.separate_examples import randomised, require_separate
from privacy.mechanisms.stacked.steps import Drawing, PrivateSteps, poisson_sample
from privacy.mechanisms.stacked.sums import ClippedSums
from privacy.mechanisms.stacked.trial import fault
from privacy.randomness import Randomness
from privacy.secure_sums.trust import Sentences

KINDS: dict[str, Any] = {"flat": Flat, "per_layer": PerLayer, "adaptive": Adaptive}
CLIPPINGS = tuple(KINDS)
log = logging.getLogger("fedveil")


class DpSgd(Mechanism):
    """DP-SGD. Exactly one of `noise_multiplier` and `target_epsilon` is given; the run sets delta and accountant.

    `mode=auto` takes the fastest mode that can take the model. `clip` bounds the norm of an example's gradient, and
    `max_physical_batch_size` bounds memory: a larger draw is summed piece by piece before its one step of noise.
    `swap_layers` replaces recurrent layers and attention, whose gradients of single examples cannot be had.
    """

    name = "dp_sgd"
    unit = "record"
    noised_by = CLIENT
    floating_noise = True
    holds_against = ("outsider", "server")
    samples = True

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        clip: float = 1.0,
        clipping: str = "flat",
        mode: str = "auto",
        max_physical_batch_size: int = 256,
        target_unclipped_quantile: float = 0.5,
        clip_learning_rate: float = 0.2,
        min_clip: float = 0.01,
        max_clip: float = 100.0,
        unclipped_noise_fraction: float = 0.05,
        swap_layers: bool = False,
    ) -> None:
        check_noise("mechanism.dp_sgd", noise_multiplier, target_epsilon)
        for key, value in {"clip": clip, "min_clip": min_clip, "max_clip": max_clip}.items():
            clip_norm(f"mechanism.dp_sgd.{key}", value)
        positive("mechanism.dp_sgd.clip_learning_rate", clip_learning_rate)
        positive("mechanism.dp_sgd.unclipped_noise_fraction", unclipped_noise_fraction)
        within("mechanism.dp_sgd.target_unclipped_quantile", target_unclipped_quantile)
        _one_of("clipping", clipping, CLIPPINGS)
        _one_of("mode", mode, (AUTO, *MODES))
        if mode == "ghost" and clipping != "flat":
            raise ConfigError.of("mechanism.dp_sgd.clipping", clipping, "mode=ghost clips flat only; choose mode=ew")
        if max_physical_batch_size < 1:
            raise ConfigError.of("mechanism.dp_sgd.max_physical_batch_size", max_physical_batch_size, "at least 1")
        if max_clip <= min_clip:
            raise ConfigError.of("mechanism.dp_sgd.max_clip", max_clip, f"must be above min_clip={min_clip}")
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self._swaps = swap_layers
        self.clip = clip
        self.clipping = clipping
        self._wanted_mode = mode
        self._settled_mode: str | None = None
        self.max_physical_batch_size = max_physical_batch_size
        self._adaptive = (target_unclipped_quantile, clip_learning_rate, min_clip, max_clip, unclipped_noise_fraction)
        self._plan: Plan | None = None
        self._charges: dict[tuple[float, int], Charge] = {}
        self._copies: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()

    def adapt(self, model: torch.nn.Module) -> torch.nn.Module:
        """Replace the layers that `swap_layers` names."""
        return swapped(model) if self._swaps else model

    def settle(self, plan: Plan) -> None:
        """Check the plan and solve the noise for the client that pays most.

        Raises:
            ConfigError: weights that reveal dataset sizes, a model that mixes examples or keeps something of them, a
                mode that the model cannot take, accumulated steps, mixed precision, delta, FedProx, or an epsilon that
                is out of reach.
        """
        if not (plan.uniform_weights or plan.public_weights):
            raise ConfigError.of(
                "training.weighting",
                "examples",
                "reveals the number of records of a client: choose training.weighting="
                "uniform, or declare the numbers public with training.public_weights=true",
            )
        if plan.proximal:
            raise ConfigError.of(
                "training.proximal_mu", plan.proximal, "FedProx's term is not clipped by DP-SGD; set it to 0"
            )
        if plan.accumulate > 1:
            allowed = "a step of DP-SGD is one sample: set 1; max_physical_batch_size bounds its memory"
            raise ConfigError.of("training.accumulate", plan.accumulate, allowed)
        if not plan.float32:
            allowed = "rounds the gradients that DP-SGD clips, so their norms are not kept: set float32"
            raise ConfigError.of("training.precision", "bf16", allowed)
        if plan.delta >= 1 / plan.records:
            raise ConfigError.of("delta", plan.delta, f"must be below 1/records = {1 / plan.records:.2g}")
        _require_known_layers(plan.model)
        largest = min(plan.batch_size, self.max_physical_batch_size, max(plan.examples))
        twin = randomised(plan.model, plan.random_examples)
        require_separate(twin, plan.random_examples, [largest])
        self._settled_mode = settled_mode(twin, self._wanted_mode, self.clipping, plan.random_examples)
        self._plan = plan
        if self.target_epsilon is not None:
            self.noise_multiplier = self._solve(plan, self.target_epsilon)
            log.info("dp_sgd: noise_multiplier=%.4f for epsilon=%g", self.noise_multiplier, self.target_epsilon)

    def sentences(self) -> Sentences:
        """Return the sentences about times, and about sampling rates of the clients' own: unless weights tell them."""
        assert self._plan is not None
        timed = "The time of a step tells how many records it drew, which epsilon takes for a secret."
        if self._plan.sample_rate is not None:
            return {"in sight": (timed,)}
        sizes = (
            "This epsilon takes each client's number of examples as known: its sampling rate, its steps and the scale "
            "of its noise follow from it, and a record more or less may change them (training.sample_rate=null)."
        )
        told = "The sampling rate is batch_size over a client's examples, so it tells them (training.sample_rate=null)."
        return {"epsilon": (sizes,), "in sight": ((told, timed) if self._plan.uniform_weights else (timed,))}

    @property
    def mode(self) -> str:
        """The mode of computing per-example gradients; known after `settle`."""
        assert self._settled_mode is not None
        return self._settled_mode

    def _solve(self, plan: Plan, target_epsilon: float) -> float:
        """Return the least noise multiplier at which no client pays more than the target."""
        costs = Counter(
            (*self._schedule(plan, client), plan.participations[client])
            for client in range(plan.clients)
            if plan.examples[client] and plan.participations[client]
        )
        ranked = sorted(costs, key=lambda cost: -(cost[0] ** 2) * cost[1] * cost[2])

        def event_of(sigma: float, cost: tuple[float, int, int]) -> DpEvent:
            return charges.poisson_steps(sigma, cost[0], cost[1] * cost[2])

        sigma = 0.0
        for cost in ranked:  # the first cost decides, unless the order changes for small rates and many steps
            if sigma and accounting.epsilon(event_of(sigma, cost), plan.delta, plan.accountant) <= target_epsilon:
                continue
            sigma = calibration.solve_noise_multiplier(
                partial(event_of, cost=cost),
                target_epsilon,
                plan.delta,
                plan.accountant,
                key="mechanism.dp_sgd.target_epsilon",
            )
        return sigma

    def _schedule(self, plan: Plan, client: int) -> tuple[float, int]:
        """Return the sampling rate and the number of steps of one participation."""
        per_epoch = max(1, -(-plan.examples[client] // plan.batch_size))
        rate = 1 / per_epoch if plan.sample_rate is None else plan.sample_rate
        if plan.steps is not None:
            return rate, plan.steps
        assert plan.epochs is not None
        return rate, plan.epochs * max(1, round(1 / rate))

    def charge(self, client: int) -> Charge:
        """Return the charge of one participation: its sampled Gaussian steps, under adding or removing a record."""
        assert self._plan is not None
        assert self.noise_multiplier is not None
        rate, steps = self._schedule(self._plan, client)
        if (rate, steps) not in self._charges:
            event = charges.poisson_steps(self.noise_multiplier, rate, steps)
            self._charges[rate, steps] = Charge(self.name, self.unit, "add_remove", event)
        return self._charges[rate, steps]

    def prepare(self, job: ClientJob) -> None:
        """Replace model, optimizer, batches and loss by their private versions."""
        rate, steps, expected = self._sampling(job)
        model = self._private_copy(job.model)
        job.optimizer.param_groups[0]["params"] = [p for p in model.parameters() if p.requires_grad]
        optimizer = self._optimizer(job.optimizer, expected)
        optimizer.source = job.randomness.generator()
        _seed_dropout(job.randomness, next(model.parameters()).device)
        loss = job.loss
        job.loss = partial(loss, reduction="sum")
        if isinstance(optimizer, Ghost):
            job.loss = GhostLoss(model, optimizer, loss)
        assert isinstance(job.batches, Loader), "another mechanism has taken the batches"
        job.batches = PoissonBatches(job.batches, job.examples, optimizer, rate, steps, self.max_physical_batch_size)
        job.model = model
        job.optimizer = optimizer

    def _sampling(self, job: ClientJob) -> tuple[float, int, float]:
        """Return a job's sampling rate, its number of steps, and the number by which a draw's sum is divided.

        A client draws n * q examples on average; under a public rate that reveals n, so the public batch size is used.
        """
        assert self._plan is not None
        rate, steps = self._schedule(self._plan, int(job.address.partition("/")[2]))
        expected = job.examples * rate if self._plan.sample_rate is None else float(self._plan.batch_size)
        return rate, steps, expected

    def alone(self) -> str | None:
        """Return why clients train one by one: another clipping, a mode that was asked for, what a trial finds.

        A subclass may prepare clients in a way of its own.
        """
        if type(self) is not DpSgd:
            return super().alone()
        if self.clipping != "flat":
            return f"clips {self.clipping}"
        if self._wanted_mode != AUTO:
            return f"computes in mode={self._wanted_mode}"
        assert self._plan is not None
        random_examples = self._plan.random_examples
        return fault(randomised(self._plan.model, random_examples), random_examples)

    def stacked(self, jobs: Sequence[ClientJob]) -> StackedSteps:
        """Return the private steps of several clients: those of `prepare`, up to the rounding of sums."""
        assert self.noise_multiplier is not None
        sums = ClippedSums(jobs[0].model, jobs[0].loss, self.clip, self.max_physical_batch_size)
        drawings = []
        for job in jobs:
            assert isinstance(job.batches, Loader), "another mechanism has taken the batches"
            drawings.append(Drawing(job, job.batches.take, job.randomness.generator(), *self._sampling(job)))
        return PrivateSteps(sums, drawings, float(self.noise_multiplier * self.clip))

    def _private_copy(self, model: torch.nn.Module) -> Any:
        """Return a wrapped copy with the model's weights: hooks must not stay on the model, which is shared."""
        if model not in self._copies:
            self._copies[model] = wrapped(model, self.mode)
        private = self._copies[model]
        with torch.no_grad():
            torch._foreach_copy_(_entries(private), _entries(model))
        private.train()
        return private

    def _optimizer(self, optimizer: torch.optim.Optimizer, expected: float) -> Sourced:
        assert self.noise_multiplier is not None
        kind = Ghost if self.mode == "ghost" else KINDS[self.clipping]
        options: dict[str, Any] = {"max_grad_norm": self.clip}
        if self.clipping == "per_layer":
            count = len(optimizer.param_groups[0]["params"])
            options["max_grad_norm"] = [self.clip / math.sqrt(count)] * count
        made: Sourced = kind(optimizer, noise_multiplier=self.noise_multiplier, expected_batch_size=expected, **options)
        if isinstance(made, Adaptive):
            made.quantile, made.rate, made.least, made.most, fraction = self._adaptive
            made.count_std = max(fraction * expected, 0.51 * self.noise_multiplier)
        return made

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Return the update unchanged: training has added its noise already."""
        if job.grouped:
            return update_D
        optimizer = job.optimizer
        assert isinstance(optimizer, Sourced)
        job.diagnostics.update(figures(optimizer.seen, optimizer.clipped, optimizer.not_finite))
        optimizer.zero_grad(set_to_none=True)  # per-example gradients take the memory of a batch times the model
        return update_D


class PoissonBatches:
    """Poisson samples of examples, each example with probability `rate`, in pieces that fit into memory."""

    def __init__(self, loader: Loader, examples: int, optimizer: Sourced, rate: float, steps: int, piece: int) -> None:
        self._take = loader.take
        self._examples = examples
        self._optimizer = optimizer
        self._rate = rate
        self._steps = steps
        self._piece = piece

    def __iter__(self) -> Iterator[Batch]:
        """Yield the pieces of each step's draw; the optimizer is told which piece is the last."""
        for _ in range(self._steps):
            drawn = poisson_sample(self._optimizer.source, self._examples, self._rate)
            if not len(drawn):
                self._optimizer.step_without_examples()
                continue
            pieces = torch.split(drawn, self._piece)
            for number, piece in enumerate(pieces, 1):
                self._optimizer.signal_skip_step(number < len(pieces))
                yield self._take(piece)


def _seed_dropout(randomness: Randomness, device: torch.device) -> None:
    """Seed torch's generators from the client's own randomness, as the server knows the seed of the run.

    An example's dropout depends on its place in the draw. Were it known, one example more would change the gradients
    of those behind it; as it is not, their distribution stays the same.
    """
    seed = int.from_bytes(randomness.key()[:8], "little")
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _require_known_layers(model: torch.nn.Module) -> None:
    """Refuse layers that mix examples or whose gradients of single examples cannot be had, and complex parameters."""
    wide = next((name for name, one in model.named_parameters() if one.is_complex() and one.requires_grad), None)
    if wide is not None:
        raise refusal(model, f"{wide} is complex, and noise is drawn for real values: hold it as pairs of them")
    faults = ModuleValidator.validate(model, strict=False)
    if faults:
        reason = one_line(faults[0])
        can_swap = any(layer in reason for layer in SWAPPED)
        remedy = f"{KEY}=true puts another in its place, with the same weights" if can_swap else "take GroupNorm"
        raise refusal(model, f"{reason}: {remedy}")


def _entries(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return all parameters and buffers, also those that `state_dict` leaves out."""
    return [*model.parameters(), *model.buffers()]


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError.of(f"mechanism.dp_sgd.{key}", value, f"allowed are {', '.join(allowed)}")
