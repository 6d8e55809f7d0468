"""Plain local training on whatever job it receives: mechanisms have already put private versions into it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn.functional import cross_entropy

from fl.data import ImageData
from privacy.mechanism import Batch, ClientJob


@dataclass
class Batches:
    """Shuffled mini-batches of one client's examples, for some epochs or for some steps.

    Nothing is read before the first batch is asked for. Then the client's pixels cross to the device as bytes, and
    each batch is normalised there. The order comes from `generator` alone.
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
        images = self.data.train.images[self.indices].to(self.device)
        labels = self.data.train.labels[self.indices].to(self.device)
        left = len(self)
        while left > 0:
            order = torch.randperm(len(labels), generator=self.generator).to(self.device)
            for index in torch.split(order, self.batch_size)[:left]:
                yield self.data.normalise(images[index]), labels[index]
                left -= 1


def train(job: ClientJob, proximal_mu: float = 0.0) -> None:
    """Run the job's optimizer over its batches, on the cross entropy plus FedProx's term."""
    if not job.model.training:  # the call walks all modules
        job.model.train()
    penalty = _proximal(job.model, proximal_mu) if proximal_mu else None
    for inputs, labels in job.batches:
        job.optimizer.zero_grad()
        loss = cross_entropy(job.model(inputs), labels)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        job.optimizer.step()


def _proximal(model: torch.nn.Module, mu: float) -> Callable[[], torch.Tensor]:
    """mu/2 |w - w_global|^2 (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]

    def penalty() -> torch.Tensor:
        distances = [(now - then).square().sum() for now, then in zip(trained, start, strict=True)]
        return 0.5 * mu * torch.stack(distances).sum()

    return penalty
