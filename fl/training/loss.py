"""The loss of local training: cross entropy, with public class weights and smoothed labels where they are set.

Shapes: B examples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from privacy.errors import ConfigError
from privacy.mechanisms.contract import Loss


@dataclass(frozen=True, eq=False)
class WeightedLoss:
    """Cross entropy (nats) with the losses of examples multiplied by the weights of their classes.

    The mean divides by the number of examples, and not by the sum of their weights as torch does: an example's gradient
    must not depend on the other examples of its batch, or clipping it bounds nothing. Smoothing: Szegedy et al. 2016,
    section 7: with s, an example has s / K of its weight on every class, and the rest on its own.
    """

    weights_K: torch.Tensor | None
    smoothing: float

    def __call__(self, outputs: torch.Tensor, labels_B: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Return the mean, the `sum`, or with `none` the losses themselves, shape (B,)."""
        losses_B = cross_entropy(outputs, labels_B, reduction="none", label_smoothing=self.smoothing)
        if self.weights_K is not None:
            losses_B = losses_B * self.weights_K[labels_B]
        if reduction == "none":
            return losses_B
        return losses_B.sum() if reduction == "sum" else losses_B.mean()


def loss_of(class_weights: Sequence[float] | None, smoothing: float, classes: int, device: torch.device) -> Loss:
    """Return the loss; torch's own where neither is set.

    Raises:
        ConfigError: there is not one weight for each class.
    """
    if class_weights is None and not smoothing:
        return cross_entropy
    if class_weights is not None and len(class_weights) != classes:
        allowed = f"must hold one weight for each of the {classes} classes"
        raise ConfigError.of("training.class_weights", f"{len(class_weights)} numbers", allowed)
    weights_K = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32, device=device)
    return WeightedLoss(weights_K, smoothing)
