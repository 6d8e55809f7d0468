"""Plain local training on whatever job it receives: mechanisms have already put private versions into it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from typing import cast

import torch

from fl.data.image_data import ImageData
from privacy.mechanisms.contract import Batch, ClientJob

AHEAD = 1024  # examples that are normalised together: small batches cost more calls than arithmetic


@dataclass
class Batches:
    """Shuffled mini-batches of one client's examples, for some epochs or for some steps.

    Nothing is read before the first batch is asked for. Then the client's pixels cross to the device as bytes, and
    some batches at a time are normalised there. The order comes from `generator` alone.
    """

    data: ImageData
    indices: torch.Tensor  # of the client's training examples, int64, shape (N,)
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
        """The batches; the last one of an epoch may be smaller."""
        images, labels = self._own
        epochs = (self._epoch(images, labels) for _ in count())
        return islice(chain.from_iterable(epochs), len(self))

    @cached_property
    def _own(self) -> Batch:
        """Pixels as bytes, and labels, on the device."""
        train = self.data.train
        return train.images[self.indices].to(self.device), train.labels[self.indices].to(self.device)

    def take(self, index: torch.Tensor) -> Batch:
        """The examples at some indices into the client's own, shape (B,), int64."""
        images, labels = self._own
        index = index.to(self.device)
        return self.data.normalise(images[index]), labels[index]

    def _epoch(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Batch]:
        order = torch.randperm(len(labels), generator=self.generator).to(self.device)
        for index in torch.split(order, max(1, AHEAD // self.batch_size) * self.batch_size):
            inputs = torch.split(self.data.normalise(images[index]), self.batch_size)
            yield from zip(inputs, torch.split(labels[index], self.batch_size), strict=True)


def train(job: ClientJob, proximal_mu: float = 0.0) -> None:
    """Run the job's optimizer over its batches, on its loss plus FedProx's term."""
    if not job.model.training:  # the call walks all modules
        job.model.train()
    penalty = _proximal(job.model, proximal_mu) if proximal_mu else None
    for inputs, labels in job.batches:
        clear_gradients(job.optimizer)
        loss = job.loss(job.model(inputs), labels)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        job.optimizer.step()


def clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """What `zero_grad` does, without torch's own record for its profiler: that takes longer than a small layer."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:  # as Opacus's, which clears more
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _proximal(model: torch.nn.Module, mu: float) -> Callable[[], torch.Tensor]:
    """mu/2 |w - w_global|^2 (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]

    def penalty() -> torch.Tensor:
        distances = [(now - then).square().sum() for now, then in zip(trained, start, strict=True)]
        return 0.5 * mu * torch.stack(distances).sum()

    return penalty
