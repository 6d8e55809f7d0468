"""The trial of a model before its clients are stacked: random examples together, and one at a time.

It is on random examples and random weights alone, which differ between the clients of the trial.
"""

import statistics
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from privacy.errors import FAULTS, one_line
from privacy.mechanisms.contract import Batch, RandomExamples
from privacy.mechanisms.dp_sgd_optimizers import norms_of, single_gradient
from privacy.mechanisms.stacked.parts import Unstackable
from privacy.mechanisms.stacked.sums import ClippedSums, Tally

SIZES = (3, 0, 2, 1)  # number of examples of each client of the trial
MOST = 4  # of one pass of the trial, so that it takes two
ROUNDING = 1e-2  # largest difference between the sums of clipped gradients, relative to the clip
DRAWS = "it draws random numbers while it computes, such as dropout's"


class _NoDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, no operation draws random numbers: those of one client would depend on the others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unstackable(DRAWS)
        return func(*args, **(kwargs or {}))


def fault(twin: torch.nn.Module, random_examples: RandomExamples) -> str | None:
    """Return why a model's clients cannot be stacked, as a clause; None where they can.

    `twin` is the model with random weights, on the CPU.
    """
    models = _clients(twin)
    draws = _draws(random_examples)
    stack = [torch.stack([own.detach() for own in owns]) for owns in zip(*map(_trained, models), strict=True)]
    try:
        with torch.random.fork_rng(devices=()):
            singles = [_gradients(model, draw) for model, draw in zip(models, draws, strict=True)]
            norms = [float(norm) for single in singles if single for norm in norms_of(single)]
            bound = statistics.median(norms) or 1.0
            sums = ClippedSums(deepcopy(twin), cross_entropy, bound, MOST)
            with _NoDraws():  # type: ignore[no-untyped-call]
                found = sums.of(stack, draws, [Tally() for _ in models])
    except Unstackable as error:
        return str(error)
    except FAULTS as error:
        return f"the model fails on examples of several clients: {one_line(error)}"
    for client, single in enumerate(singles):
        gaps = [own[client] - wanted for own, wanted in zip(found, _clipped(single, bound, stack), strict=True)]
        if not float(norms_of([gap[None] for gap in gaps])) <= ROUNDING * bound:
            return "its gradients are not those of one example at a time"
    return None


def _clients(twin: torch.nn.Module) -> list[torch.nn.Module]:
    """Return copies with weights of their own."""
    generator = torch.Generator().manual_seed(1)
    models = [deepcopy(twin) for _ in SIZES]
    with torch.no_grad():
        for model in models:
            for own in _trained(model):
                own.mul_(1 + 0.3 * torch.rand(own.shape, generator=generator).to(own.dtype))
    return models


def _draws(random_examples: RandomExamples) -> list[Batch | None]:
    inputs, labels = random_examples(sum(SIZES))
    parts = zip(torch.split(inputs, list(SIZES)), torch.split(labels, list(SIZES)), strict=True)
    return [part if len(part[1]) else None for part in parts]


def _gradients(model: torch.nn.Module, draw: Batch | None) -> list[torch.Tensor]:
    """Return the gradients of single examples by parameter, (B, ...) each, from plain autograd; nothing of nothing."""
    if draw is None:
        return []
    examples = zip(*(torch.split(one, 1) for one in draw), strict=True)
    singles = [single_gradient(model, inputs, label) for inputs, label in examples]
    return [torch.cat(own) for own in zip(*singles, strict=True)]


def _clipped(single: Sequence[torch.Tensor], bound: float, stack: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return the sums of gradients clipped to the bound, by parameter."""
    if not single:
        return [torch.zeros_like(one[0]) for one in stack]
    factors_B = (bound / norms_of(list(single))).clamp(max=1.0).to(single[0].dtype)
    return [torch.einsum("i,i...", factors_B, own) for own in single]


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
