"""What people brought to other frameworks, and got a wrong number, silence or a traceback for: here each is right, or
refused in one line that names the key and the remedy.

Each case is the input that was reported elsewhere, made small. The right ones are compared with arithmetic by hand, or
with the same run without what was brought.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from PIL import Image

from privacy.errors import ConfigError, FedveilError
from tests.composed import examples_of, gradient_at, rows_in, run, workspace_of
from tests.fl.data.image_sets import examples
from tests.fl.models import brought as models
from tests.fl.models.zoo import Flat, WeightNorm

Overrides = tuple[str, ...]
Given = Overrides | Callable[[Path], Overrides]

DP = ("mechanism=dp_sgd", "training.weighting=uniform")
WHOLE = ("training.batch_size=5000",)  # more than any client holds: one step a round, on all of its examples
# full batches, no clipping and hardly any noise: DP-SGD takes the steps of plain training
BARE_DP = (
    *DP,
    *WHOLE,
    "mechanism.dp_sgd.clip=1000",
    "mechanism.dp_sgd.noise_multiplier=1e-8",
    "accountant=rdp",
    "noise=seeded",
)


# Data that were brought


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stack(pixels: np.ndarray[Any, Any]) -> bytes:
    """A TIFF file of three slices."""
    slices = [Image.fromarray(np.roll(pixels, shift, axis=1)) for shift in range(3)]
    buffer = io.BytesIO()
    slices[0].save(buffer, "TIFF", save_all=True, append_images=slices[1:])
    return buffer.getvalue()


TRAIN = examples(30, seed=1)[0]
TEST = examples(6, seed=2)[0]
THREE = [number % 3 for number in range(30)]


def split(file: Path, images: Sequence[Any], labels: Any, encode: Callable[[Any], bytes] = png) -> None:
    cells = pa.array([encode(image) for image in images], pa.binary())
    pq.write_table(pa.table({"image": cells, "label": labels}), file)


def brought(
    folder: Path,
    labels: Any = THREE,
    test: Sequence[Any] = TEST,
    kind: pa.DataType | None = None,
    encode: Callable[[Any], bytes] = png,
) -> Overrides:
    """Write 30 training images with these labels and some test images; return the overrides that name them."""
    column = pa.array(labels, kind)
    split(folder / "train.parquet", TRAIN, column, encode)
    split(folder / "test.parquet", test, column[: len(test)], encode)
    return ("data.name=mine", f"data.path={folder}")


DATA = [
    pytest.param(
        partial(brought, labels=[*THREE[:7], None, *THREE[8:]]),
        r"data\.label_column=label: .* has no value in row 7 of train: leave the row out, or fill it in",
        id="a label is missing in a column of integers",
    ),
    pytest.param(
        partial(brought, labels=[[0], [0, 1]] * 15),
        r"data\.label_column=label: .* has list<element: int64> there, not integers or strings: write one of either",
        id="several labels an image, not always as many",
    ),
    pytest.param(
        partial(brought, labels=list(map(float, THREE))),
        r"data\.label_column=label: .* has double there, not integers or strings: write one of either",
        id="class numbers that a table with gaps made floats",
    ),
    pytest.param(
        partial(brought, labels=[(7, 2**63 + 5, 2**64 - 1)[one] for one in THREE], kind=pa.uint64()),
        r"data\.label_column=label: .* has 9223372036854775813 in row 1 of train, above 2\^63 - 1: write .* as strings",
        id="hashes of 64 bits without a sign as labels",
    ),
    pytest.param(
        partial(brought, test=TEST[:0]),
        r"data\.test_split=test: .* has no examples there: choose another split",
        id="a test split without examples",
    ),
    pytest.param(
        partial(brought, test=TRAIN[[5, 17, 8, 2, 23]]),
        r"data\.test_split=test: .* has the same images in training and in the test split, all 5 of it: give",
        id="a test split that is a shuffled part of training",
    ),
    pytest.param(
        partial(brought, encode=stack),
        r"the image in row 0 of train holds 3 frames, of which one would be read: write each into a row of its own",
        id="stacks of slices, of which libraries read the first",
    ),
]


# Models that were brought


def model(kind: Any) -> str:
    return f"model._target_={kind.__module__}.{kind.__name__}"


MODELS = [
    pytest.param(
        (model(models.FeaturesInEvaluation),),
        r"model=FeaturesInEvaluation: its outputs in evaluation mode are float32 \(4, 16\) .*: they must be logits",
        id="features instead of logits in evaluation mode",
    ),
    pytest.param(
        (model(models.HeadsInEvaluation),),
        r"model=HeadsInEvaluation: its outputs in evaluation mode are a tuple: they must be logits",
        id="two outputs in evaluation mode",
    ),
    pytest.param(
        (model(models.SoftmaxAtTheEnd),),
        r"model=SoftmaxAtTheEnd: its outputs are probabilities, .*: leave the softmax out, as the loss has its own",
        id="a softmax before the loss",
    ),
    pytest.param(
        (model(models.SoftmaxInEvaluation),),
        r"model=SoftmaxInEvaluation: its outputs in evaluation mode are probabilities, .*: leave the softmax out",
        id="a softmax in evaluation mode",
    ),
    pytest.param(
        (model(models.DropoutThatIsNeverOff),),
        r"model=DropoutThatIsNeverOff: its outputs in evaluation mode are drawn at random: use nn\.Dropout, or",
        id="dropout that evaluation does not switch off",
    ),
    *(
        pytest.param(
            (model(models.LayersInAList), *options),
            r"model=LayersInAList: hidden holds what is no part of it, so nothing trains that: use nn\.ModuleList",
            id=f"layers in a list of Python's{name}",
        )
        for name, options in (("", ()), (" under DP-SGD", DP))
    ),
    pytest.param(
        (model(models.KeptHiddenState),),
        r"model=KeptHiddenState: training changes attributes .* that its outputs depend on, which no sum carries",
        id="a hidden state that is kept from batch to batch",
    ),
    pytest.param(
        (model(models.NotANumber),),
        r"model=NotANumber: its outputs hold NaN on random examples, before any training",
        id="outputs that are no numbers from the start",
    ),
    pytest.param(
        (model(models.scripted), *DP),
        r"model=RecursiveScriptModule: TorchScript takes no hooks, .*: leave torch\.jit out",
        id="a scripted model under DP-SGD",
    ),
    pytest.param(
        (model(models.FormerWeightNorm), *DP),
        r"model=FormerWeightNorm: cannot be copied, .*; use torch\.nn\.utils\.parametrizations\.weight_norm",
        id="the former weight norm under DP-SGD",
    ),
]


# Settings that were brought

TARGET = (*DP, "mechanism.dp_sgd.noise_multiplier=null")
SETTINGS = [
    pytest.param(
        ("data.partition=dirichlet", "data.alpha=0.001", "clients=50"),
        r"data\.alpha=0\.001: leaves some of clients=50 empty; data\.alpha=.* works for them",
        id="a Dirichlet partition that elsewhere is drawn for ever",
    ),
    pytest.param(
        ("secure_sum=secagg", "secure_sum.bound=0"),
        r"secure_sum\.bound=0: must be a finite number above 0",
        id="a clipping range of zero",
    ),
    pytest.param(
        ("training.lr=1e38",),
        r"client/0 dropped out: .* holds NaN or infinity \(where training diverged, lower training\.lr\)",
        id="a rate at which every update is NaN",
    ),
    pytest.param(
        (*TARGET, "mechanism.dp_sgd.target_epsilon=0.001"),
        r"target_epsilon=0\.001: the smallest epsilon of accountant=prv at delta=1e-05 is .*, whatever the noise",
        id="an epsilon that no noise reaches",
    ),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("given", "told"), [*DATA, *MODELS, *SETTINGS])
def test_what_cannot_be_right_is_refused_in_one_line(given: Given, told: str, tmp_path: Path) -> None:
    overrides = given(tmp_path) if callable(given) else given
    with pytest.raises(FedveilError, match=told) as refused:
        run(tmp_path / "run", *overrides)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, ConfigError) or "dropped out" in told


# What is right


def weights(folder: Path, *overrides: str) -> np.ndarray[Any, Any]:
    return run(folder, *overrides).weights_D.double().numpy()


def descent(*rates: float) -> np.ndarray[Any, Any]:
    """Softmax regression after steps of these rates on all examples, in float64 by hand."""
    work = workspace_of(*WHOLE)
    flat_D = work.initial_D.double().numpy()
    for rate in rates:
        flat_D = flat_D - rate * gradient_at(flat_D, *examples_of(work))
    return flat_D


def gaussian_epsilon(sigma: float, steps: int, delta: float) -> float:
    """Epsilon of steps on all records (Balle and Wang 2018, theorem 8): they are one Gaussian, of a smaller sigma."""
    mu = math.sqrt(steps) / sigma
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        phi = NormalDist().cdf
        spent = phi(mu / 2 - middle / mu) - math.exp(middle) * phi(-mu / 2 - middle / mu)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


def largest_epsilon(folder: Path) -> float:
    rows = rows_in(folder)
    return float(rows.filter((rows["metric"] == "epsilon_record") & (rows["where"] == "server"))["value"].max())


def whole_batches_under_dp(folder: Path) -> tuple[float, float]:
    run(folder, *DP, *WHOLE)
    return largest_epsilon(folder), gaussian_epsilon(sigma=1.0, steps=2, delta=1e-5)


def a_large_epsilon(folder: Path) -> tuple[float, float]:
    """What dp-accounting's PLD says of the noise that was solved for the target, and the target."""
    overrides = (*TARGET, "mechanism.dp_sgd.target_epsilon=15", "training.batch_size=120", "rounds=1")
    (mechanism,) = workspace_of(*overrides).plan.backend.mechanisms
    step = PoissonSampledDpEvent(1 / 3, GaussianDpEvent(mechanism.noise_multiplier))  # 360 examples a client, or 359
    return PLDAccountant().compose(SelfComposedDpEvent(step, 3)).get_epsilon(1e-5), 15.0


def pair(one: Overrides, other: Overrides) -> Callable[[Path], tuple[Any, Any]]:
    """Weights of two runs, which have to agree."""
    return lambda folder: (weights(folder / "one", *one), weights(folder / "other", *other))


def by_hand(rates: Sequence[float], *overrides: str) -> Callable[[Path], tuple[Any, Any]]:
    """Weights of a run on whole batches, and those after steps of these rates."""
    return lambda folder: (weights(folder, *WHOLE, *overrides), descent(*rates))


def as_without_dp(kind: Any) -> Callable[[Path], tuple[Any, Any]]:
    return pair((model(kind), *BARE_DP), (model(kind), *WHOLE, "training.weighting=uniform"))


SEEDED_DP = (*DP, "noise=seeded", "mechanism.dp_sgd.mode=ghost")
RIGHT = [
    pytest.param(by_hand((0.05, 0.05)), 1e-6, id="batches larger than what a client holds"),
    pytest.param(
        by_hand((0.05, 0.05), "training.optimizer.momentum=0.9"),
        1e-6,
        id="momentum, which no client keeps from round to round",
    ),
    pytest.param(
        by_hand((0.05, 0.025), "training/schedule=step", "training.schedule.step_size=1"),
        1e-6,
        id="a schedule that goes on from round to round",
    ),
    pytest.param(whole_batches_under_dp, 1e-2, id="a sampling rate of one under DP-SGD"),
    pytest.param(a_large_epsilon, 1e-2, id="a target epsilon above ten"),
    pytest.param(as_without_dp(models.FrozenBackbone), 1e-5, id="a frozen BatchNorm under DP-SGD"),
    pytest.param(as_without_dp(models.FrozenWeightLearnedBias), 1e-5, id="half a layer frozen under DP-SGD"),
    pytest.param(as_without_dp(models.LearnedToken), 1e-5, id="a parameter beside all layers under DP-SGD"),
    pytest.param(pair((model(models.compiled),), (model(Flat),)), 1e-6, id="a compiled model"),
    pytest.param(
        pair((model(models.compiled), *SEEDED_DP), (model(Flat), *SEEDED_DP)),
        1e-6,
        id="a compiled model under DP-SGD",
    ),
    pytest.param(
        pair((model(models.in_parallel), *SEEDED_DP), (model(Flat), *SEEDED_DP)),
        1e-6,
        id="a parallel model under DP-SGD",
    ),
    pytest.param(pair((model(models.FormerWeightNorm),), (model(WeightNorm),)), 1e-6, id="the former weight norm"),
    pytest.param(
        pair((model(models.HiddenTeacher),), (model(Flat),)), 1e-6, id="a frozen teacher in a list of Python's"
    ),
]


@pytest.mark.parametrize(("outcome", "tolerance"), RIGHT)
def test_what_looks_odd_gives_the_right_number(
    outcome: Callable[[Path], tuple[Any, Any]], tolerance: float, tmp_path: Path
) -> None:
    got, expected = outcome(tmp_path)
    assert np.abs(np.asarray(got) - expected).max() <= tolerance * np.abs(expected).max()
