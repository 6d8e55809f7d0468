"""Opacus's optimizers with a given source of noise, and without divisions by a secret count.

Opacus draws noise from a `torch.Generator`, whose seed has 64 bits at most. Here noise comes from a NumPy generator
over ChaCha20, keyed by the operating system or, for reproducible experiments, by a seed. Floating-point Gaussians leak
through their rounding (Mironov 2012): only the integer mechanisms are immune. Shapes: D values of all parameters.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping, DPPerLayerOptimizer


class Sourced(DPOptimizer):  # type: ignore[misc]
    """A DPOptimizer that draws its noise from `source`: the common base of the optimizers below."""

    source: np.random.Generator
    max_grad_norm: float
    clipped = 0  # number of examples with a clipped gradient
    seen = 0

    @property
    def noise_std(self) -> float:
        """Standard deviation of each value's noise, before the division by the expected batch size."""
        return float(self.noise_multiplier * self.max_grad_norm)

    def saw(self, norms: torch.Tensor) -> None:
        """Count the examples of a piece and the clipped ones, from the gradient norms, shape (B,)."""
        self.seen += len(norms)
        self.clipped += int((norms > self.max_grad_norm).sum())

    def add_noise(self) -> None:
        """Write the noised sum of clipped gradients to `grad`."""
        parameters = self.params
        total = sum(parameter.numel() for parameter in parameters)
        noise_D = torch.from_numpy(self.source.standard_normal(total, np.float32)).mul_(self.noise_std)
        parts = torch.split(noise_D.to(parameters[0].device), [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = parameter.summed_grad.view_as(parameter) + part.view_as(parameter)

    def step_without_examples(self) -> None:
        """Take the step of an empty Poisson batch: noise alone, because an observer must not see that it was empty."""
        for parameter in self.params:
            parameter.summed_grad = torch.zeros_like(parameter)
            parameter.grad_sample = None
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self._is_last_step_skipped = False
        self.zero_grad()


class Flat(Sourced):
    """One bound on the norm of each example's whole gradient (Abadi et al. 2016, Algorithm 1)."""

    def clip_and_accumulate(self) -> None:
        """Clip each example's gradient, and count the clipped examples."""
        samples = self.grad_samples
        norms = torch.stack([torch.linalg.vector_norm(sample.flatten(1), dim=1) for sample in samples]).norm(dim=0)
        self.saw(norms)
        factor = (self.max_grad_norm / (norms + 1e-6)).clamp_(max=1.0)
        for parameter, sample in zip(self.params, samples, strict=True):
            clipped = torch.einsum("i,i...", factor, sample)
            parameter.summed_grad = clipped if parameter.summed_grad is None else parameter.summed_grad + clipped


class PerLayer(Sourced, DPPerLayerOptimizer):  # type: ignore[misc]
    """One bound for each parameter; the bound of the whole gradient is the root of the sum of their squares."""

    def clip_and_accumulate(self) -> None:
        """Clip by parameter; an example counts as clipped if the gradient of any parameter is."""
        over = [
            torch.linalg.vector_norm(sample.flatten(1), dim=1) > bound
            for sample, bound in zip(self.grad_samples, self.max_grad_norms, strict=True)
        ]
        self.seen += len(over[0])
        self.clipped += int(torch.stack(over).any(dim=0).sum())
        DPPerLayerOptimizer.clip_and_accumulate(self)


class Adaptive(Flat):
    """A bound that follows a quantile of the norms (Andrew et al. 2021), with the noise of its count accounted.

    Opacus's version is not used, for four reasons. Its count has sensitivity 1, but the paper's Theorem 1 pays for 1/2.
    It divides the count by the number of drawn examples, which is secret. It counts only the last piece of a draw. And
    it does not move the bound on an empty draw.
    """

    quantile = 0.5
    rate = 0.2
    least = 0.0
    most = math.inf
    count_std = 1.0
    _below = 0.0  # sum of 1/2 for each unclipped example and -1/2 for each clipped one

    @property
    def noise_std(self) -> float:
        """The gradient's noise, raised so that both releases together cost `noise_multiplier` (Theorem 1)."""
        return float((self.noise_multiplier**-2 - (2 * self.count_std) ** -2) ** -0.5 * self.max_grad_norm)

    def saw(self, norms: torch.Tensor) -> None:
        """Count the examples within the bound, over all pieces of a draw."""
        super().saw(norms)
        self._below += float((norms <= self.max_grad_norm).sum()) - len(norms) / 2

    def add_noise(self) -> None:
        """Add noise to the gradient and the count, and move the bound (section 2.1)."""
        super().add_noise()
        below = self._below + float(self.source.normal(0.0, self.count_std))
        moved = self.max_grad_norm * math.exp(-self.rate * (0.5 + below / self.expected_batch_size - self.quantile))
        self.max_grad_norm = min(max(moved, self.least), self.most)
        self._below = 0.0


class Ghost(Sourced, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Ghost clipping: norms without per-example gradients; a second pass has clipped already (Li et al. 2022)."""

    norms: Callable[[], torch.Tensor]  # returns the gradient norms of the last piece, shape (B,)

    def accumulate(self) -> None:
        """Count and accumulate; the gradients are clipped already."""
        self.saw(self.norms())
        super().accumulate()


KINDS: dict[str, Any] = {"flat": Flat, "per_layer": PerLayer, "adaptive": Adaptive, "ghost": Ghost}
