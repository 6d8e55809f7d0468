"""Checks of a model before a record-level mechanism clips the gradients of its examples, on random examples alone.

To clip each example's gradient bounds what the example does to the sum only where no example changes the gradient of
another, and where nothing but gradients leaves. So nothing of a batch may stay in the model, and an example must have
the same output and the same gradient in every batch. Layers are not judged by their names: the model runs, in training
mode, with random weights, and the results are compared bit for bit, between batches of one size with examples in
common. Between batches of different sizes they are compared up to rounding.

Shapes: B examples of a batch, K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from privacy.errors import FAULTS, one_line, refusal
from privacy.mechanisms.contract import RandomExamples

SMALLEST = 3  # number of examples of the least batch that is compared with a single one
MOST_OPERATIONS = 2_000_000_000  # of a forward pass over one batch: below a tenth of a second
ROUNDING = 1e-3  # largest difference between batches of two sizes, relative to the largest output
REAL = ("rand", "randn", "rand_like", "randn_like", "uniform_", "normal", "normal_", "exponential_", "cauchy_")
WHOLE = ("randint", "randint_like", "random_", "geometric_", "poisson")
DRAWS = dict.fromkeys(REAL + WHOLE, 0.5) | dict.fromkeys(("bernoulli", "bernoulli_"), 1.0)  # what stands for a draw


class _Constant(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Random numbers that are the same for all examples, batches and sizes: dropout keeps all, other draws are 1/2.

    A permutation turns the batch by one place. An operation that draws and computes at once is seeded.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and overwrite what it drew."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        torch.default_generator.manual_seed(0)
        drawn = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "randperm":
            return drawn.sort().values.roll(1)
        constant = DRAWS.get(name)
        return drawn if constant is None else drawn.fill_(constant if drawn.is_floating_point() else 0)


@contextmanager
def constant_draws() -> Iterator[None]:
    """Make draws of torch on the CPU constant, and leave its generator as it was."""
    with torch.random.fork_rng(devices=()), _Constant():  # type: ignore[no-untyped-call]
        yield


def require_separate(twin: torch.nn.Module, random_examples: RandomExamples, sizes: Iterable[int]) -> None:
    """Refuse a model that keeps something of its examples, or in which they change one another.

    `twin` is the model with random weights, `sizes` are the sizes of batches that training uses. A size at which a
    forward pass takes more than `MOST_OPERATIONS` is cut.

    Raises:
        ConfigError: the model is refused; the message names the entry of its state, or the layer, where it can be
            found.
    """
    with torch.random.fork_rng(devices=()):
        _require_same_gradients(twin, random_examples)
        for size in sorted({SMALLEST, *(affordable(twin, random_examples, SMALLEST, size) for size in sizes)}):
            _require_same_outputs(twin, random_examples, size)


def randomised(model: torch.nn.Module, random_examples: RandomExamples) -> torch.nn.Module:
    """Return a copy on the CPU, in training mode, with random weights: at zero a layer would hide what it does.

    A model that gives no finite output with them keeps its own.

    Raises:
        ConfigError: the model fails on random examples of the data set's shape, or it cannot be copied or hooked.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise refusal(model, "TorchScript takes no hooks, as gradients of single examples need: leave torch.jit out")
    try:
        own = deepcopy(model).cpu().train()
    except FAULTS as error:
        told = f"cannot be copied, as gradients of single examples need: {one_line(error)}"
        remedy = "; use torch.nn.utils.parametrizations.weight_norm" if "weight_norm" in told else ""
        raise refusal(model, f"{told}{remedy}") from error
    twin = deepcopy(own)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            fan_in = max(1, parameter[0].numel() if parameter.dim() > 1 else parameter.numel())
            noise = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
            parameter.add_(noise.to(parameter.dtype))
        with constant_draws():
            try:
                outputs = deepcopy(twin)(random_examples(1)[0])
            except FAULTS as error:
                raise refusal(model, f"fails on random examples: {one_line(error)}") from error
    if not isinstance(outputs, torch.Tensor):
        raise refusal(model, f"its outputs are a {type(outputs).__name__}: they must be logits, a tensor")
    return twin if bool(outputs.isfinite().all()) else own


def _batches(random_examples: RandomExamples, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two batches of one size, which share their first half, and nothing else."""
    common = size - size // 2
    inputs, _ = random_examples(2 * size)
    return inputs[:size], torch.cat([inputs[:common], inputs[size : 2 * size - common]])


def _require_same_gradients(twin: torch.nn.Module, random_examples: RandomExamples) -> None:
    """Compare the first example of two batches of two, and one batch with itself; dropout draws the same for all."""
    first, second = _batches(random_examples, 2)
    before = {name: entry.clone() for name, entry in twin.state_dict().items() if entry.is_floating_point()}
    one, another, again = (_outputs_and_gradients(twin, inputs) for inputs in (first, second, first))
    after = twin.state_dict()
    changed = next((name for name, entry in before.items() if not _same(entry, after[name])), None)
    if changed is not None:
        raise refusal(twin, f"training changes {changed} without noise, and it leaves with the weights: keep it fixed")
    if not all(map(_same, one, again)):
        raise refusal(twin, "keeps something of the examples that it saw, which clipping does not bound")
    if not all(map(_same, one, another)):
        raise refusal(twin, _mixed(_culprit(twin, first, second, 1, _same)))


def _outputs_and_gradients(twin: torch.nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the output of the first example, and the gradients of its loss, under one seed."""
    torch.default_generator.manual_seed(0)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    outputs = twin(inputs)[:1]
    loss = cross_entropy(outputs, torch.zeros(1, dtype=torch.int64))
    gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    return [outputs.detach(), *gradients]


def affordable(twin: torch.nn.Module, random_examples: RandomExamples, least: int, wanted: int) -> int:
    """Return the wanted size of a batch; a smaller one, of `least` examples or more, over `MOST_OPERATIONS`."""
    with torch.no_grad(), constant_draws(), FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        # the counter's hooks fire twice around a compiled module: no harm
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
        twin(random_examples(1)[0])
    return max(least, min(wanted, MOST_OPERATIONS // max(1, int(counter.get_total_flops()))))


def _require_same_outputs(twin: torch.nn.Module, random_examples: RandomExamples, size: int) -> None:
    """Compare the common examples of two batches of this size, and a few with what they give alone."""
    first, second = _batches(random_examples, size)
    common = size - size // 2
    with torch.no_grad(), constant_draws():
        outputs, others = (twin(inputs) for inputs in (first, second))
        alone = [twin(first[place : place + 1]) for place in range(SMALLEST)]
    if not _same(outputs[:common], others[:common]):
        raise refusal(twin, _mixed(_culprit(twin, first, second, common, _same)))
    for place, own in enumerate(alone):
        if not _close(outputs[place : place + 1], own):
            turned = first.roll(-place, 0)  # that example comes first
            raise refusal(twin, _mixed(_culprit(twin, turned, turned[:1], 1, _close)))


def _mixed(culprit: str | None) -> str:
    where = f" (at {culprit})" if culprit else ""
    return f"an example changes the gradients of others in its batch{where}, so clipping each bounds nothing"


def _same(one: torch.Tensor, another: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), another.nan_to_num())


def _close(one: torch.Tensor, another: torch.Tensor) -> bool:
    gap = (one.double() - another.double()).nan_to_num().abs().max()
    return bool(gap <= ROUNDING * one.double().nan_to_num().abs().max())


def _culprit(
    twin: torch.nn.Module,
    first: torch.Tensor,
    second: torch.Tensor,
    common: int,
    agree: Callable[[torch.Tensor, torch.Tensor], bool],
) -> str | None:
    """Return the first module that maps the same examples to different outputs, by its path and class."""
    with torch.no_grad(), constant_draws(), _traced(twin) as steps:
        twin(first)
        half = len(steps)
        twin(second)
    for (path, given, made), (_, given_then, made_then) in zip(steps[:half], steps[half:], strict=False):
        rows = [tensor[:common] for tensor in (given, given_then, made, made_then)]
        shaped_alike = rows[0].shape == rows[1].shape and rows[2].shape == rows[3].shape
        if shaped_alike and agree(rows[0], rows[1]) and not agree(rows[2], rows[3]):
            return path
    return None


@contextmanager
def _traced(twin: torch.nn.Module) -> Iterator[list[tuple[str, torch.Tensor, torch.Tensor]]]:
    """List each module that ends, with its path and class, its first input and its output."""
    steps: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def hook_of(path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
                steps.append((f"{path} {type(module).__name__}".strip(), given[0].clone(), made.clone()))

        return hook

    handles = [module.register_forward_hook(hook_of(path)) for path, module in twin.named_modules()]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()
