"""Opacus's optimizers with a given source of noise, and without divisions by a secret count.

Opacus draws noise from a `torch.Generator`, whose seed has 64 bits at most. Here noise comes from a NumPy generator
over ChaCha20, keyed by the operating system or, for reproducible experiments, by a seed. Floating-point Gaussians leak
through their rounding (Mironov 2012): only the integer mechanisms are immune.

Opacus's clipping is replaced too. It takes norms in the precision of the gradients, where they overflow (float32 beyond
1e19) and round by more than its margin, and a gradient that is not finite makes the whole sum so. Here each example
adds a finite vector of at most the bound, whatever its gradient: one that is not finite adds zero, and is counted.

Shapes: B examples of a piece, D values of all parameters.
"""

import math
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer, DPPerLayerOptimizer
from torch.nn.functional import cross_entropy

PART = 256  # number of squares that are added in the type of the gradients, in whatever order, before float64
# what a clipped vector stays below its bound, relative: more than the rounding of its norm (2^-17 for PART squares in
# float32), of its factor and of its products
SPARE = 2.0**-16
VANISHING = 1e-12  # norms below it may have lost squares below the range of float32
SPARE_TF32 = 2.0**-9  # TF32 rounds both operands of a product to 11 bits


def spare(like: torch.Tensor) -> float:
    """Return the share of the bound that rounding may take, for products of tensors like this one."""
    return SPARE_TF32 if like.is_cuda and torch.backends.cuda.matmul.allow_tf32 else SPARE


def norms_of(samples: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm of each example's gradient, shape (B,), float64, from tensors (B, ...); it does not overflow.

    A norm in float32 throughout would miss a hundredth of a long gradient, and one in float64 take thirty times as
    long: only examples whose squares overflow or vanish in float32 are measured again in float64.
    """
    norms_B: torch.Tensor = torch.linalg.vector_norm(
        torch.stack([_norms(sample.reshape(len(sample), -1)) for sample in samples]), dim=0
    )
    odd_B = ~(norms_B.isfinite() & (norms_B > VANISHING))
    if odd_B.any():
        exact = [
            torch.linalg.vector_norm(one[odd_B].reshape(int(odd_B.sum()), -1), dim=1, dtype=torch.float64)
            for one in samples
        ]
        norms_B[odd_B] = torch.linalg.vector_norm(torch.stack(exact), dim=0)
    return norms_B


def _norms(sample_BD: torch.Tensor) -> torch.Tensor:
    """Return the norms over D, shape (B,), float64, by parts in the sample's own type."""
    whole = sample_BD.shape[1] // PART * PART
    parts = torch.linalg.vector_norm(sample_BD[:, :whole].reshape(len(sample_BD), whole // PART, PART), dim=2)
    rest = torch.linalg.vector_norm(sample_BD[:, whole:], dim=1, keepdim=True)
    norms_B: torch.Tensor = torch.linalg.vector_norm(torch.cat([parts, rest], dim=1).double(), dim=1)
    return norms_B


def clip_factors(norms_B: torch.Tensor, bound: float, like: torch.Tensor) -> torch.Tensor:
    """Return the factor of each example, shape (B,), in the type of `like`: never above bound / norm.

    It is 0 where the norm, in float64, is not finite. A vector times its factor, rounded, has a norm of at most the
    bound.
    """
    exact_B = bound * (1 - spare(like)) / norms_B  # infinite for a norm of 0
    factors_B = exact_B.to(like.dtype)
    factors_B = torch.nextafter(
        factors_B, torch.zeros_like(factors_B)
    )  # a tiny factor may have been rounded up by half
    factors_B = torch.where(exact_B >= 1, torch.ones_like(factors_B), factors_B)
    return torch.where(norms_B.isfinite(), factors_B, torch.zeros_like(factors_B))


def weighted_sum(factors_B: torch.Tensor, sample: torch.Tensor, finite: bool) -> torch.Tensor:
    """Return the sum of one parameter's gradients (B, ...) times their factors.

    Where not all are `finite`, a gradient with a factor of 0 takes no part: 0 times infinity is NaN.
    """
    if not finite:
        kept = factors_B.nonzero().squeeze(1)
        factors_B = factors_B[kept]
        sample = sample[kept]
    return torch.einsum("i,i...", factors_B, sample)


def wide(sample: torch.Tensor) -> torch.Tensor:
    """Return gradients in float32 at least: a factor or a sum of bfloat16 would round by more than noise hides."""
    return sample if sample.element_size() >= 4 else sample.float()


def counted(norms_B: torch.Tensor, bound: float) -> tuple[int, int]:
    """Return how many examples are clipped, and how many add zero since they are not finite, the first with these."""
    return int((~(norms_B <= bound)).sum()), int((~norms_B.isfinite()).sum())


def figures(seen: int, clipped: int, not_finite: int) -> dict[str, float]:
    """Return what a client's diagnostics tell of its examples."""
    found = {"dp_sgd.clipped_fraction": clipped / seen} if seen else {}
    return found | ({"dp_sgd.not_finite": float(not_finite)} if not_finite else {})


def single_gradient(model: torch.nn.Module, inputs: torch.Tensor, label: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradient of one example by parameter, (1, ...), from plain autograd: what trials compare with."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = cross_entropy(model(inputs), label)
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True, allow_unused=True)
    return [wide(gradient)[None] for gradient in gradients]


class Sourced(DPOptimizer):  # type: ignore[misc]
    """A DPOptimizer that draws its noise from `source`: the common base of the optimizers below."""

    source: np.random.Generator
    max_grad_norm: float
    clipped = 0  # number of examples with a clipped gradient, those that are not finite among them
    not_finite = 0  # number of examples that added zero
    seen = 0

    @property
    def noise_std(self) -> float:
        """Standard deviation of each value's noise, before the division by the expected batch size."""
        return float(self.noise_multiplier * self.max_grad_norm)

    def saw(self, norms: torch.Tensor) -> None:
        """Count the examples of a piece and the clipped ones, from the gradient norms, shape (B,)."""
        clipped, not_finite = counted(norms, self.max_grad_norm)
        self.seen += len(norms)
        self.clipped += clipped
        self.not_finite += not_finite

    def add_clipped(self, parameter: Any, clipped: torch.Tensor) -> None:
        """Add a piece's sum of clipped gradients to that of the draw."""
        held = parameter.summed_grad
        parameter.summed_grad = clipped if held is None else held + clipped

    def add_noise(self) -> None:
        """Write the noised sum of clipped gradients to `grad`."""
        parameters = self.params
        total = sum(parameter.numel() for parameter in parameters)
        noise_D = torch.from_numpy(self.source.standard_normal(total, np.float32)).mul_(self.noise_std)
        parts = torch.split(noise_D.to(parameters[0].device), [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            noised = parameter.summed_grad.view_as(parameter) + part.view_as(parameter)
            parameter.grad = noised.to(parameter.dtype)  # a narrow type rounds after the noise

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
        samples = [wide(sample) for sample in self.grad_samples]
        norms_B = norms_of(samples)
        self.saw(norms_B)
        finite = bool(norms_B.isfinite().all())  # asked once: a GPU waits for it
        for parameter, sample in zip(self.params, samples, strict=True):
            factors_B = clip_factors(norms_B, self.max_grad_norm, sample)
            self.add_clipped(parameter, weighted_sum(factors_B, sample, finite))


class PerLayer(Sourced, DPPerLayerOptimizer):  # type: ignore[misc]
    """One bound for each parameter; the bound of the whole gradient is the root of the sum of their squares."""

    def clip_and_accumulate(self) -> None:
        """Clip by parameter; an example counts as clipped if the gradient of any parameter is."""
        samples = [wide(sample) for sample in self.grad_samples]
        norms_PB = torch.stack([norms_of([sample]) for sample in samples])
        finite_B = norms_PB.isfinite().all(dim=0)
        norms_PB[:, ~finite_B] = math.inf  # one bad layer, and the example adds nothing to any
        finite = bool(finite_B.all())
        bounds_P = torch.tensor(self.max_grad_norms, dtype=norms_PB.dtype, device=norms_PB.device)
        self.saw(self.max_grad_norm * (norms_PB / bounds_P[:, None]).amax(dim=0))
        for parameter, sample, norms_B, bound in zip(self.params, samples, norms_PB, self.max_grad_norms, strict=True):
            self.add_clipped(parameter, weighted_sum(clip_factors(norms_B, bound, sample), sample, finite))


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
        self._below += float((norms <= self.max_grad_norm).sum()) - len(norms) / 2  # NaN is not below

    def add_noise(self) -> None:
        """Add noise to the gradient and the count, and move the bound (section 2.1)."""
        super().add_noise()
        below = self._below + float(self.source.normal(0.0, self.count_std))
        moved = self.max_grad_norm * math.exp(-self.rate * (0.5 + below / self.expected_batch_size - self.quantile))
        self.max_grad_norm = min(max(moved, self.least), self.most)
        self._below = 0.0
