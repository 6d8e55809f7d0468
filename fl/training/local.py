"""Plain local training of a job, whose objects the mechanisms have already replaced by private versions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from typing import cast

import torch

from fl.data.image_data import ImageData
from fl.training.vectors import reals, trained
from privacy.mechanisms.contract import Batch, ClientJob

AHEAD = 1024  # number of examples that are normalised together: for small batches, calls cost more than arithmetic


@dataclass
class Batches:
    """Shuffled mini-batches of one client's examples, for a number of epochs or of steps.

    Examples are read when the first batch is requested. Then the client's pixels are copied to the device as bytes,
    and several batches at a time are normalised there. The order depends on `generator` alone.
    """

    data: ImageData
    indices: torch.Tensor  # indices of the client's training examples, int64, shape (N,)
    device: torch.device
    batch_size: int
    generator: torch.Generator
    epochs: int | None = None
    steps: int | None = None

    def __len__(self) -> int:
        """Number of batches."""
        assert (self.epochs is None) != (self.steps is None)
        per_epoch = -(-len(self.indices) // self.batch_size)
        return self.steps if self.steps is not None else per_epoch * cast(int, self.epochs)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; the last one of an epoch may be smaller."""
        images, labels = self._own
        epochs = (self._epoch(images, labels) for _ in count())
        return islice(chain.from_iterable(epochs), len(self))

    @cached_property
    def _own(self) -> Batch:
        """The client's pixels as bytes, and its labels, on the device."""
        train = self.data.train
        return train.images[self.indices].to(self.device), train.labels[self.indices].to(self.device)

    def take(self, index: torch.Tensor) -> Batch:
        """Return the normalised inputs and the labels at indices into the client's examples, shape (B,), int64."""
        images, labels = self._own
        index = index.to(self.device)
        return self.data.normalise(images[index]), labels[index]

    def orders(self) -> Iterator[torch.Tensor]:
        """Yield the batches as indices into the client's examples, shape (B,), int64, on the CPU."""
        permutations = (torch.randperm(len(self.indices), generator=self.generator) for _ in count())
        return islice(chain.from_iterable(torch.split(one, self.batch_size) for one in permutations), len(self))

    def _epoch(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Batch]:
        order = torch.randperm(len(labels), generator=self.generator).to(self.device)
        for index in torch.split(order, max(1, AHEAD // self.batch_size) * self.batch_size):
            inputs = torch.split(self.data.normalise(images[index]), self.batch_size)
            yield from zip(inputs, torch.split(labels[index], self.batch_size), strict=True)


def smallest_batch(examples: int, batch_size: int, batches: int | None) -> int:
    """Return the number of examples of the smallest of a client's batches; it sees no last one in fewer of them."""
    whole, rest = divmod(examples, batch_size)
    reaches_last = batches is None or batches > whole
    return min(examples, rest if rest and reaches_last else batch_size)


@dataclass(frozen=True)
class Passes:
    """How the passes of training are made.

    `piece` is the largest number of examples of one pass: a larger batch is divided, and the gradients of its pieces
    are accumulated to the same step. `mixed` is True for torch's automatic mixed precision in bfloat16.
    """

    proximal_mu: float = 0.0
    piece: int | None = None
    mixed: bool = False


ONE_PASS = Passes()


def train(job: ClientJob, passes: Passes = ONE_PASS) -> None:
    """Run the job's optimizer over its batches, on its loss plus FedProx's term."""
    if not job.model.training:  # the call walks all modules
        job.model.train()
    penalty = _proximal(job.model, passes.proximal_mu) if passes.proximal_mu else None
    for inputs, labels in job.batches:
        clear_gradients(job.optimizer)
        loss = _last_loss(job, inputs, labels, passes)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        job.optimizer.step()


def _last_loss(job: ClientJob, inputs: torch.Tensor, labels: torch.Tensor, passes: Passes) -> torch.Tensor:
    """Return the loss of a batch; of one in pieces that of the last, after the passes of the others."""
    size = len(labels)
    if passes.piece is None or size <= passes.piece:
        return _loss(job, inputs, labels, passes.mixed)
    *others, last = zip(torch.split(inputs, passes.piece), torch.split(labels, passes.piece), strict=True)
    for own in others:
        weighed = _loss(job, *own, passes.mixed) * (passes.piece / size)
        weighed.backward()  # type: ignore[no-untyped-call]
    return _loss(job, *last, passes.mixed) * (len(last[1]) / size)


def _loss(job: ClientJob, inputs: torch.Tensor, labels: torch.Tensor, mixed: bool) -> torch.Tensor:
    if not mixed:
        return job.loss(job.model(inputs), labels)
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return job.loss(job.model(inputs), labels)


def clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Do the work of `zero_grad` without torch's record for its profiler, which takes longer than a small layer."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:  # such as Opacus's, which clears more
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _proximal(model: torch.nn.Module, mu: float) -> Callable[[], torch.Tensor]:
    """Return a function that computes the proximal term mu/2 |w - w_global|^2.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2. `w_global` holds the
    parameters at the time of this call.
    """
    parameters = trained(model)
    start = [parameter.detach().clone() for parameter in parameters]

    def penalty() -> torch.Tensor:
        distances = [reals(now - then).square().sum() for now, then in zip(parameters, start, strict=True)]
        return 0.5 * mu * torch.stack(distances).sum()

    return penalty
