"""What people bring: their data, models and settings. Each line is refused by name, or gives the number beside it.

The letters group the kinds: A labels, B folders, C what no sum carries, D what is not trained, E half precision,
F bounds far above the data, G values that are cut, H models, I messages, L training, M accountants, N changed data.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from experiments.hydra.compose import composed
from experiments.hydra.error_lines import one_line
from fl.data import image_data
from fl.data.image_data import load_data
from fl.evaluation import score
from privacy.errors import FedveilError
from tests.composed import run_with_set_up, vector_of, workspace_of
from tests.fl.data.image_sets import encoded, examples, node, write_idx, write_parquet

pytestmark = pytest.mark.usefixtures("machine_without_data")

DP = ("mechanism=dp_sgd", "noise=seeded", "accountant=rdp")
CLIENT_DP = ("mechanism=client_dp", "noise=seeded", "accountant=rdp", "delta=1e-2")


@pytest.fixture
def machine_without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))


# ---- what is brought


def labelled(train: list[Any], test: list[Any], **keys: Any) -> Callable[[Path], Any]:
    """Load two splits with these labels."""

    def load(folder: Path) -> Any:
        for split, labels, seed in (("train", train, 1), ("test", test, 2)):
            write_parquet(folder / f"{split}.parquet", examples(len(labels), seed=seed)[0], labels=labels)
        return load_data(node(path=str(folder), **keys))

    return load


def folder_of(*names: str, copies: int = 1, **keys: Any) -> Callable[[Path], Any]:
    """Load a folder with files of these names, 20 examples each."""

    def load(folder: Path) -> Any:
        for seed, name in enumerate(names):
            write_parquet(folder / name, examples(20, seed=seed)[0], labels=examples(20)[1])
        return load_data(node(path=str(folder), **keys))

    return load


def roots_of_torchvision(folder: Path) -> Any:
    for name in ("MNIST", "FashionMNIST"):
        for split in ("train", "t10k"):
            images, labels = examples(20)
            write_idx(folder / name / "raw" / f"{split}-images-idx3-ubyte", images)
            write_idx(folder / name / "raw" / f"{split}-labels-idx1-ubyte", np.array(labels))
    return load_data(node(path=str(folder)))


def other_mnist(folder: Path) -> Any:
    for seed, (split, count) in enumerate({"train": 60_000, "t10k": 10_000}.items()):
        rows = np.random.default_rng(seed).integers(0, 256, (count, 28), dtype=np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte", np.repeat(rows[:, None], 28, axis=1))
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(count) % 10)
    return load_data(node("mnist", path=str(folder)))


def images_of(*images: np.ndarray[Any, Any]) -> Callable[[Path], Any]:
    """Load a split of these images."""

    def load(folder: Path) -> Any:
        write_parquet(
            folder / "train.parquet",
            [encoded(one, "PNG") for one in images],
            labels=[i % 2 for i in range(len(images))],
        )
        return load_data(node(path=str(folder)))

    return load


def loose_pictures(folder: Path) -> Any:
    Image.fromarray(examples(1)[0][0]).save(folder / "cat.png")
    return load_data(node(path=str(folder)))


def setting(*overrides: str) -> Callable[[Path], Any]:
    """Build a workspace, and try its model."""

    def build(_: Path) -> Any:
        try:
            work = workspace_of(*overrides)
        except FedveilError:
            raise
        except Exception as error:
            raise FedveilError(one_line(error, overrides)) from error
        work.try_model()
        return work

    return build


def model(name: str, *overrides: str) -> Callable[[Path], Any]:
    return setting(f"model._target_=tests.fl.models.zoo.{name}", *overrides)


def typed(*overrides: str) -> Callable[[Path], Any]:
    """Compose as the command line does."""

    def compose(_: Path) -> Any:
        try:
            return composed(overrides)
        except Exception as error:
            raise FedveilError(one_line(error, overrides)) from error

    return compose


def run_of(*overrides: str) -> Callable[[Path], Any]:
    return lambda folder: run_with_set_up(folder, *overrides)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "A: test labels are all -1": (labelled([0, 1] * 10, [-1] * 6), "the label -1, the mark of an unlabelled example"),
    "A: strings in training, integers in test": (labelled(["a", "b"] * 10, [0, 1]), "strings .* integers"),
    "A: a test class that training lacks": (
        labelled([0, 1] * 10, [0, 7]),
        r"training lacks, 7 \(1 example\).*leave_out",
    ),
    "A: training labels are all the same": (labelled([3] * 20, [3] * 6), "has one label in training, 3"),
    "B: two sets under one folder": (roots_of_torchvision, "data.config=None: .* holds several sets, choose one of"),
    "B: two configurations of the hub": (
        folder_of("one/train.parquet", "one/test.parquet", "two/train.parquet", "two/test.parquet"),
        "data.config=None: .* choose one of one .* two",
    ),
    "B: shards 0 and 2 of 3": (
        folder_of("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"),
        r"the split train lacks shard 1 of 3",
    ),
    "B: an old copy in a subfolder": (folder_of("train.parquet", "old/train.parquet"), "holds several sets|two"),
    "B: another set under the name of MNIST": (other_mnist, "other numbers of each label"),
    "C: a counter that outputs depend on": (
        model("Steps"),
        "model=Steps: training changes steps, which no sum carries",
    ),
    "C: complex weights under dp_sgd": (model("Complex", *DP), "model=Complex: turn is complex"),
    "D: all is frozen": (model("AllFrozen"), "AllFrozen: it has nothing to train"),
    "D: running means under client_dp": (model("BatchNorm", *CLIENT_DP), "training changes between.running_mean"),
    "F: a bound far above the data": (
        setting("secure_sum=secagg", "training.max_weight=2000000000"),
        r"training.max_weight=2000000000: secagg has .* at most \d+",
    ),
    "F: a grid that is too coarse": (
        setting("secure_sum=pad", "secure_sum.value_bits=4"),
        r"secure_sum.value_bits=4: .* at least \d",
    ),
    "G: most values are cut": (
        run_of("secure_sum=secagg", "training.lr=50", "clients=10"),
        "secure_sum.bound",
    ),
    "H: tied weights under ghost clipping": (
        model("Tied", *DP, "mechanism.dp_sgd.mode=ghost"),
        "mechanism.dp_sgd.mode=ghost: .*; choose mode=auto",
    ),
    "H: a tuple of outputs": (model("Tuple"), "model=Tuple: its outputs are a tuple: they must be logits"),
    "H: two inputs": (model("TwoInputs"), "model=TwoInputs: .*'others'"),
    "H: too many logits": (model("TooWide"), r"model=TooWide: its outputs are float32 \(4, 11\)"),
    "H: a lazy layer that no input reaches": (model("UnreachedLazy"), "model=UnreachedLazy: no input reaches beside"),
    "H: BatchNorm and a last batch of one": (
        model("BatchNorm", "training.batch_size=358"),
        "model=BatchNorm: cannot be trained on a batch of one",
    ),
    "H: BatchNorm under dp_sgd": (model("BatchNorm", *DP), "model=BatchNorm: BatchNorm cannot .*: take GroupNorm"),
    "H: FedProx under dp_sgd": (setting(*DP, "training.proximal_mu=0.1"), "training.proximal_mu=0.1: FedProx's term"),
    "I: an LSTM under dp_sgd": (model("Lstm", *DP), "model=Lstm: .*mechanism.dp_sgd.swap_layers=true puts another"),
    "I: grey beside colour": (
        images_of(*examples(3)[0], np.zeros((6, 5, 3), np.uint8)),
        "grey in row 0 and colour in row 3: make all grey or all colour",
    ),
    "I: a folder of pictures": (loose_pictures, "png|PNG"),
    "I: 12 bits in files of 16": (
        images_of(*(np.full((6, 5), 4095 - i, np.uint16) for i in range(4))),
        "have 16 bits, and use less than a sixteenth of their range",
    ),
    "H: outputs of another shape on a batch of one": (
        run_of("model._target_=tests.fl.models.brought.Squeezed", "server.evaluate_batch=359"),
        r"model=Squeezed: its outputs on a batch of 1 test examples are of the shape \(10,\)",
    ),
    "I: dpsgd for dp_sgd": (typed("privacy=dpsgd"), "did you mean dp_sgd"),
    "I: a key of the mechanism one level up": (
        typed("mechanism=dp_sgd", "mechanism.noise_multiplier=1"),
        "did you mean mechanism.dp_sgd.noise_multiplier",
    ),
    "I: a key below a single value": (typed("noise.noise_multiplier=1.0"), "noise is a single value, without keys"),
    "L: bf16 under dp_sgd": (setting(*DP, "training.precision=bf16"), "training.precision=bf16: rounds the gradients"),
    "L: accumulated steps under dp_sgd": (
        setting(*DP, "training.accumulate=2"),
        "training.accumulate=2: a step of DP-SGD",
    ),
    "L: weights of too few classes": (
        setting("training.class_weights=[1,2]"),
        "training.class_weights=2 numbers: must hold one weight for each of the 10 classes",
    ),
    "L: scores of clients beside an epsilon": (
        setting(*DP, "runtime.client_evaluation=true"),
        "runtime.client_evaluation=true: .*runtime.client_diagnostics=true",
    ),
    "L: a rate below zero": (
        setting("training/schedule=cosine", "training.schedule.T_max=1", "training.schedule.eta_min=-0.1"),
        "training.schedule=.*CosineAnnealingLR: gives the learning rate -0.1 in round 2",
    ),
    "L: a sampling rate that nobody samples at": (
        setting("training.sample_rate=0.1"),
        "training.sample_rate=0.1: no mechanism here samples examples",
    ),
    "M: an epsilon out of reach": (
        setting(*DP, "mechanism.dp_sgd.noise_multiplier=null", "mechanism.dp_sgd.target_epsilon=1e-9"),
        "mechanism.dp_sgd.target_epsilon=1e-09: ",
    ),
    "M: pld at a tiny delta": (
        run_of("mechanism=dp_sgd", "accountant=pld", "delta=1e-15"),
        r"accountant=pld: .*delta=1e-15 is below its precision of 1e-10\); use accountant=rdp",
    ),
}


@pytest.mark.parametrize("brought", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(brought: str, tmp_path: Path) -> None:
    bring, said = REFUSED[brought]
    with pytest.raises(FedveilError, match=said) as refusal:
        bring(tmp_path)
    assert "\n" not in str(refusal.value)


# ---- numbers


def unseen_left_out(folder: Path) -> tuple[Any, Any]:
    data = labelled([3, 8] * 10, [8, 3, 7], unseen_labels="leave_out")(folder)
    return (data.classes, data.test.labels.tolist()), (2, [1, 0])


def hidden_file(folder: Path) -> tuple[Any, Any]:
    (folder / "._train.parquet").write_bytes(b"no parquet")
    return len(folder_of("train.parquet", "test.parquet")(folder).train.labels), 20


def frozen_layer(_: Path) -> tuple[Any, Any]:
    work = workspace_of("model._target_=tests.fl.models.zoo.Frozen", *CLIENT_DP)
    trained = sum(one.numel() for one in work.model.parameters() if one.requires_grad)
    return len(work.initial_D), trained


def counting_batch_norm(_: Path) -> tuple[Any, Any]:
    """The second client of a process answers as the first of another does."""
    options = ("model._target_=tests.fl.models.zoo.CountingBatchNorm", "training.batch_size=15")
    shared, alone = workspace_of(*options), workspace_of(*options)
    vector_of(shared, 0)
    return vector_of(shared, 1).tolist(), vector_of(alone, 1).tolist()


def half_precision(_: Path) -> tuple[Any, Any]:
    work = workspace_of("model._target_=tests.fl.models.zoo.Narrow")
    return work.client_optimizer(work.parameters, lr=0.1).defaults["fused"], False


def far_bound_of_ckks(_: Path) -> tuple[Any, Any]:
    """A sum that is fine enough takes any bound: the weight of the largest client is its share."""
    work = workspace_of("secure_sum=ckks", "training.max_weight=3600000")
    return work.plan.weight(0), pytest.approx(len(work.plan.partitions[0]) / 3_600_000)


def tiny_delta(_: Path) -> tuple[Any, Any]:
    """RDP's conversion, minimised over its orders by hand: a step of q = 1 costs a / (2 s^2)."""
    from privacy.accounting import charges
    from privacy.accounting.epsilon import epsilon

    told = epsilon(charges.poisson_steps(8.0, 1.0, 1), 1e-15, "rdp")
    orders = np.arange(1.01, 400, 0.01)
    by_hand = orders / (2 * 64) + np.log1p(-1 / orders) - (np.log(1e-15) + np.log(orders)) / (orders - 1)
    return told, pytest.approx(by_hand.min(), rel=0.01)


def repaired_in_place(folder: Path) -> tuple[Any, Any]:
    first = labelled([0, 1] * 10, [0, 1])(folder).fingerprint
    image_data._load.cache_clear()  # as in the next process
    second = labelled([0, 1] * 9 + [1, 1], [0, 1])(folder).fingerprint
    return first != second, True


def swapped_lstm(_: Path) -> tuple[Any, Any]:
    private = workspace_of("model._target_=tests.fl.models.zoo.Lstm", *DP, "mechanism.dp_sgd.swap_layers=true")
    plain = workspace_of("model._target_=tests.fl.models.zoo.Lstm")
    images = plain.data.normalise(plain.data.test.images[:5])
    with torch.no_grad():
        outputs = [work.model.eval()(images).numpy() for work in (private, plain)]
    return outputs[0], pytest.approx(outputs[1], abs=1e-6)


def temperature(_: Path) -> tuple[Any, Any]:
    """A parameter without dimensions: all examples drawn, none clipped, almost no noise."""
    model = "model._target_=tests.fl.models.brought.Temperature"
    quiet = ("mechanism.dp_sgd.noise_multiplier=1e-9", "mechanism.dp_sgd.clip=1e3", "training.batch_size=10000")
    private = vector_of(workspace_of(model, *DP, *quiet), 1)
    return private, pytest.approx(vector_of(workspace_of(model, quiet[2], "training.weighting=uniform"), 1), abs=1e-6)


def half_logits(folder: Path) -> tuple[Any, Any]:
    """Their losses are added up in float32."""
    work = workspace_of("model._target_=tests.fl.models.brought.HalfOutputs")
    test = work.data.test
    with torch.no_grad():
        logits = work.model.eval()(work.data.normalise(test.images)).double()
    return score(work, test)["loss"], pytest.approx(float(cross_entropy(logits, test.labels)), abs=1e-5)


RIGHT = {
    "H: a parameter without dimensions under dp_sgd": temperature,
    "E: outputs in bfloat16 are scored in float32": half_logits,
    "A: a test class that training lacks, left out": unseen_left_out,
    "B: macOS's hidden file beside a split": hidden_file,
    "C: a counter of BatchNorm": counting_batch_norm,
    "D: a frozen layer under client_dp": frozen_layer,
    "E: bfloat16 and the fused step": half_precision,
    "F: a far bound on weights under ckks": far_bound_of_ckks,
    "I: an LSTM that dp_sgd swaps": swapped_lstm,
    "M: rdp at a tiny delta": tiny_delta,
    "N: data that were repaired in place": repaired_in_place,
}


@pytest.mark.parametrize("brought", RIGHT)
def test_what_can_be_right_is_right(brought: str, tmp_path: Path) -> None:
    found, expected = RIGHT[brought](tmp_path)
    assert found == expected
