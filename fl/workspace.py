"""The objects with which a process serves a configuration, built once from its canonical text and cached."""

import math
from functools import cached_property, lru_cache, partial

import torch
from hydra.utils import get_class

from fl import cohorts
from fl.config import consistency, ranges
from fl.config.build import build
from fl.config.schema import BF16, FLOAT32
from fl.data.image_data import ImageData, Tests, divided, load_data
from fl.plan import RunPlan
from fl.spawned.ahead import AheadOfTime, second_core
from fl.training import devices, dry_step, vectors
from fl.training.generators import preserved_generators, seed_generators
from fl.training.kept import Kept
from fl.training.local import Batches, Passes, smallest_batch, train
from fl.training.loss import loss_of
from fl.training.optimizers import client_options
from fl.training.together.groups import Groups, Taken
from fl.training.together.training import GroupTraining, Trainee
from privacy.addresses import client_address
from privacy.errors import ConfigError
from privacy.mechanisms.contract import ClientJob, Loss, Plan
from privacy.secure_sums.vectors import VectorSpec


class Workspace:
    """A plan, and the objects that carry it out on this machine: device, data, model, optimizers.

    The mechanisms of the plan's backend have settled.

    Raises:
        ConfigError: a part of the configuration cannot be built on this machine.
    """

    def __init__(self, canonical: str) -> None:
        self.plan = RunPlan(canonical)
        config = self.plan.config
        self.device = devices.resolve(config.device)
        self.activate()
        backend = self.plan.backend
        consistency.check_roster(config, backend)
        model = self._model()
        self._moving = self._moving_buffers(model)
        # the initial global weights, shape (D,), float32: drawn on the CPU, so the same on every device
        self.initial_D = vectors.Layout(model, self._moving).flatten()
        self.model = model.to(self.device)
        vectors.pool(self.model, self._moving)
        self._layout = vectors.Layout(self.model, self._moving)
        self.trained = self._layout.trained  # number of values of the vector that are parameters; they come first
        self._kept = Kept(self.model, self._moving)
        self.parameters = vectors.trained(self.model)
        self._tried = False
        self._check_training()
        backend.settle(self._facts())
        consistency.check(config, backend, int(self.plan.candidates[0]))
        if config.runtime.compile:
            self.together.require_compilable()
        # what is summed is known once the mechanisms have settled; whether it can be, shows here
        self.tolerance = backend.secure_sum.tolerance(self.spec)
        examples = [len(part) for part in self.plan.partitions]
        label = backend.secure_sum.label
        ranges.require_steps(config, label, examples, self.plan.max_weight, self.spec, self.tolerance)

    def _check_training(self) -> None:
        """Build the objects that a round needs, so that a mistake is found here, before the first client trains."""
        plan = self.plan
        self.server_optimizer(torch.nn.Parameter(self.initial_D.clone()))
        _ = plan.candidates, plan.schedule, plan.max_weight, self.client_optimizer, plan.learning_rates
        _ = self.loss, self.tests

    def _facts(self) -> Plan:
        """Return the facts of the run that its mechanisms settle on."""
        plan = self.plan
        config = plan.config
        training = config.training
        secure_sum = plan.backend.secure_sum
        dimension = self._layout.length
        return Plan(
            clients=config.clients,
            cohort_size=plan.cohort_size,
            min_contributors=plan.min_contributors,
            hidden=secure_sum.hides and not config.runtime.measure_sum_error,
            rounding=secure_sum.tolerance(plan.spec_of_floats(dimension)) * math.sqrt(dimension),
            dimension=dimension,
            rounds=config.rounds,
            examples=tuple(len(part) for part in plan.partitions),
            participations=plan.participations,
            separation=cohorts.separation(plan.schedule),
            batch_size=training.batch_size,
            epochs=training.epochs,
            steps=training.steps,
            sample_rate=training.sample_rate,
            uniform_weights=training.weighting == "uniform",
            public_weights=training.public_weights,
            proximal=training.proximal_mu,
            delta=config.delta,
            accountant=config.accountant,
            model=self.model,
            random_examples=self.data.random_examples,
            party_noise=secure_sum.parties.noise,
            moving=self._moving,
            accumulate=training.accumulate,
            float32=training.precision == FLOAT32,
        )

    def activate(self) -> None:
        """Apply the settings of this configuration to the process, in case another configuration has run since."""
        training = self.plan.config.training
        devices.configure(self.device, training.threads, training.deterministic, training.tf32)

    @cached_property
    def data(self) -> ImageData:
        """The image set."""
        return load_data(self.plan.config.data)

    def layout(self, model: torch.nn.Module) -> vectors.Layout:
        """Return the memory layout of the model's state: a new one for a model that a mechanism may have changed."""
        untouched = model is self.model and not self.plan.backend.mechanisms and self._layout.current
        return self._layout if untouched else vectors.Layout(model, self._moving)

    @torch.no_grad()
    def load(self, global_D: torch.Tensor) -> None:
        """Put the global weights, shape (D,), into the model, and all else that it holds back to its start.

        The next client of the process finds nothing of the last one.
        """
        self._kept.restore()
        self.layout(self.model).load(global_D)

    @cached_property
    def together(self) -> GroupTraining:
        """The training of a cohort's clients in groups."""
        return GroupTraining(self._trainee)

    @cached_property
    def groups(self) -> Groups:
        """The groups of this process, which measure what they take."""
        from fl.metering import measured  # and Flower, which a threat card does not need

        return self.together.groups(partial(measured, self.device))

    @cached_property
    def _trainee(self) -> Trainee:
        plan = self.plan
        return Trainee(
            config=plan.config,
            partitions=plan.partitions,
            cohort_of=plan.cohort,
            cohort_size=plan.cohort_size,
            learning_rates=plan.learning_rates,
            mechanisms=plan.backend.mechanisms,
            data=self.data,
            model=self.model,
            parameters=self.parameters,
            moving=self._moving,
            optimizer_of=self.client_optimizer,
            loss=self.loss,
            passes=self.passes,
            layout=self._layout,
            load=self.load,
            initial_D=self.initial_D,
            device=self.device,
            randomness_of=plan.randomness,
        )

    @cached_property
    def ahead(self) -> AheadOfTime | None:
        """The process that prepares what does not depend on updates; None where there is none."""
        return AheadOfTime() if self.plan.config.runtime.prepare_ahead and self.alone_on_core is None else None

    @property
    def alone_on_core(self) -> str | None:
        """Why no process can prepare beside this one, as a clause; None where one can."""
        return second_core(max(1, self.plan.config.runtime.workers))

    @property
    def told_ahead(self) -> str:
        """A clause for the run's output about `runtime.prepare_ahead`; the empty string where it is off."""
        if not self.plan.config.runtime.prepare_ahead:
            return ""
        return ", prepared ahead" if self.ahead else f", nothing prepared ahead: {self.alone_on_core}"

    def close(self) -> None:
        """End the process that prepares."""
        if self.ahead is not None:
            self.ahead.close()

    def batches(self, client: int, seed: int) -> Batches:
        """Return a client's examples, in the order that the seed gives."""
        return self._trainee.batches(client, seed)

    def taken(self, number: int, attempt: str, client: int, global_D: torch.Tensor) -> Taken | None:
        """Return what a client trains with its group from `global_D`, shape (D,); None where it trains alone.

        An attempt at a round trains each group once, at the first of its clients.
        """
        if self.together.choice.size == 1:
            return None
        if not self.groups.holds(number, attempt, client):
            self.load(global_D)
        try:
            return self.groups.take(number, attempt, client, global_D)
        except torch.OutOfMemoryError as error:
            told = f"{error}; {self.together.choice.size} clients train together: lower runtime.together"
            raise torch.OutOfMemoryError(told) from error

    def give(self, job: ClientJob, taken: Taken) -> None:
        """Put what a client's group has trained for it into the job."""
        self._layout.load(taken.row_D)
        job.diagnostics.update(taken.diagnostics)

    def train(self, job: ClientJob) -> None:
        """Train the job's model in place, alone."""
        train(job, self.passes)

    def require_kept(self, model: torch.nn.Module) -> None:
        """Refuse a trained model in which something has changed that no vector carries.

        Raises:
            ConfigError: it names the entry.
        """
        changed = self._kept.changed() if model is self.model else None
        if changed is not None:
            raise dry_step.unsummed(model, changed)

    def try_model(self) -> None:
        """Train the model on a few random examples, once a process, before the first round; then put it back.

        Raises:
            ConfigError: the model cannot be trained, or not under the mechanisms; the message says how.
        """
        if self._tried:
            return
        self.activate()
        with dry_step.put_back(self.device, self._layout, self.load, self.plan.config.seed, "dry step"):
            self._try()
        self._tried = True

    def _try(self) -> None:
        plan = self.plan
        size = min(dry_step.MOST, self._smallest_batch)
        examples = dry_step.RandomLoader.of(self.data.random_examples, size, self.device)
        trial = dry_step.DryStep(self.model, self.load, self.layout, self._kept, examples, self.data.classes)
        trial.plain(self._random_job(examples), self.passes)
        if plan.backend.mechanisms:
            self.load(self.initial_D.to(self.device))
            trial.private(self._random_job(examples), plan.backend.prepare, plan.backend.name)

    def _random_job(self, examples: dry_step.RandomLoader) -> ClientJob:
        """Return a client's training objects with random examples in place of its own."""
        plan = self.plan
        client = int(plan.candidates[0])
        optimizer = self.client_optimizer(self.parameters, lr=plan.learning_rates[0])
        randomness = plan.randomness("dry step")
        state = plan.backend.initial_state()
        count = len(plan.partitions[client])
        return ClientJob(
            client_address(client), 1, {}, randomness, count, self.model, optimizer, examples, self.loss, state
        )

    @property
    def _smallest_batch(self) -> int:
        """The number of examples of the smallest batch of any client; the last one of an epoch may be small."""
        training = self.plan.config.training
        counts = {len(part) for part in self.plan.partitions if len(part)}
        batches = None if training.steps is None else training.steps * training.accumulate
        return min(smallest_batch(count, training.batch_size, batches) for count in counts)

    @cached_property
    def passes(self) -> Passes:
        """How a client trains without a mechanism."""
        training = self.plan.config.training
        piece = training.batch_size if training.accumulate > 1 else None
        return Passes(training.proximal_mu, piece, training.precision == BF16)

    @cached_property
    def loss(self) -> Loss:
        """The loss of local training."""
        training = self.plan.config.training
        return loss_of(training.class_weights, training.label_smoothing, self.data.classes, self.device)

    @cached_property
    def tests(self) -> Tests:
        """The test examples that are scored, and the public ones, by which the server may end a run early."""
        return divided(self.data.test, self.plan.config.data.public_share, self.plan.config.seed)

    @cached_property
    def spec(self) -> VectorSpec:
        """The vector that is summed for this model."""
        return self.plan.spec(self._layout.length)

    @cached_property
    def client_optimizer(self) -> "partial[torch.optim.Optimizer]":
        """The function that makes a client's optimizer from parameters and `lr`.

        It is resolved once, because Hydra takes a millisecond a call.
        """
        training = self.plan.config.training
        node = client_options("training.optimizer", training.optimizer, self.parameters)
        some = [torch.nn.Parameter(torch.zeros(1))]
        build(torch.optim.Optimizer, "training.optimizer", node, params=some, lr=training.lr)
        return partial(get_class(node.pop("_target_")), **node)

    @cached_property
    def idle_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of jobs whose training is done: making one takes longer than a small client's messages."""
        return self.client_optimizer(self.parameters, lr=self.plan.learning_rates[0])

    def server_optimizer(self, weights_D: torch.nn.Parameter) -> torch.optim.Optimizer:
        """Make the server's optimizer over the flat global weights."""
        node = self.plan.config.server.optimizer
        return build(torch.optim.Optimizer, "server.optimizer", node, params=[weights_D])

    def _model(self) -> torch.nn.Module:
        cpu = torch.device("cpu")
        config = self.plan.config
        data = self.data
        with preserved_generators(cpu):
            seed_generators(cpu, config.seed, "initial weights")
            model = build(torch.nn.Module, "model", config.model, shape=data.shape, classes=data.classes)
            dry_step.materialise(model, data.random_examples)
            for mechanism in self.plan.backend.mechanisms:
                model = mechanism.adapt(model)
        if not any(parameter.numel() for parameter in vectors.trained(model)):
            allowed = "it has nothing to train: a parameter of it has to require a gradient"
            raise ConfigError.of("model._target_", config.model["_target_"], allowed)
        return model.train()

    def _moving_buffers(self, model: torch.nn.Module) -> tuple[str, ...]:
        cpu = torch.device("cpu")
        with preserved_generators(cpu):
            seed_generators(cpu, self.plan.config.seed, "moving buffers")
            return dry_step.moving_buffers(model, self.data.random_examples)


@lru_cache(maxsize=2)
def workspace(canonical: str) -> Workspace:
    """Return the workspace of a configuration, built once a process."""
    return Workspace(canonical)
