"""The dry step: a model is tried on random examples before the first round, as a client would train it.

What cannot be trained shows here in one line, and not as a cohort without contributors. What training changes and no
vector carries shows too: the model is put back as a client's would be, and has to give the same outputs. And so does
what would give a number that looks like a result: layers that nothing trains, outputs that are probabilities already,
and a model that answers otherwise once it is evaluated.

Shapes: B examples, K classes, D values of the vector that is summed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch

from fl.training.generators import preserved_generators, seed_generators
from fl.training.kept import OF_TORCH, Kept
from fl.training.local import Passes, train
from fl.training.vectors import Layout
from privacy.errors import FAULTS, ConfigError, FedveilError, one_line, refusal
from privacy.mechanisms.contract import Batch, ClientJob, RandomExamples

MOST = 4  # number of examples of a batch, unless all batches of training are smaller
STEPS = 2  # the second one meets what the first has left
ROUNDING = 1e-5  # largest difference of outputs, relative to the largest one: a vector is in float32
PROBABLE = 1e-5  # largest distance of the sum of probabilities from 1, in float32
EVALUATED = " in evaluation mode"
STATE = "attributes or buffers that its outputs depend on"
_UNSET = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)


@contextmanager
def put_back(
    device: torch.device,
    layout: Layout,
    load: Callable[[torch.Tensor], None],
    *labels: int | str,
) -> Iterator[None]:
    """Seed all generators from the labels; after the block, put back generators, weights and all else of the model.

    The weights are those that the model holds now: a client may have put its own there.
    """
    held_D = layout.flatten()
    with preserved_generators(device):
        seed_generators(device, *labels)
        try:
            yield
        finally:
            load(held_D)
            for entry in layout.state:
                entry.grad = None


def unsummed(model: torch.nn.Module, what: str) -> ConfigError:
    """Return the line about state of a model that training changes and no vector carries."""
    remedy = "keep it fixed, or in a floating-point buffer"
    return refusal(model, f"training changes {what}, which no sum carries: {remedy}")


def materialise(model: torch.nn.Module, random_examples: RandomExamples) -> None:
    """Give lazy layers their shapes, by a pass over a random example; weights are drawn from the global generator.

    Raises:
        ConfigError: the pass fails.
    """
    if not any(isinstance(entry, _UNSET) for entry in [*model.parameters(), *model.buffers()]):
        return
    with torch.no_grad():
        _tried(model, lambda: model.eval()(random_examples(1)[0]), "cannot take a random example")
    left = next((name for name, entry in model.named_parameters() if isinstance(entry, _UNSET)), None)
    if left is not None:
        raise refusal(model, f"no input reaches {left}, a lazy layer: give it its shape")


def moving_buffers(model: torch.nn.Module, random_examples: RandomExamples) -> tuple[str, ...]:
    """Return the names of floating-point buffers of the state that a pass in training mode changes.

    The model is on the CPU, and is put back; one that fails has none.
    """
    held = model.state_dict(keep_vars=True)
    names = [name for name, _ in model.named_buffers() if name in held and _is_real(held[name])]
    if not names:
        return ()
    kept = Kept(model)
    starts = {name: model.get_buffer(name).detach().clone() for name in names}
    model.train()
    try:
        with torch.no_grad():
            for examples in torch.split(random_examples(MOST * STEPS)[0], MOST):
                model(examples)
    except FAULTS:  # the dry step says so
        return ()
    else:
        return tuple(name for name in names if _moved(model, name, starts[name]))
    finally:
        kept.restore()


def loose_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Return what an attribute of a model holds, requires a gradient, and is none of its parameters, with its name.

    Such are the layers in a list of Python's: no optimizer knows them, and no vector carries them.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for tensor in () if name in OF_TORCH else _tensors_in(value):
                if tensor.requires_grad and tensor.is_leaf and id(tensor) not in known:
                    yield f"{path}.{name}" if path else name, tensor


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(one)


def _is_real(entry: object) -> bool:
    return isinstance(entry, torch.Tensor) and (entry.is_floating_point() or entry.is_complex())


def _moved(model: torch.nn.Module, name: str, start: torch.Tensor) -> bool:
    now: Any = model.get_buffer(name)
    return now is not None and now.shape == start.shape and not torch.equal(now, start)


@dataclass
class RandomLoader:
    """Random examples in place of a client's: any index is one of a few."""

    inputs: torch.Tensor
    labels: torch.Tensor
    size: int  # examples of a batch

    @classmethod
    def of(cls, random_examples: RandomExamples, size: int, device: torch.device) -> "RandomLoader":
        """Return the examples of all steps, on the device."""
        inputs, labels = random_examples(size * STEPS)
        return cls(inputs.to(device), labels.to(device), size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        return zip(torch.split(self.inputs, self.size), torch.split(self.labels, self.size), strict=True)

    def take(self, index: torch.Tensor) -> Batch:
        """Return examples at indices, shape (B,), int64, of any size."""
        index = index.to(self.inputs.device) % len(self.labels)
        return self.inputs[index], self.labels[index]


class DryStep:
    """One trial of a model. It trains the model itself: the caller puts it back.

    Args:
        model: the model, with the global weights.
        load: puts a vector of shape (D,) into the model, and all else as it was at the start.
        layout: returns the model's layout.
        kept: the state that no vector carries.
        examples: random examples of the data set's shape, on the model's device.
        classes: K.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        load: Callable[[torch.Tensor], None],
        layout: Callable[[torch.nn.Module], Layout],
        kept: Kept,
        examples: RandomLoader,
        classes: int,
    ) -> None:
        self._model = model
        self._load = load
        self._layout = layout
        self._kept = kept
        self._examples = examples
        self._classes = classes

    def plain(self, job: ClientJob, passes: Passes) -> None:
        """Train without a mechanism, and compare what a client would find afterwards.

        Raises:
            ConfigError: the model or the optimizer fails, the outputs are no logits, or training changes what no vector
                carries.
        """
        self._model.train()
        for inputs, labels_B in self._examples:
            self._tried(partial(self._pass, job, inputs, labels_B))
        self._require_none_loose()
        try:
            train(job, passes)
        except FAULTS as error:
            key, value = ("training.optimizer", type(job.optimizer).__name__)
            if passes.mixed:  # the passes before were in the model's own precision
                key, value = ("training.precision", "bf16")
            raise ConfigError.of(key, value, f"fails in a step: {one_line(error)}") from error
        changed = self._kept.changed()
        if changed is not None:
            raise unsummed(self._model, changed)
        self._require_same_outputs()

    def private(self, job: ClientJob, prepare: Callable[[ClientJob], None], name: str) -> None:
        """Train as the mechanisms say.

        Raises:
            ConfigError: the model fails.
        """

        def steps() -> None:
            prepare(job)
            job.batches = islice(job.batches, STEPS)
            train(job)

        self._tried(steps, f" under mechanism={name}")

    @property
    def _batch(self) -> str:
        return "a batch of one random example" if self._examples.size == 1 else "random examples"

    def _tried(self, step: Callable[[], Any], where: str = "") -> Any:
        what = f"cannot be trained on {self._batch}{where}"
        remedy = "; choose a training.batch_size that leaves no batch of one" if self._examples.size == 1 else ""
        return _tried(self._model, step, what, remedy)

    def _pass(self, job: ClientJob, inputs: torch.Tensor, labels_B: torch.Tensor) -> None:
        outputs = self._require_logits(self._model(inputs))
        if bool(outputs.isnan().any()):
            raise refusal(self._model, f"its outputs hold NaN on {self._batch}, before any training")
        job.loss(outputs, labels_B).backward()  # type: ignore[no-untyped-call]

    def _require_none_loose(self) -> None:
        """Refuse what takes a gradient, as a pass has shown, and is no part of the model."""
        reached = next((name for name, tensor in loose_tensors(self._model) if tensor.grad is not None), None)
        if reached is not None:
            told = f"{reached} holds what is no part of it, so nothing trains that"
            raise refusal(self._model, f"{told}: use nn.ModuleList, nn.ModuleDict or nn.Parameter")

    def _require_logits(self, outputs: object, when: str = "") -> torch.Tensor:
        wanted = f"they must be logits, a tensor (N, {self._classes})"
        if not isinstance(outputs, torch.Tensor):
            raise refusal(self._model, f"its outputs{when} are a {type(outputs).__name__}: {wanted}")
        if outputs.shape != (self._examples.size, self._classes) or not outputs.is_floating_point():
            kind = f"{str(outputs.dtype).removeprefix('torch.')} {tuple(outputs.shape)} on {self._batch}"
            raise refusal(self._model, f"its outputs{when} are {kind}: {wanted}")
        if _are_probabilities(outputs):
            remedy = "leave the softmax out, as the loss has its own"
            raise refusal(self._model, f"its outputs{when} are probabilities, whose rows add up to 1: {remedy}")
        return outputs

    def _require_same_outputs(self) -> None:
        learned_D = self._layout(self._model).flatten()
        after = self._outputs()
        self._load(learned_D)
        again = self._outputs()
        if not all(_close(one, other) for one, other in zip(after, again, strict=True)):
            raise unsummed(self._model, STATE)

    def _outputs(self) -> list[torch.Tensor]:
        """Return the outputs of the first batch, first as in evaluation, then as in training.

        Raises:
            ConfigError: the outputs of evaluation depend on the passes before, are drawn at random, or are no logits.
        """
        evaluated = self._outputs_in(training=False)
        if not _close(evaluated, self._outputs_in(training=False)):
            raise unsummed(self._model, STATE)
        if not _close(evaluated, self._outputs_in(training=False, seed=1)):
            remedy = "use nn.Dropout, or F.dropout with training=self.training"
            raise refusal(self._model, f"its outputs{EVALUATED} are drawn at random: {remedy}")
        return [evaluated, self._outputs_in(training=True)]

    def _outputs_in(self, training: bool, seed: int = 0) -> torch.Tensor:
        inputs = next(iter(self._examples))[0]
        seed_generators(inputs.device, seed)

        def outputs() -> torch.Tensor:
            with torch.no_grad():
                return self._require_logits(self._model.train(training)(inputs), "" if training else EVALUATED)

        made: torch.Tensor = _tried(self._model, outputs, f"fails{'' if training else EVALUATED} on {self._batch}")
        return made


def _tried(model: torch.nn.Module, step: Callable[[], Any], what: str, remedy: str = "") -> Any:
    try:
        return step()
    except FedveilError:
        raise
    except torch.OutOfMemoryError:  # on a machine with more, it may work
        raise
    except FAULTS as error:
        raise refusal(model, f"{what}: {one_line(error)}{remedy}") from error


def _are_probabilities(outputs: torch.Tensor) -> bool:
    """True where all rows, shape (K,), are at least 0 and add up to 1."""
    sums_B = outputs.double().sum(dim=1)
    slack = max(PROBABLE, outputs.shape[1] * torch.finfo(outputs.dtype).eps)
    return bool((outputs >= 0).all()) and bool(((sums_B - 1).abs() <= slack).all())


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    gap = (one.double() - other.double()).nan_to_num().abs().max()
    return bool(gap <= ROUNDING * one.double().nan_to_num().abs().max())
