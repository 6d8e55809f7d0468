"""The baseline: federated averaging as a bare PyTorch loop, without any framework, with as little overhead as possible.

Parameters and gradients are views into two flat tensors, so that loading, stepping and averaging are one call each.
Pixels are decoded and normalised before the clock starts. It computes what the testbed computes: same order of
examples, same weights. Shapes: D is the number of parameters.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from fl.workspace import Workspace
from privacy.randomness import seed_from


class BareLoop:
    """FedAvg over plain SGD clients on the device of the workspace."""

    def __init__(self, work: Workspace, model: torch.nn.Module) -> None:
        training = work.plan.config.training
        self.inputs = work.data.normalise(work.data.train.images.to(work.device))
        self.labels = work.data.train.labels.to(work.device)
        self.parts = [torch.from_numpy(part) for part in work.plan.partitions]
        self.weights = [work.plan.weight(client) for client in range(len(self.parts))]
        self.lr = training.lr
        self.batch_size = training.batch_size
        self.seed = work.plan.config.seed
        self.model = model.to(work.device).train()
        self.global_D = work.initial_D.to(work.device).clone()
        self._flatten_storage()

    def _flatten_storage(self) -> None:
        self.flat_D = self.global_D.clone()
        self.gradient_D = torch.zeros_like(self.flat_D)
        start = 0
        for parameter in self.model.parameters():
            end = start + parameter.numel()
            parameter.data = self.flat_D[start:end].view_as(parameter)
            parameter.grad = self.gradient_D[start:end].view_as(parameter)
            start = end
        assert start == len(self.flat_D)

    def round(self, number: int, cohort: Sequence[int]) -> None:
        """One round of FedAvg over the cohort, one local epoch each."""
        total_D = torch.zeros_like(self.global_D)
        weight = 0.0
        for client in cohort:
            self._train(number, client)
            v = self.weights[client]
            total_D.add_(self.flat_D - self.global_D, alpha=v)
            weight += v
        self.global_D.add_(total_D, alpha=1 / weight)

    def _train(self, number: int, client: int) -> None:
        self.flat_D.copy_(self.global_D)
        inputs = self.inputs[self.parts[client]]
        labels = self.labels[self.parts[client]]
        generator = torch.Generator().manual_seed(seed_from(self.seed, "train", number, client))
        order = torch.randperm(len(labels), generator=generator)
        for index in torch.split(order, self.batch_size):
            self.gradient_D.zero_()
            cross_entropy(self.model(inputs[index]), labels[index]).backward()  # type: ignore[no-untyped-call]
            self.flat_D.sub_(self.gradient_D, alpha=self.lr)
