"""The sums of clipped gradients of several clients, each at its own parameters.

Shapes: N clients of a stack, B examples of one client, M examples of a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from privacy.mechanisms.contract import Batch, Loss
from privacy.mechanisms.dp_sgd_optimizers import clip_factors, counted
from privacy.mechanisms.stacked.parts import Parts, Stack, segments_of
from privacy.mechanisms.stacked.rules import Rules

Piece = tuple[int, torch.Tensor, torch.Tensor]  # a client of the stack, and examples of its draw


@dataclass
class Tally:
    """Numbers of examples of one client: those that were drawn, were clipped, and added zero as not finite."""

    seen: int = 0
    clipped: int = 0
    not_finite: int = 0

    def saw(self, norms_B: torch.Tensor, bound: float) -> None:
        """Count examples by the norms of their gradients; one that is not finite counts as clipped too."""
        clipped, not_finite = counted(norms_B, bound)
        self.seen += len(norms_B)
        self.clipped += clipped
        self.not_finite += not_finite


class ClippedSums:
    """What computes sums of clipped gradients with a model, whose own parameters are tokens and stay as they are.

    Args:
        model: it treats each example alone, and draws no random numbers.
        loss: the loss of local training; of its sum the gradients are taken.
        bound: the bound on the norm of an example's gradient.
        most: the largest number of examples of one pass.
    """

    def __init__(self, model: torch.nn.Module, loss: Loss, bound: float, most: int) -> None:
        self._model = model
        self._loss = loss
        self._bound = bound
        self._most = most
        self._tokens = {name: one for name, one in model.named_parameters() if one.requires_grad}

    def of(self, stack: Stack, draws: Sequence[Batch | None], tallies: Sequence[Tally]) -> list[torch.Tensor]:
        """Return the sums by parameter, (N, ...) each, for the clients' draws, and count in their tallies.

        A client without examples has None, and a sum of 0.

        Raises:
            Unstackable: a parameter takes part in something that is not measured.
        """
        held = [parameter.detach() for parameter in stack]
        sums = [torch.zeros_like(parameter) for parameter in held]
        for pieces in passes(draws, self._most):
            self._add(held, pieces, tallies, sums)
        return sums

    def _add(
        self, stack: Stack, pieces: Sequence[Piece], tallies: Sequence[Tally], sums: Sequence[torch.Tensor]
    ) -> None:
        parts = Parts(stack, segments_of([(client, len(labels)) for client, _, labels in pieces]))
        inputs = torch.cat([inputs for _, inputs, _ in pieces])
        labels_M = torch.cat([labels for _, _, labels in pieces])
        for token in self._tokens.values():
            token.grad = None
        with Rules(self._tokens, parts) as rules:
            outputs = self._model(inputs)
        torch.autograd.backward(self._loss(outputs, labels_M, reduction="none").sum())
        rules.require_whole()
        norms_M: torch.Tensor = torch.linalg.vector_norm(torch.stack([layer.norms() for layer in rules.layers]), dim=0)
        for segment in parts.segments:
            tallies[segment.client].saw(norms_M[segment.rows], self._bound)
        factors_M = clip_factors(norms_M, self._bound, outputs)
        finite = bool(norms_M.isfinite().all())
        for layer in rules.layers:
            layer.add(factors_M, finite, sums)


def passes(draws: Sequence[Batch | None], most: int) -> Iterator[list[Piece]]:
    """Yield the clients' draws by passes of at most `most` examples; a draw that fits into one is not divided."""
    held: list[Piece] = []
    size = 0
    for client, draw in enumerate(draws):
        if draw is None:
            continue
        for inputs, labels in zip(*(torch.split(one, most) for one in draw), strict=True):
            if held and size + len(labels) > most:
                yield held
                held = []
                size = 0
            held.append((client, inputs, labels))
            size += len(labels)
    if held:
        yield held
