"""The ways to the gradients of single examples: which one a model takes, by a step on random examples.

A mode of Opacus measures the layers that it hooks, and no other use of their weights. So a mode is taken for a model
only where its sum of clipped gradients is that of one example at a time.
"""

import statistics
import warnings
from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from opacus.grad_sample.utils import wrap_model
from torch.nn.functional import cross_entropy

from privacy.errors import FAULTS, ConfigError, one_line, refusal
from privacy.mechanisms.contract import RandomExamples
from privacy.mechanisms.dp_sgd_ghost import Ghost, GhostLoss, GhostModule
from privacy.mechanisms.dp_sgd_optimizers import Flat, Sourced, norms_of, single_gradient
from privacy.mechanisms.separate_examples import affordable, constant_draws

MODES = ("hooks", "ew", "functorch", "ghost")
AUTO = "auto"
SMALL = 50_000  # number of parameters above which per-example gradients cost more than ghost's second pass
EXAMPLES = 8  # number of examples of the step by which a mode is tried
FEWEST = 2  # the same for a model that takes long, or has over LARGE parameters
LARGE = 1_000_000
ROUNDING = 1e-2  # largest difference between the sums of clipped gradients, relative to the clip
# torch warns that Opacus hooks a first layer whose input needs no gradient
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)


def settled_mode(twin: torch.nn.Module, wanted: str, clipping: str, random_examples: RandomExamples) -> str:
    """Return the mode that is wanted; for `auto` the fastest one that can take the model, given with random weights.

    Raises:
        ConfigError: the wanted mode, or every one, fails on random examples.
    """
    if wanted == AUTO:
        fastest = default_mode(twin) if clipping == "flat" else "ew"
        modes = list(dict.fromkeys((fastest, "hooks", "ew", "functorch")))
    else:
        modes = [wanted]
    reasons = []
    for mode in modes:
        reason = fault(twin, mode, random_examples)
        if reason is None:
            return mode
        reasons.append(f"{mode}: {reason}")
    if wanted == AUTO:
        raise refusal(twin, f"no mode gives the gradients of its single examples; {'; '.join(reasons)}")
    raise ConfigError.of("mechanism.dp_sgd.mode", wanted, f"{reasons[0].partition(': ')[2]}; choose mode=auto")


def default_mode(model: torch.nn.Module) -> str:
    """Return the fastest mode by `fedveil bench dp`: `ew` for small convolutional models, `ghost` for all others."""
    convolutional = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return "ew" if convolutional and sum(p.numel() for p in model.parameters()) <= SMALL else "ghost"


def wrapped(model: torch.nn.Module, mode: str) -> Any:
    """Return a copy of the model that gives gradients of single examples under a summed loss; the model has no hooks.

    Under a mean Opacus would multiply the gradients by the number of examples.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about hooks and batch_first: no model here is affected
        if mode == "ghost":
            return GhostModule(deepcopy(model), loss_reduction="sum")
        return wrap_model(deepcopy(model), grad_sample_mode=mode, loss_reduction="sum")


def fault(twin: torch.nn.Module, mode: str, random_examples: RandomExamples) -> str | None:
    """Return why a mode cannot take a model, in one line; None where it can."""
    wanted = FEWEST if sum(parameter.numel() for parameter in twin.parameters()) > LARGE else EXAMPLES
    inputs, labels_B = random_examples(affordable(twin, random_examples, FEWEST, wanted))
    if mode == "ghost":
        narrow = next((name for name, one in twin.named_parameters() if one.element_size() < 4), None)
        if narrow is not None:
            return f"ghost norms of {narrow}, in fewer than 32 bits, round by more than the clip allows"
        repeated = _repeated(twin, inputs)
        if repeated is not None:
            return f"ghost norms cannot add the uses of {repeated}, which takes part twice"
    with constant_draws():
        try:
            singles = [single_gradient(twin, inputs[i : i + 1], labels_B[i : i + 1]) for i in range(len(labels_B))]
            norms = [float(norms_of(single)) for single in singles]
            bound = statistics.median(norms) or 1.0
            gaps = _private_sum(twin, mode, inputs, labels_B, bound)
        except FAULTS as error:
            return one_line(error)
    for single, norm in zip(singles, norms, strict=True):
        torch._foreach_add_(gaps, [one[0] for one in single], alpha=-min(1.0, bound / norm) if norm else 0.0)
    gap = float(norms_of([one[None] for one in gaps]))
    return None if gap <= ROUNDING * bound else "its gradients are not those of one example at a time"


def _repeated(twin: torch.nn.Module, inputs: torch.Tensor) -> str | None:
    """Return the first layer with weights that a forward pass uses twice, by its path; None where there is none."""
    uses: Counter[int] = Counter()
    names: list[str] = []

    def hook(module: torch.nn.Module, *_: Any) -> None:
        own = list(module.parameters(recurse=False))
        uses.update(id(parameter) for parameter in own)
        if any(uses[id(parameter)] > 1 for parameter in own):
            names.append(next(path for path, one in twin.named_modules() if one is module))

    handles = [module.register_forward_hook(hook) for module in twin.modules()]
    with torch.no_grad(), constant_draws():
        twin(inputs)
    for handle in handles:
        handle.remove()
    return next(iter(names), None)


def _private_sum(
    twin: torch.nn.Module, mode: str, inputs: torch.Tensor, labels_B: torch.Tensor, bound: float
) -> list[torch.Tensor]:
    """Return a step's sum of clipped gradients by parameter, before its noise."""
    model = wrapped(twin, mode)
    inner = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    kind: Any = Ghost if mode == "ghost" else Flat
    optimizer: Sourced = kind(inner, noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=1)
    if isinstance(optimizer, Ghost):
        GhostLoss(model, optimizer)(model(inputs), labels_B).backward()
        optimizer.accumulate()
    else:
        cross_entropy(model(inputs), labels_B, reduction="sum").backward()  # type: ignore[no-untyped-call]
        optimizer.clip_and_accumulate()
    return [parameter.summed_grad.view_as(parameter) for parameter in optimizer.params]
