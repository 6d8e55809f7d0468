from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from privacy.errors import ConfigError
from tests.fl.models.contract import Shape, gives_logits, keeps_examples_apart_and_learns

CONFIGS = Path(__file__).parents[3] / "configs" / "model"
NAMES = ("cnn", "cnn_mcmahan", "lenet", "logistic", "mlp", "moderate_cnn", "resnet18_gn")
PRIVATE = (
    "cnn_tanh",
    "cnn_tanh_cifar",
    "cnn_tanh_gn",
    "scatter_cnn",
    "scatter_linear",
)  # see test_private_models.py
DIGITS = (1, 8, 8)
MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
SHAPES = (DIGITS, MNIST, CIFAR, (3, 33, 47))
TOO_SMALL = {("cnn", DIGITS)}


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """Build a model as a run does: by Hydra, from the YAML."""
    model = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), shape=shape, classes=classes)
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("logistic", MNIST, 10, 7_850),
        ("mlp", MNIST, 10, 199_210),  # McMahan et al. 2017
        ("cnn", MNIST, 10, 26_010),  # Opacus
        ("lenet", CIFAR, 100, 88_648),  # FedML-HE
        ("cnn_mcmahan", MNIST, 10, 1_663_370),  # McMahan et al. 2017
        ("moderate_cnn", CIFAR, 10, 3_491_530),  # 3 x 3 x 3 x 32 + 32 and so on, by hand from NVIDIA FLARE's layers
        ("resnet18_gn", CIFAR, 10, 11_173_962),  # as with BatchNorm, which has the same number of scales and shifts
        ("logistic", DIGITS, 10, 650),
        ("mlp", DIGITS, 10, 55_210),
        ("lenet", MNIST, 10, 17_038),
    ],
)
def test_parameters(name: str, shape: Shape, classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in build(name, shape, classes).parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [2, 62])
def test_logits(name: str, shape: Shape, classes: int) -> None:
    if (name, shape) in TOO_SMALL:
        pytest.skip("has no room, which another test checks")
    gives_logits(build(name, shape, classes), shape, classes)


@pytest.mark.parametrize("name", NAMES)
def test_examples_do_not_mix_and_all_weights_learn(name: str) -> None:
    torch.manual_seed(1)
    keeps_examples_apart_and_learns(build(name, MNIST, 10), torch.randn(4, *MNIST))


@pytest.mark.parametrize("name", NAMES)
def test_per_example_gradients_can_be_taken(name: str) -> None:
    """Opacus admits the model, and its hooks see every weight: in-place operations would stop them."""
    from opacus import GradSampleModule

    model = GradSampleModule(build(name, MNIST, 10), strict=True)
    model(torch.randn(2, *MNIST, requires_grad=True)).sum().backward()
    assert all(p.grad_sample.shape == (2, *p.shape) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "window", "least"),
    [
        ("cnn", DIGITS, "second convolution", 14),
        ("cnn", (1, 28, 13), "second pooling", 14),
        ("cnn_mcmahan", (1, 3, 3), "second pooling", 4),
    ],
)
def test_an_image_that_is_too_small(name: str, shape: Shape, window: str, least: int) -> None:
    with pytest.raises(Exception, match="has no room") as caught:
        build(name, shape, 10)
    cause = caught.value.__cause__  # Hydra wraps the exception of a target
    assert isinstance(cause, ConfigError)
    size = f"{shape[1]}x{shape[2]}"
    assert str(cause).startswith(
        f"model={name}: has no room for its {window} on images of {size}, needs {least}x{least}"
    )
    build(name, (1, least, least), 10)(torch.zeros(1, 1, least, least))
    with pytest.raises(RuntimeError):  # torch itself has no room below that either
        build(name, (1, least, least), 10)(torch.zeros(1, 1, least - 1, least - 1))


def test_every_model_has_its_config() -> None:
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == {*NAMES, *PRIVATE}


def test_strides_of_lenet() -> None:
    """The strides of models/vision.py of the DLG code; other orders have the same number of parameters."""
    convolutions = [layer for layer in build("lenet", CIFAR, 100).modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.stride for layer in convolutions] == [(2, 2), (2, 2), (1, 1), (1, 1)]
