"""The release of a step, against a microbatch loop in float64: one example at a time, without Opacus.

N examples, D values of the model; a draw holds the source's values for the inclusion of the N examples in one step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kstest, norm
from torch.nn.functional import cross_entropy

from fl.models import plain as models
from fl.training import local as training
from privacy.mechanisms.contract import Batch, ClientJob, Plan
from privacy.mechanisms.dp_sgd import MODES, DpSgd
from privacy.randomness import OsRandomness, Randomness, SeededRandomness

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
        raise AssertionError("a key is not scripted")

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
    weights = {"uniform_weights": True, "public_weights": False, "proximal": False}
    run = {"clients": 1, "cohort_size": 1, "rounds": 1, "examples": (N,), "participations": (1,), "separation": 2}
    run |= {
        "min_contributors": 1,
        "hidden": False,
        "rounding": 0.0,
        "dimension": sum(p.numel() for p in model.parameters()),
    }
    steps = {"batch_size": BATCH, "epochs": None, "steps": STEPS, "sample_rate": None}
    return Plan(**weights | run | steps | {"delta": 1e-5, "accountant": "prv", "model": model} | changes)


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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_flat_clipping_is_that_of_a_microbatch_loop(mode, name):
    model = model_of(name)
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    seen = list[float]()
    job = job_of(model, examples, source)
    found_D = trained(DpSgd(SIGMA, clip=bound, mode=mode), job)
    wanted_D = microbatches(model, examples, source.draws, flat_clip(bound, seen))
    assert len(source.draws) == STEPS
    assert 0.2 < np.mean(np.array(seen) > bound) < 0.8
    assert_close(found_D, wanted_D)
    if mode != "ghost":
        assert job.diagnostics["dp_sgd.clipped_fraction"] == pytest.approx(np.mean(np.array(seen) > bound))


@pytest.mark.parametrize("mode", MODES)
def test_under_a_public_rate_the_public_batch_size_divides(mode):
    model = model_of()
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    found_D = trained(
        DpSgd(SIGMA, clip=bound, mode=mode), job_of(model, examples, source), plan_of(model, sample_rate=0.4)
    )
    assert_close(found_D, microbatches(model, examples, source.draws, flat_clip(bound), 0.4, 8.0))


@pytest.mark.parametrize("mode", MODES[:3])
def test_each_parameter_has_a_bound_of_its_own(mode):
    model = model_of("cnn")
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    found_D = trained(DpSgd(SIGMA, clip=bound, clipping="per_layer", mode=mode), job_of(model, examples, source))
    own = bound / math.sqrt(8)  # four layers with weights and biases

    def clip(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [within(own, [tensor])[0] for tensor in tensors]

    wanted_D = microbatches(model, examples, source.draws, clip)
    assert_close(found_D, wanted_D)
    assert (wanted_D - microbatches(model, examples, source.draws, flat_clip(bound))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("mode", "clipping"),
    CLIPPINGS,
)
def test_a_batch_in_pieces_is_the_whole_batch(mode, clipping):
    model = model_of("cnn")
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    whole_D, pieces_D = (
        trained(
            DpSgd(
                SIGMA, clip=bound, clipping=clipping, mode=mode, max_physical_batch_size=size, clip_learning_rate=1.0
            ),
            job_of(model, examples, Scripted(gaussian=0.1)),
        )
        for size in (256, 3)
    )
    assert_close(pieces_D, whole_D, 1e-6)


@pytest.mark.parametrize("gaussian", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_the_adaptive_bound_follows_the_quantile(mode, gaussian):
    """Andrew et al. 2021, section 2.1: C <- C exp(-eta (b - gamma)); everybody is drawn, so b is beyond dispute."""
    model = model_of("cnn")
    examples = examples_of()
    source = Scripted(gaussian)
    bound = float(np.median(norms(model, examples)))
    dp = DpSgd(SIGMA, clip=bound, clipping="adaptive", mode=mode, clip_learning_rate=0.7, target_unclipped_quantile=0.3)
    found_D = trained(dp, job_of(model, examples, source), plan_of(model, batch_size=N))

    count_std = max(0.05 * N, 0.51 * SIGMA)
    twin = deepcopy(model)
    wanted_D = torch.zeros_like(found_D, dtype=torch.float64)
    bounds = [bound]
    for _ in range(STEPS):
        below = sum(one <= bounds[-1] for one in norms(twin, examples))
        step_D = microbatches(twin, examples, [EVERYBODY], flat_clip(bounds[-1]), 1.0, N)
        step_D -= LR / N * gaussian * bounds[-1] / math.sqrt(SIGMA**-2 - (2 * count_std) ** -2)
        wanted_D += step_D
        torch.nn.utils.vector_to_parameters((flat(model.parameters()).double() + wanted_D).float(), twin.parameters())
        bounds.append(bounds[-1] * math.exp(-0.7 * ((below + gaussian * count_std) / N - 0.3)))
    assert abs(bounds[-1] / bound - 1) > 0.1
    assert_close(found_D, wanted_D)


def adaptive_release(draw: NDArray[np.float64], gaussian: float = 0.0, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The release of one adaptive step: the noised sum of gradients (D,), and the log of the next bound."""
    model = model_of()
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    job = job_of(model, examples, Scripted(gaussian, [draw]))
    update_D = trained(DpSgd(SIGMA, clip=bound, clipping="adaptive", **options), job, plan_of(model, steps=1))
    return update_D.double(), torch.tensor([math.log(job.optimizer.max_grad_norm)], dtype=torch.float64)


def drawn(*index: int) -> NDArray[np.float64]:
    draw = np.ones(N)
    draw[list(index)] = 0
    return draw


def test_the_count_is_divided_by_what_is_expected_and_not_by_who_was_drawn():
    order = [int(i) for i in np.argsort(norms(model_of(), examples_of()))]
    _, fewer = adaptive_release(drawn(*order[:1], *order[-2:]), clip_learning_rate=0.7)
    _, more = adaptive_release(drawn(*order[:2], *order[-1:]), clip_learning_rate=0.7)
    assert float(more - fewer) == pytest.approx(-0.7 / EXPECTED)


def test_the_adaptive_bound_costs_no_more_than_is_accounted():
    """One record more moves both releases together by at most 1/sigma of their noise; here it is just not clipped."""
    zero = adaptive_release(drawn(25))
    one = adaptive_release(drawn(25), gaussian=1.0)
    stds = [float((a - b).abs().mean()) for a, b in zip(one, zero, strict=True)]
    order = [int(i) for i in np.argsort(norms(model_of(), examples_of()))]
    more = adaptive_release(drawn(25, order[N // 2 - 1]))
    moved = [float((a - b).norm()) / std for a, b, std in zip(more, zero, stds, strict=True)]
    assert math.hypot(*moved) <= 1 / SIGMA * 1.001


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_a_step_without_examples_is_noise_alone(mode, clipping):
    model = model_of("cnn")
    clip = 0.8
    dp = DpSgd(SIGMA, clip=clip, clipping=clipping, mode=mode)
    found_D = trained(dp, job_of(model, examples_of(), Scripted(1.0, [NOBODY])), plan_of(model, steps=1))
    multiplier = SIGMA
    if clipping == "adaptive":
        multiplier = 1 / math.sqrt(SIGMA**-2 - (2 * 0.51 * SIGMA) ** -2)
    assert found_D.numpy() == pytest.approx(-LR * multiplier * clip / EXPECTED, rel=1e-5)


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_an_empty_draw_between_two_others_changes_nothing_but_the_noise(mode, clipping):
    model = model_of()
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    full = [drawn(1, 5, 24), drawn(2, 23, 24, 25)]

    def update_of(*script: NDArray[np.float64]) -> torch.Tensor:
        dp = DpSgd(SIGMA, clip=bound, clipping=clipping, mode=mode, clip_learning_rate=1e-9)
        return trained(dp, job_of(model, examples, Scripted(0.0, script)), plan_of(model, steps=len(script)))

    wanted_D = update_of(*full)
    assert_close(update_of(full[0], NOBODY, full[1]), wanted_D, 1e-6)
    assert_close(update_of(NOBODY, *full, NOBODY, NOBODY), wanted_D, 1e-6)


def test_the_adaptive_bound_moves_when_nobody_was_drawn():
    """The noised count is released at each step; here it is the noise alone, which is far above the quantile."""
    start = math.log(float(np.median(norms(model_of(), examples_of()))))
    _, bound = adaptive_release(NOBODY, gaussian=30.0)
    assert bound < start - 0.1


@pytest.mark.parametrize("source", [OsRandomness(), SeededRandomness("noise", 1)], ids=["os", "seeded"])
@pytest.mark.parametrize("mode", ["ew", "ghost"])
def test_noise_is_gaussian_and_grows_with_the_steps(mode, source):
    """False alarms of the system's source: one in a million runs."""
    model = model_of("mlp")
    clip = 0.8
    steps = 5
    plan = plan_of(model, sample_rate=1e-12, steps=steps)
    noise_D = trained(DpSgd(SIGMA, clip=clip, mode=mode), job_of(model, examples_of(), source), plan).double().numpy()
    std = math.sqrt(steps) * LR * SIGMA * clip / BATCH
    assert kstest(noise_D, norm(0, std).cdf).pvalue > 1e-6
    assert np.std(noise_D) == pytest.approx(std, rel=5 / math.sqrt(2 * len(noise_D)))
    assert abs(np.corrcoef(noise_D[:-1], noise_D[1:])[0, 1]) < 5 / math.sqrt(len(noise_D))


def test_seeded_noise_is_reproducible_and_the_systems_is_not():
    def noise_of(randomness: Randomness) -> torch.Tensor:
        model = model_of()
        return trained(DpSgd(SIGMA), job_of(model, examples_of(), randomness), plan_of(model, sample_rate=1e-12))

    first_D = noise_of(SeededRandomness(1, "noise", "client/0", 1))
    assert torch.equal(noise_of(SeededRandomness(1, "noise", "client/0", 1)), first_D)
    others = [SeededRandomness(1, "noise", "client/0", 2), SeededRandomness(1, "noise", "client/1", 1)]
    all_ND = torch.stack([first_D, *map(noise_of, [*others, OsRandomness(), OsRandomness()])])
    off_diagonal = torch.corrcoef(all_ND) - torch.eye(5)
    assert off_diagonal.abs().max() < 6 / math.sqrt(len(first_D))
