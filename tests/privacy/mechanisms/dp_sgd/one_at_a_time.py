"""Clients of DP-SGD with scripted draws, and the same steps in float64: one example at a time, without Opacus.

N examples, D values of the model; a draw holds the source's values for the inclusion of the N examples in one step.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from fl.models import plain as models
from fl.training import local as training
from privacy.mechanisms.contract import Batch, ClientJob, Plan
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from privacy.randomness import Randomness

IMAGE = (1, 28, 28)
CLASSES = 10
N = 26
BATCH = 8
STEPS = 4
LR = 0.5
SIGMA = 1.5
# four batches of at most 8 make an epoch of 26
RATE = 1 / 4
EXPECTED = 6.5
CLIPPINGS = [(mode, "flat") for mode in MODES] + [(m, c) for m in MODES[:3] for c in ("per_layer", "adaptive")]
NOBODY = np.ones(N)
EVERYBODY = np.zeros(N)
Clip = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class Residual(torch.nn.Sequential):
    """A small residual block like those of resnet18_gn: GroupNorm, and a shortcut with its own convolution."""

    def __init__(self, shape: models.Shape, classes: int) -> None:
        stem = torch.nn.Conv2d(shape[0], 32, 4, stride=4), torch.nn.GroupNorm(32, 32), torch.nn.Tanh()
        head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, classes)
        super().__init__(*stem, models.ResidualBlock(32, 64, 2), *head)


MODELS = {"logistic": models.Logistic, "mlp": models.Mlp, "cnn": models.Cnn, "residual": Residual}


@dataclass
class Examples:
    """Examples that can only be taken by index, since DP-SGD does not use plain batches."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def __iter__(self) -> Iterator[Batch]:
        raise AssertionError("plain batches are no Poisson samples")

    def take(self, index: torch.Tensor) -> Batch:
        return self.inputs[index], self.labels[index]


class Scripted(Randomness):
    """A source with constant Gaussians; inclusions are scripted, then drawn, and all are recorded."""

    def __init__(self, gaussian: float = 0.0, script: Sequence[NDArray[np.float64]] = (), seed: int = 5) -> None:
        self._gaussian = gaussian
        self._script = list(script)
        self._generator = np.random.default_rng(seed)
        self.draws: list[NDArray[np.float64]] = []

    def key(self) -> bytes:
        return bytes(32)

    def generator(self):
        return self

    def random(self, count: int) -> NDArray[np.float64]:
        self.draws.append(self._script.pop(0) if self._script else self._generator.random(count))
        return self.draws[-1]

    def standard_normal(self, count: int, dtype) -> NDArray[np.float32]:
        return np.full(count, self._gaussian, dtype)

    def normal(self, mean: float, std: float) -> float:
        return mean + std * self._gaussian


def model_of(name: str = "logistic") -> torch.nn.Module:
    torch.manual_seed(3)
    return MODELS[name](IMAGE, CLASSES)


def examples_of(count: int = N) -> Examples:
    """Random images of very different contrast, so that their gradients have very different norms."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, *IMAGE, generator=generator) * torch.linspace(0.1, 2.0, count).reshape(-1, 1, 1, 1)
    return Examples(inputs, torch.randint(0, CLASSES, (count,), generator=generator))


def plan_of(model: torch.nn.Module, **changes) -> Plan:
    """One client with N examples, in one round of STEPS steps."""
    weights = {"uniform_weights": True, "public_weights": False, "proximal": 0.0}
    run = {"clients": 1, "cohort_size": 1, "rounds": 1, "examples": (N,), "participations": (1,), "separation": 2}
    run |= {
        "min_contributors": 1,
        "hidden": False,
        "rounding": 0.0,
        "dimension": sum(p.numel() for p in model.parameters()),
    }
    steps = {"batch_size": BATCH, "epochs": None, "steps": STEPS, "sample_rate": None}
    other = {"delta": 1e-5, "accountant": "prv", "model": model, "random_examples": random_examples}
    return Plan(**weights | run | steps | other | changes)


def random_examples(count: int, shape: tuple[int, ...] = IMAGE) -> Batch:
    """Random images, none of those of `examples_of`."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % CLASSES


def steps_of(rate: float, steps: int, sigma: float = 1.0) -> DpEvent:
    """The accountant's event of some steps with Poisson sampling."""
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)


def job_of(model: torch.nn.Module, examples: Examples, randomness: Randomness, **options) -> ClientJob:
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": LR} | options)
    count = len(examples.labels)
    return ClientJob("client/0", 1, {}, randomness, count, model, optimizer, examples)


def trained(dp: DpSgd, job: ClientJob, plan: Plan | None = None) -> torch.Tensor:
    """The update of a client, shape (D,), as it is released."""
    start_D = flat(job.model.parameters()).detach().clone()
    dp.settle(plan or plan_of(job.model))
    dp.prepare(job)
    training.train(job)
    return dp.on_update(job, flat(job.model.parameters()).detach() - start_D)


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradients(model: torch.nn.Module, examples: Examples, index: int) -> list[torch.Tensor]:
    """The gradient of one example, by plain autograd."""
    inputs, labels = examples.take(torch.tensor([index]))
    loss = cross_entropy(model(inputs.double()), labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def norms(model: torch.nn.Module, examples: Examples) -> list[float]:
    twin = deepcopy(model).double()
    return [float(flat(gradients(twin, examples, i)).norm()) for i in range(len(examples.labels))]


def within(bound: float, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients scaled down together to a norm of at most `bound`."""
    return [tensor * min(1.0, bound / float(flat(tensors).norm())) for tensor in tensors]


def microbatches(model: torch.nn.Module, examples: Examples, draws, clip: Clip, rate=RATE, expected=EXPECTED):
    """Abadi et al. 2016, Algorithm 1, without noise: the update in float64, shape (D,)."""
    twin = deepcopy(model).double()
    start_D = flat(twin.parameters()).detach().clone()
    for draw in draws:
        total_D = torch.zeros_like(start_D)
        for index in np.flatnonzero(draw < rate):
            total_D += flat(clip(gradients(twin, examples, int(index))))
        moved_D = flat(twin.parameters()).detach() - LR / expected * total_D
        torch.nn.utils.vector_to_parameters(moved_D, twin.parameters())
    return flat(twin.parameters()).detach() - start_D


def flat_clip(bound: float, seen: list[float] | None = None) -> Clip:
    def clip(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        if seen is not None:
            seen.append(float(flat(tensors).norm()))
        return within(bound, tensors)

    return clip


def assert_close(found_D: torch.Tensor, wanted_D: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert wanted_D.abs().max() > 100 * tolerance  # so that the comparison says something
    assert (found_D - wanted_D).abs().max() < tolerance


def drawn(*index: int) -> NDArray[np.float64]:
    draw = np.ones(N)
    draw[list(index)] = 0
    return draw
