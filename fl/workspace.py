"""The objects with which a process serves a configuration, built once from its canonical text and cached."""

import math
from functools import cached_property, lru_cache, partial

import torch
from hydra.utils import get_class

from fl import cohorts
from fl.config import consistency
from fl.config.build import build
from fl.data.image_data import ImageData, load_data
from fl.plan import RunPlan
from fl.training import devices, ranges, vectors
from fl.training.generators import preserved_generators, seed_generators
from privacy.errors import ConfigError
from privacy.mechanisms.contract import Plan
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
        # the initial global weights, shape (D,), float32: drawn on the CPU, so the same on every device
        self.initial_D = vectors.flatten(model)
        self.model = model.to(self.device)
        vectors.pool(self.model)
        self._layout = vectors.Layout(self.model)
        self._counters = [(entry, entry.clone()) for entry in vectors.counters(self.model)]
        self.parameters = list(self.model.parameters())
        self._check_training()
        backend.settle(self._facts())
        consistency.check(config, backend, int(self.plan.candidates[0]))
        # what is summed is known once the mechanisms have settled; whether it can be, shows here
        self.tolerance = backend.secure_sum.tolerance(self.spec)
        ranges.require_steps(self.plan, self.spec, self.tolerance)

    def _check_training(self) -> None:
        """Build the objects that a round needs, so that a mistake is found here, before the first client trains."""
        plan = self.plan
        self.server_optimizer(torch.nn.Parameter(self.initial_D.clone()))
        _ = plan.candidates, plan.schedule, plan.max_weight, self.client_optimizer, plan.learning_rates

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
            proximal=training.proximal_mu > 0,
            delta=config.delta,
            accountant=config.accountant,
            model=self.model,
            random_examples=self.data.random_examples,
            party_noise=secure_sum.parties.noise,
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
        return self._layout if untouched else vectors.Layout(model)

    @torch.no_grad()
    def load(self, global_D: torch.Tensor) -> None:
        """Put the global weights, shape (D,), into the model, and its counters back to their start.

        The next client of the process finds nothing of the last one.
        """
        self.layout(self.model).load(global_D)
        for entry, start in self._counters:
            entry.copy_(start)

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
        node = dict(training.optimizer)
        some = [torch.nn.Parameter(torch.zeros(1))]
        build(torch.optim.Optimizer, "training.optimizer", node, params=some, lr=training.lr)
        return partial(get_class(node.pop("_target_")), **node)

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
        if not any(parameter.numel() for parameter in model.parameters()):
            raise ConfigError.of("model._target_", config.model["_target_"], "it has nothing to train")
        return model


@lru_cache(maxsize=2)
def workspace(canonical: str) -> Workspace:
    """Return the workspace of a configuration, built once a process."""
    return Workspace(canonical)
