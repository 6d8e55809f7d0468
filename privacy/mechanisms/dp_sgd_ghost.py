"""Ghost clipping: norms without per-example gradients, and a second pass of gradients that are clipped already.

Li et al. 2022 ("Large Language Models Can Be Strong Differentially Private Learners", section 4), by Opacus's layers.
Three things differ from Opacus. Norms are in float64, so that no product of squares leaves its range. An example whose
gradient is not finite is taken out, and the forward pass runs again without it: in the second pass a factor of 0 times
infinity would be NaN. And the second pass is measured like the first, as it rounds differently; an example over its
bound there is taken out likewise.

Shapes: B examples of a piece.
"""

from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.layers.dp_rnn import RNNLinear
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.module_utils import trainable_parameters
from torch.nn.functional import cross_entropy

from privacy.mechanisms.contract import Loss
from privacy.mechanisms.dp_sgd_optimizers import Sourced, clip_factors, norms_of

Sampler = Callable[[torch.nn.Module, list[torch.Tensor], torch.Tensor], dict[torch.nn.Parameter, torch.Tensor]]
SPARE = 2.0**-14  # what a clipped gradient stays below the bound, relative: the two passes round differently


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _of_doubles(sampler: Sampler) -> Sampler:
    """Return the sampler of norms, from values in float64."""
    return lambda module, activations, backprops: sampler(
        module, [_double(one) for one in activations], _double(backprops)
    )


def _of_gradients(sampler: Sampler) -> Sampler:
    """Return the sampler of norms, from gradients of single examples that it lets go."""
    return lambda module, activations, backprops: {
        parameter: norms_of([sample]) for parameter, sample in sampler(module, activations, backprops).items()
    }


class GhostModule(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
    """A model whose backward passes measure the norm of each example's gradient. It holds its last inputs."""

    NORM_SAMPLERS = {
        kind: _of_gradients(sampler)
        for kind, sampler in GradSampleModuleFastGradientClipping.GRAD_SAMPLERS.items()
        if kind is not RNNLinear  # its gradients are added over the steps of a sequence
    } | {kind: _of_doubles(sampler) for kind, sampler in GradSampleModuleFastGradientClipping.NORM_SAMPLERS.items()}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs (B, ...) to outputs, and keep what backward passes need."""
        self.inputs = inputs
        outputs: torch.Tensor = super().forward(inputs)
        held = [(module, getattr(module, "activations", None)) for module in self._module.modules()]
        self._held = [(module, list(activations)) for module, activations in held if activations]
        return outputs

    def backward(self, loss: torch.Tensor) -> torch.Tensor:
        """Put the gradients of a summed loss into `grad`; return the examples' norms, float64, shape (B,).

        A pass may be repeated, with other factors, over the same forward pass.
        """
        self.clear()
        for parameter in self.trainable_parameters:
            parameter._norm_sample = None
            parameter._forward_counter = 0
        for module, activations in self._held:  # the hooks of a pass use them up
            module.activations = list(activations)
            for _, parameter in trainable_parameters(module):
                parameter._forward_counter += len(activations)
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        norms = [p._norm_sample.double() for p in self.trainable_parameters if p._norm_sample is not None]
        norms_B: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return norms_B

    def clear(self) -> None:
        """Drop the gradients of the last pass."""
        for parameter in self.trainable_parameters:
            parameter.grad = None

    def release(self) -> None:
        """Let go of the examples."""
        del self.inputs
        self._held = []


class Ghost(Sourced, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """The optimizer behind `GhostLoss`: the gradients that it finds are sums of clipped ones."""

    def accumulate(self) -> None:
        """Add the piece's gradients to those of the draw."""
        for parameter in self.params:
            clipped = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
            self.add_clipped(parameter, clipped)


class GhostLoss:
    """The cross-entropy of a piece. Its `backward` leaves the sum of the clipped gradients in `grad`."""

    def __init__(self, model: GhostModule, optimizer: Ghost, loss: Loss = cross_entropy) -> None:
        self._model = model
        self._optimizer = optimizer
        self._loss = loss

    def __call__(self, outputs: torch.Tensor, labels_B: torch.Tensor) -> Any:
        """Keep the losses of the examples, shape (B,)."""
        self._losses_B = self._loss(outputs, labels_B, reduction="none")
        self._labels_B = labels_B
        return self

    def backward(self) -> None:
        """Run both passes, again and again until each example that is left keeps within the bound in the second."""
        norms_B = self._model.backward(self._losses_B.sum())
        self._optimizer.saw(norms_B)
        fine_B = self._clipped(norms_B)
        self._optimizer.not_finite += int((~fine_B & norms_B.isfinite()).sum())
        while not fine_B.all() and fine_B.any():
            fine_B = self._clipped(self._without(fine_B))
            self._optimizer.not_finite += int((~fine_B).sum())
        if not fine_B.any():
            self._model.clear()
        self._model.release()

    def _clipped(self, norms_B: torch.Tensor) -> torch.Tensor:
        """Run the second pass, unless a norm is not finite; return whose gradients may stay, shape (B,)."""
        if not norms_B.isfinite().all():
            return norms_B.isfinite()
        bound = self._optimizer.max_grad_norm
        factors_B = clip_factors(norms_B, bound * (1 - SPARE), self._losses_B)
        return self._model.backward((factors_B * self._losses_B).sum()) <= bound

    def _without(self, fine_B: torch.Tensor) -> torch.Tensor:
        """Run the forward and the first pass over these examples alone; return their norms."""
        self(self._model(self._model.inputs[fine_B]), self._labels_B[fine_B])
        return self._model.backward(self._losses_B.sum())
