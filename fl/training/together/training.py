"""The training of a run's clients in groups: the choice of their size, and the training of one.

Shapes: N clients of a group, D values of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray

from fl.config.schema import AUTO, FedveilConfig
from fl.data.image_data import ImageData
from fl.training.dry_step import put_back
from fl.training.local import Batches, Passes, train
from fl.training.together import choice
from fl.training.together.choice import Choice
from fl.training.together.compiled import Compiled, require_compiler
from fl.training.together.groups import Groups, Measure, Trained
from fl.training.together.memory import keep_freed_memory
from fl.training.together.stacked import Stacked, mapped
from fl.training.vectors import Layout
from privacy.addresses import Address, client_address
from privacy.errors import FAULTS, ConfigError
from privacy.mechanisms.contract import ClientJob, Loss, Mechanism
from privacy.randomness import OsRandomness, Randomness, seed_from

TRIAL = (6, 4, 3)  # number of examples of each client of a trial: two batches, a full one, a short one
TRIAL_BATCH = 4
MEASURED = 2  # number of examples of the pass that measures memory


@dataclass(frozen=True)
class Trainee:
    """A run's model, and what its plain training needs.

    Args:
        config: the run's configuration.
        partitions: the indices of each client's examples, (N,) each.
        cohort_of: returns the clients of a round, in order.
        cohort_size: their number.
        learning_rates: that of each round.
        mechanisms: those that see a client's training.
        data: the image set.
        model: the model; it is trained in place, and put back by `load`.
        parameters: its trained parameters.
        moving: the buffers that training moves.
        optimizer_of: makes a client's optimizer from parameters and `lr`.
        loss: the loss of local training.
        passes: how passes are made.
        layout: the model's layout.
        load: puts weights, shape (D,), into the model, and all else as it was at the start.
        initial_D: the initial weights, on the CPU.
        device: the device of the model.
        randomness_of: a new source of a client's randomness in a round.
    """

    config: FedveilConfig
    partitions: Sequence[NDArray[np.int64]]
    cohort_of: Callable[[int], Sequence[int]]
    cohort_size: int
    learning_rates: Sequence[float]
    mechanisms: Sequence[Mechanism]
    data: ImageData
    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    moving: tuple[str, ...]
    optimizer_of: Callable[..., torch.optim.Optimizer]
    loss: Loss
    passes: Passes
    layout: Layout
    load: Callable[[torch.Tensor], None]
    initial_D: torch.Tensor
    device: torch.device
    randomness_of: Callable[[Address, int], Randomness]

    def batches(self, client: int, seed: int) -> Batches:
        """Return a client's examples, in the order that the seed gives."""
        training = self.config.training
        return Batches(
            self.data,
            torch.from_numpy(self.partitions[client]),
            self.device,
            training.batch_size * training.accumulate,
            torch.Generator().manual_seed(seed),
            training.epochs,
            training.steps,
        )

    def examples_passed(self, client: int) -> int:
        """Return the number of examples that a client passes in a round."""
        training = self.config.training
        examples = len(self.partitions[client])
        if training.steps is None:
            return examples * (training.epochs or 1)
        return training.steps * min(examples, training.batch_size * training.accumulate)


class GroupTraining:
    """The groups of one run in one process."""

    def __init__(self, trainee: Trainee) -> None:
        self._trainee = trainee

    @cached_property
    def choice(self) -> Choice:
        """The size of groups, by a trial on random examples; the same in each process of the run."""
        trainee = self._trainee
        runtime = trainee.config.runtime
        if runtime.together == 1 or runtime.name != "inprocess":
            reason = None if runtime.together == 1 else f"so runtime={runtime.name} trains them"
            return Choice(1, reason)
        several = [one.name for one in self._preparing]
        if len(several) > 1:
            return Choice(1, f"mechanisms {' and '.join(several)} prepare the training of each")
        with put_back(trainee.device, trainee.layout, trainee.load, trainee.config.seed, "together"):
            return self._tried()

    @property
    def told(self) -> str:
        """A clause for the run's output."""
        return self.choice.told + self.choice.idle(self._trainee.cohort_size, self._trainee.config.runtime.workers)

    @property
    def _preparing(self) -> list[Mechanism]:
        """The mechanisms that change a client's training."""
        return [one for one in self._trainee.mechanisms if type(one).prepare is not Mechanism.prepare]

    def require_compilable(self) -> None:
        """Refuse to compile where a mechanism makes the steps of clients, or where there is no compiler.

        Raises:
            ConfigError: `runtime.compile=true` can have no effect here.
        """
        if self._preparing:
            told = f"mechanism={self._preparing[0].name} trains in a way that is not compiled"
            raise ConfigError.of("runtime.compile", True, told)
        require_compiler(self._trainee.device)

    @cached_property
    def _compiled(self) -> Compiled | None:
        """The compiled pass of groups; None where they are not compiled."""
        return Compiled(mapped(self._trainee.model)) if self._trainee.config.runtime.compile else None

    def compiling_s(self) -> float:
        """Return the wall time that torch has taken to compile since the last call, the trial included, in seconds."""
        return 0.0 if self._compiled is None else self._compiled.untold_s()

    def _apart(self, measure: Measure, work: Callable[[], Trained]) -> tuple[Trained, Mapping[str, float]]:
        """Return a group's training and its costs; the wall time of compilation is none of them."""
        if self._compiled is None:
            return measure(work)
        before_s = self._compiled.spent_s
        trained, costs = measure(work)
        return trained, {**costs, "wall": costs["wall"] - (self._compiled.spent_s - before_s)}

    def groups(self, measure: Measure) -> Groups:
        """Return the groups of this process."""
        trainee = self._trainee
        if trainee.device.type == "cpu":
            keep_freed_memory()
        apart = partial(self._apart, measure)
        return Groups(self.choice.size, trainee.cohort_of, self._train, trainee.examples_passed, apart)

    def _tried(self) -> Choice:
        trainee = self._trainee
        wanted = trainee.config.runtime.together
        reason = choice.unstackable(self._optimizer(trainee.parameters), trainee.moving)
        if reason is not None:
            return Choice(1, reason)
        size = choice.fitting(wanted, trainee.cohort_size, self._bytes_of_client, trainee.device)
        if size == 1:
            return Choice(1, "memory holds one" if wanted == AUTO else None)
        if self._preparing:  # the mechanism has its own trial
            own = self._preparing[0]
            reason = own.alone()
            return Choice(1, f"mechanism={own.name}: {reason}") if reason else Choice(size)
        reason = choice.fault(self._trial_together, self._trial_alone, trainee.initial_D.to(trainee.device))
        return Choice(1, reason) if reason else Choice(size)

    def _bytes_of_client(self) -> int:
        trainee = self._trainee
        inputs, labels = trainee.data.random_examples(MEASURED)
        training = trainee.config.training
        largest = min(training.batch_size, max(len(part) for part in trainee.partitions))
        self._reset()
        examples = inputs.to(trainee.device), labels.to(trainee.device)
        mixed = torch.autocast(trainee.device.type, torch.bfloat16, enabled=trainee.passes.mixed)
        try:
            with mixed:
                return choice.bytes_of_client(trainee.model.train(), trainee.loss, examples, largest)
        except FAULTS:
            return 1  # the trial says why

    def _reset(self) -> None:
        self._trainee.load(self._trainee.initial_D.to(self._trainee.device))
        for parameter in self._trainee.parameters:
            parameter.grad = None

    def _optimizer(self, parameters: Sequence[torch.nn.Parameter], number: int = 1) -> torch.optim.Optimizer:
        return self._trainee.optimizer_of(list(parameters), lr=self._trainee.learning_rates[number - 1])

    def _stacked(self, number: int, passes: Passes) -> Stacked:
        trainee = self._trainee
        optimizer_of = partial(self._optimizer, number=number)
        return Stacked(trainee.model, optimizer_of, trainee.loss, passes, self._compiled)

    def _train(self, clients: Sequence[int], number: int) -> Trained:
        seed = self._trainee.config.seed
        batches = [self._trainee.batches(client, seed_from(seed, "train", number, client)) for client in clients]
        stacked = self._stacked(number, self._trainee.passes)
        if not self._preparing:
            return Trained(stacked.train(batches), [{}] * len(clients))
        jobs = [self._job(client, number, own) for client, own in zip(clients, batches, strict=True)]
        steps = self._preparing[0].stacked(jobs)
        assert steps is not None
        return Trained(stacked.train_by(steps), [job.diagnostics for job in jobs])

    def _job(self, client: int, number: int, batches: Batches) -> ClientJob:
        """Return a client's job with its own randomness, as it is before a mechanism prepares it."""
        trainee = self._trainee
        address = client_address(client)
        randomness = trainee.randomness_of(address, number)
        optimizer = self._optimizer(trainee.parameters, number)
        examples = len(batches.indices)
        return ClientJob(address, number, {}, randomness, examples, trainee.model, optimizer, batches, trainee.loss)

    # ---- the trial

    def _trial_clients(self) -> list[Batches]:
        trainee = self._trainee
        examples = trainee.data.random_split(sum(TRIAL))
        data = replace(trainee.data, train=examples)
        parts = torch.split(torch.arange(sum(TRIAL)), list(TRIAL))
        return [
            Batches(data, part, trainee.device, TRIAL_BATCH, torch.Generator().manual_seed(place), epochs=1)
            for place, part in enumerate(parts)
        ]

    @property
    def _exact(self) -> Passes:
        """Passes in float32: in bfloat16 two ways to the same sum may lie a quarter of an update apart."""
        return replace(self._trainee.passes, mixed=False)

    def _trial_together(self) -> torch.Tensor:
        self._reset()
        if self._trainee.passes.mixed:  # that it can be done
            self._stacked(1, self._trainee.passes).train(self._trial_clients())
        return self._stacked(1, self._exact).train(self._trial_clients())

    def _trial_alone(self) -> torch.Tensor:
        trainee = self._trainee
        rows = []
        for batches in self._trial_clients():
            self._reset()
            optimizer = self._optimizer(trainee.parameters)
            randomness = OsRandomness()
            job = ClientJob(
                "client/0", 1, {}, randomness, len(batches.indices), trainee.model, optimizer, batches, trainee.loss
            )
            train(job, self._exact)
            rows.append(trainee.layout.flatten())
        return torch.stack(rows)
