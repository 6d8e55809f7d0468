"""Opacus's optimizers with a source of noise of our choice, and with nothing divided by a secret count.

Opacus draws noise from a `torch.Generator`, whose seed has 64 bits at most; here it comes from a NumPy generator over
ChaCha20, keyed by the operating system or, for reproducible experiments, by a seed. Floating-point Gaussians leak
through their rounding (Mironov 2012): only the integer mechanisms are immune. Shapes: D values of all parameters.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping, DPPerLayerOptimizer


class Sourced(DPOptimizer):  # type: ignore[misc]
    """A DPOptimizer whose noise comes from `source`; the part that all of ours share."""

    source: np.random.Generator
    max_grad_norm: float
    clipped = 0  # examples whose gradient was clipped
    seen = 0

    @property
    def noise_std(self) -> float:
        """Standard deviation of each value's noise, before the division by the expected batch size."""
        return float(self.noise_multiplier * self.max_grad_norm)

    def saw(self, norms: torch.Tensor) -> None:
        """Take note of the norms of a piece, shape (B,)."""
        self.seen += len(norms)
        self.clipped += int((norms > self.max_grad_norm).sum())

    def add_noise(self) -> None:
        """Put the noised sum of clipped gradients into `grad`."""
        parameters = self.params
        total = sum(parameter.numel() for parameter in parameters)
        noise_D = torch.from_numpy(self.source.standard_normal(total, np.float32)).mul_(self.noise_std)
        parts = torch.split(noise_D.to(parameters[0].device), [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = parameter.summed_grad.view_as(parameter) + part.view_as(parameter)

    def step_without_examples(self) -> None:
        """The step of an empty Poisson batch: noise alone, as an observer must not see that nobody was drawn."""
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
        """Clip, and count what was clipped."""
        samples = self.grad_samples
        norms = torch.stack([torch.linalg.vector_norm(sample.flatten(1), dim=1) for sample in samples]).norm(dim=0)
        self.saw(norms)
        factor = (self.max_grad_norm / (norms + 1e-6)).clamp_(max=1.0)
        for parameter, sample in zip(self.params, samples, strict=True):
            clipped = torch.einsum("i,i...", factor, sample)
            parameter.summed_grad = clipped if parameter.summed_grad is None else parameter.summed_grad + clipped


class PerLayer(Sourced, DPPerLayerOptimizer):  # type: ignore[misc]
    """A bound for each parameter, of which the whole gradient's bound is the root of the sum of squares."""

    def clip_and_accumulate(self) -> None:
        """Clip by parameter; an example is clipped where any of its parameters is."""
        over = [
            torch.linalg.vector_norm(sample.flatten(1), dim=1) > bound
            for sample, bound in zip(self.grad_samples, self.max_grad_norms, strict=True)
        ]
        self.seen += len(over[0])
        self.clipped += int(torch.stack(over).any(dim=0).sum())
        DPPerLayerOptimizer.clip_and_accumulate(self)


class Adaptive(Flat):
    """A bound that follows a quantile of the norms (Andrew et al. 2021), with the noise of its count accounted.

    Not Opacus's: there the count has sensitivity 1 where the paper's Theorem 1 pays for 1/2, it is divided by how many
    were drawn, which nobody may know, it forgets all pieces of a draw but the last, and stands still on an empty one.
    """

    quantile = 0.5
    rate = 0.2
    least = 0.0
    most = math.inf
    count_std = 1.0
    _below = 0.0  # sum of 1/2 for each example that is not clipped and -1/2 for the others

    @property
    def noise_std(self) -> float:
        """Theorem 1: the gradient's noise is raised so that both releases together cost `noise_multiplier`."""
        return float((self.noise_multiplier**-2 - (2 * self.count_std) ** -2) ** -0.5 * self.max_grad_norm)

    def saw(self, norms: torch.Tensor) -> None:
        """Count those within the bound, over all pieces of a draw."""
        super().saw(norms)
        self._below += float((norms <= self.max_grad_norm).sum()) - len(norms) / 2

    def add_noise(self) -> None:
        """Noise the gradient and the count, and move the bound (section 2.1)."""
        super().add_noise()
        below = self._below + float(self.source.normal(0.0, self.count_std))
        moved = self.max_grad_norm * math.exp(-self.rate * (0.5 + below / self.expected_batch_size - self.quantile))
        self.max_grad_norm = min(max(moved, self.least), self.most)
        self._below = 0.0


class Ghost(Sourced, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Norms without gradients of single examples; the second pass has clipped already (Li et al. 2022)."""

    norms: Callable[[], torch.Tensor]  # of the piece before, shape (B,)

    def accumulate(self) -> None:
        """Nothing is left to clip."""
        self.saw(self.norms())
        super().accumulate()


KINDS: dict[str, Any] = {"flat": Flat, "per_layer": PerLayer, "adaptive": Adaptive, "ghost": Ghost}
