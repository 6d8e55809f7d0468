"""The objects with which a process serves a configuration, built once from its canonical text and cached."""

import math
import os
from collections import Counter
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from hydra.utils import get_class
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LRScheduler

from fl import cohorts
from fl.config import consistency
from fl.config.build import build
from fl.config.identity import from_json, hash_of
from fl.config.schema import RELAYED
from fl.data.image_data import ImageData, load_data
from fl.data.partition import partition
from fl.training import devices, vectors
from fl.training.generators import preserved_generators, seed_generators
from privacy.addresses import Address, client_address
from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError, FedveilError
from privacy.mechanisms.contract import Mechanism, Plan
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from privacy.secure_sums.contract import SecureSum
from privacy.secure_sums.vectors import Segment, VectorSpec

UPDATE = "update"
EXTRA = "extra"
WEIGHT = "weight"
HIDDEN_AMONG = 2  # contributions at least, by default


class Workspace:
    """The objects of one configuration: data, partitions, model, backend, optimisers.

    Raises:
        ConfigError: a part of the configuration cannot be built on this machine.
    """

    def __init__(self, canonical: str) -> None:
        self.canonical = canonical
        self.hash = hash_of(canonical)
        self.config = from_json(canonical)
        self.device = devices.resolve(self.config.device)
        self.activate()
        self.backend = self._backend()
        consistency.check_roster(self.config, self.backend)
        model = self._model()
        # the initial global weights, shape (D,), float32: drawn on the CPU, so the same on every device
        self.initial_D = vectors.flatten(model)
        self.model = model.to(self.device)
        vectors.pool(self.model)
        self._layout = vectors.Layout(self.model)
        self.parameters = list(self.model.parameters())
        self._check_training()
        self.backend.settle(self._plan())
        consistency.check(self.config, self.backend, int(self.candidates[0]))
        # what is summed is known once the mechanisms have settled; whether it can be, shows here
        self.tolerance = self.backend.secure_sum.tolerance(self.spec)

    def _check_training(self) -> None:
        """Build the objects that a round needs, so that a mistake is found here, before the first client trains."""
        self.server_optimizer(torch.nn.Parameter(self.initial_D.clone()))
        for name in ("candidates", "schedule", "max_weight", "client_optimizer", "learning_rates"):
            getattr(self, name)

    def _plan(self) -> Plan:
        training = self.config.training
        drawn = Counter(client for cohort in self.schedule for client in cohort)
        return Plan(
            clients=self.config.clients,
            cohort_size=self.cohort_size,
            min_contributors=self.min_contributors,
            hidden=self.backend.secure_sum.hides and not self.config.runtime.measure_sum_error,
            rounding=self.backend.secure_sum.tolerance(self._spec_of_floats()) * math.sqrt(self._layout.length),
            dimension=self._layout.length,
            rounds=self.config.rounds,
            examples=tuple(len(part) for part in self.partitions),
            participations=tuple(drawn[client] for client in range(self.config.clients)),
            separation=cohorts.separation(self.schedule),
            batch_size=training.batch_size,
            epochs=training.epochs,
            steps=training.steps,
            sample_rate=training.sample_rate,
            uniform_weights=training.weighting == "uniform",
            public_weights=training.public_weights,
            proximal=training.proximal_mu > 0,
            delta=self.config.delta,
            accountant=self.config.accountant,
            model=self.model,
            party_noise=self.backend.secure_sum.parties.noise,
        )

    @cached_property
    def schedule(self) -> tuple[tuple[int, ...], ...]:
        """The cohort of each round (entry 0 is round 1), each sorted; from the run's seed alone."""
        config = self.config
        return cohorts.schedule(config.sampler, self.candidates, self.cohort_size, config.rounds, config.seed)

    def _spec_of_floats(self) -> VectorSpec:
        """Return the vector that is summed where no mechanism converts updates to integers."""
        update = Segment(UPDATE, self._layout.length, self.backend.secure_sum.carries.bound)
        return VectorSpec((update, Segment(WEIGHT, 1, bound=1.0)), self.cohort_size, self.min_contributors)

    def cohort(self, number: int) -> tuple[int, ...]:
        """Return the cohort of a round, sorted."""
        return self.schedule[number - 1]

    @property
    def cohort_size(self) -> int:
        """The number of clients that a round asks."""
        return len(self.candidates) if self.config.cohort is None else self.config.cohort

    def randomness(self, *labels: int | str) -> Randomness:
        """Return the randomness of noise and secret sampling: the operating system's, or seeded with `noise=seeded`."""
        return OsRandomness() if self.config.noise == "os" else SeededRandomness(self.config.seed, "noise", *labels)

    def activate(self) -> None:
        """Apply the settings of this configuration to the process, in case another configuration has run since."""
        training = self.config.training
        devices.configure(self.device, training.threads, training.deterministic, training.tf32)

    @property
    def assumption(self) -> str:
        """The trust assumption: the roles that are trusted with contributions."""
        if self.config.runtime.measure_sum_error:
            return "a test: the server is told every client's contribution"
        assumption = self.backend.secure_sum.assumption
        return f"the server is passive and relays public keys as they are: {assumption}" if self.relayed else assumption

    @property
    def relayed(self) -> bool:
        """True where public keys come through the server, instead of an exchange outside it."""
        return self.config.runtime.roster == RELAYED

    @cached_property
    def data(self) -> ImageData:
        """The image set."""
        return load_data(self.config.data)

    @cached_property
    def partitions(self) -> list[NDArray[np.int64]]:
        """Each client's indices into the training examples."""
        return partition(self.config.data, self.data, self.config.clients, self.config.seed)

    @cached_property
    def candidates(self) -> NDArray[np.int64]:
        """The clients that hold data, from whom cohorts are drawn."""
        present = np.flatnonzero([len(part) for part in self.partitions])
        wanted = self.config.cohort
        if wanted is not None and wanted > len(present):
            raise ConfigError.of("cohort", wanted, f"only {len(present)} of {self.config.clients} clients hold data")
        return present

    def layout(self, model: torch.nn.Module) -> vectors.Layout:
        """Return the memory layout of the model's state: a new one for a model that a mechanism may have changed."""
        untouched = model is self.model and not self.backend.mechanisms and self._layout.current
        return self._layout if untouched else vectors.Layout(model)

    @cached_property
    def spec(self) -> VectorSpec:
        """The vector that is summed: v * update and v, with v = weight / max_weight in [0, 1]."""
        backend = self.backend
        update = Segment(UPDATE, backend.summed_length(self._layout.length), backend.secure_sum.carries.bound)
        extra = Segment(EXTRA, backend.extra_values, bound=1.0)
        segments = (update, *([extra] if extra.length else []), Segment(WEIGHT, 1, bound=1.0))
        return VectorSpec(segments, self.cohort_size, self.min_contributors, backend.modulus_bits)

    @property
    def min_contributors(self) -> int:
        """The least number of contributions over which a sum is opened; by default 2 where the sum hides something.

        Raises:
            ConfigError: the cohort has one client alone, and `server.min_contributors` is not set to allow that.
        """
        minimum = self.config.server.min_contributors
        if minimum is None and self.hides_something and self.cohort_size < HIDDEN_AMONG:
            name = self.backend.secure_sum.name
            allowed = f"a sum over one is its update, which {name} is to hide: ask more, or set it to 1"
            raise ConfigError.of("server.min_contributors", "null", allowed)
        return minimum if minimum is not None else HIDDEN_AMONG if self.hides_something else 1

    @property
    def hides_something(self) -> bool:
        """True where the secure sum hides contributions, or a part of each; another role must then help to open it."""
        return self.backend.secure_sum.hides or self.backend.secure_sum.needs.roster

    @cached_property
    def everybody(self) -> tuple[Address, ...]:
        """All participants of the secure sum beside the server: clients and roles, also roles that it does not ask."""
        return (*map(client_address, range(self.config.clients)), *self.members)

    @property
    def asked(self) -> tuple[Address, ...]:
        """The participants that the server asks: the clients, and the secure sum's roles."""
        return (*map(client_address, range(self.config.clients)), *self.backend.secure_sum.parties.roles)

    @property
    def members(self) -> tuple[Address, ...]:
        """The participants other than clients; each has a process of its own."""
        secure_sum = self.backend.secure_sum
        return secure_sum.parties.roles if secure_sum.parties.meeting is None else secure_sum.parties.meeting.members

    @property
    def lanes(self) -> int:
        """The number of clients of a cohort that run at once."""
        runtime = self.config.runtime
        if runtime.name == "deployment":
            return self.cohort_size
        cores = os.cpu_count() or 1
        at_once = int(cores / runtime.cpus_per_client) if runtime.name == "ray" else runtime.workers
        return min(self.cohort_size, max(1, at_once))

    @cached_property
    def max_weight(self) -> int:
        """The public bound on a client's number of examples."""
        largest = max(len(part) for part in self.partitions)
        declared = self.config.training.max_weight
        if declared is not None and largest > declared:
            raise ConfigError.of("training.max_weight", declared, f"a client holds {largest} examples")
        return largest if declared is None else int(declared)

    def weight(self, client: int) -> float:
        """Return the weight v of a client, in [0, 1]."""
        if self.config.training.weighting == "uniform":
            return 1.0
        return len(self.partitions[client]) / self.max_weight

    @cached_property
    def learning_rates(self) -> list[float]:
        """The clients' learning rate in each round (entry 0 is round 1), from a torch scheduler."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self.config.training.lr)
        schedule = self.config.training.schedule
        if not schedule:
            return [float(self.config.training.lr)] * self.config.rounds
        rates = []
        try:
            scheduler = build(LRScheduler, "training.schedule", schedule, optimizer=optimizer)
            for _ in range(self.config.rounds):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                scheduler.step()
        except (TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, FedveilError):
                raise
            raise ConfigError.of("training.schedule", dict(schedule), str(error)) from error
        return rates

    @cached_property
    def client_optimizer(self) -> "partial[torch.optim.Optimizer]":
        """The function that makes a client's optimizer from parameters and `lr`.

        It is resolved once, because Hydra takes a millisecond a call.
        """
        node = dict(self.config.training.optimizer)
        some = [torch.nn.Parameter(torch.zeros(1))]
        build(torch.optim.Optimizer, "training.optimizer", node, params=some, lr=self.config.training.lr)
        return partial(get_class(node.pop("_target_")), **node)

    def server_optimizer(self, weights_D: torch.nn.Parameter) -> torch.optim.Optimizer:
        """Make the server's optimizer over the flat global weights."""
        return build(torch.optim.Optimizer, "server.optimizer", self.config.server.optimizer, params=[weights_D])

    def _backend(self) -> PrivacyBackend:
        mechanisms = [build(Mechanism, f"mechanism.{key}", node) for key, node in self.config.mechanism.items()]
        secure_sum = build(SecureSum, "secure_sum", self.config.secure_sum)  # type: ignore[type-abstract]
        return PrivacyBackend(secure_sum, tuple(mechanisms))

    def _model(self) -> torch.nn.Module:
        cpu = torch.device("cpu")
        data = self.data
        with preserved_generators(cpu):
            seed_generators(cpu, self.config.seed, "initial weights")
            model = build(torch.nn.Module, "model", self.config.model, shape=data.shape, classes=data.classes)
        if not any(parameter.numel() for parameter in model.parameters()):
            raise ConfigError.of("model._target_", self.config.model["_target_"], "it has nothing to train")
        return model


@lru_cache(maxsize=2)
def workspace(canonical: str) -> Workspace:
    """Return the workspace of a configuration, built once a process."""
    return Workspace(canonical)
