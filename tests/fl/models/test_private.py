from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from fl.config.build import build
from fl.models import private as models
from privacy.errors import ConfigError
from tests.composed import compose, workspace_of
from tests.fl.models.contract import Shape, gives_logits, keeps_examples_apart_and_learns

# features of Fashion-MNIST and of CIFAR-10
GREY = (81, 7, 7)
COLOUR = (243, 8, 8)
SMALL = (81, 2, 2)  # the shape of digits
MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
PIXELS = {"cnn_tanh": MNIST, "cnn_tanh_gn": MNIST, "cnn_tanh_cifar": CIFAR}
FEATURES = {"scatter_linear": GREY, "scatter_cnn": GREY}
MODELS = [*(PIXELS | FEATURES).items(), ("scatter_linear", COLOUR), ("scatter_cnn", COLOUR)]


def made(name: str, shape: Shape, classes: int = 10, *overrides: str) -> nn.Module:
    """Build a model as a run does: by Hydra, from the YAML."""
    return build(nn.Module, "model", node(name, *overrides), shape=shape, classes=classes)


@lru_cache
def node(name: str, *overrides: str) -> Any:
    return compose(f"model={name}", *overrides).model


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("cnn_tanh", MNIST, 26_010),  # as with ReLU
        ("cnn_tanh_gn", MNIST, 26_106),  # a scale and a shift for each of 16 + 32 channels
        ("cnn_tanh_cifar", CIFAR, 550_570),  # 3x3 filters 3-32-32-64-64-128-128, then 2048-128-10
        ("scatter_linear", GREY, 39_700),  # 10 (81 * 49 + 1)
        ("scatter_linear", COLOUR, 155_530),  # 10 (243 * 64 + 1)
        ("scatter_cnn", GREY, 33_066),  # 3x3 filters 81-16-32, then 512-32-10
        ("scatter_cnn", COLOUR, 187_210),  # 3x3 filters 243-64-64, then 1024-10
        ("scatter_linear", SMALL, 3_250),
        ("scatter_cnn", SMALL, 17_706),
    ],
)
def test_parameters(name: str, shape: Shape, parameters: int) -> None:
    assert sum(p.numel() for p in made(name, shape).parameters()) == parameters


@pytest.mark.parametrize(("name", "shape"), MODELS)
@pytest.mark.parametrize("classes", [2, 62])
def test_logits(name: str, shape: Shape, classes: int) -> None:
    odd = (shape[0], shape[1] + 2, shape[2] + 5)
    for size in (shape, odd):
        gives_logits(made(name, size, classes), size, classes)


@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_examples_do_not_mix_and_all_weights_learn(name: str, shape: Shape) -> None:
    torch.manual_seed(1)
    keeps_examples_apart_and_learns(made(name, shape), torch.rand(4, *shape))


@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_per_example_gradients_are_those_of_one_example_at_a_time(name: str, shape: Shape) -> None:
    from opacus import GradSampleModule

    torch.manual_seed(2)
    model = made(name, shape)
    images = torch.rand(3, *shape)
    labels = torch.tensor([0, 4, 9])
    alone = []
    for image, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        alone.append(torch.autograd.grad(loss, list(model.parameters())))
    together = GradSampleModule(model, strict=True, loss_reduction="sum")
    logits = together(images.requires_grad_())  # else torch warns that a hook saw no gradient of its input
    nn.functional.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    for parameter, gradients in zip(together.parameters(), zip(*alone, strict=True), strict=True):
        assert torch.allclose(parameter.grad_sample, torch.stack(gradients), atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_activations_are_bounded(name: str, shape: Shape) -> None:
    """Tanh, and no ReLU."""
    kinds = {type(layer) for layer in made(name, shape).modules()}
    assert nn.ReLU not in kinds
    assert (nn.Tanh in kinds) is (name != "scatter_linear")


def test_strides_and_sizes_are_those_published() -> None:
    """Other layouts have as many parameters: 3x3 with stride 2 and then 1, on 7x7; the colour one pools in between."""
    grey = made("scatter_cnn", GREY)
    sizes = []
    x = torch.rand(1, *GREY)
    for layer in grey.children():
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 4, 4), (32, 4, 4)]
    kinds = [type(layer).__name__ for layer in made("scatter_cnn", COLOUR).children()]
    assert kinds == ["GroupNorm", "Conv2d", "Tanh", "MaxPool2d", "Conv2d", "Tanh", "Flatten", "Linear"]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("groups", [9, 27, 81])
def test_features_are_normalised_within_an_example(name: str, groups: int) -> None:
    """Mean 0 and deviation 1 in each group of each example, independent of the other examples."""
    norm = next(made(name, GREY, 10, f"model.groups={groups}").children())
    features = 0.1 * torch.rand(5, *GREY) * torch.arange(1, 6).reshape(-1, 1, 1, 1)
    rows = norm(features).reshape(5, groups, -1).detach().double()
    assert torch.allclose(rows.mean(-1), torch.zeros(5, groups, dtype=torch.float64), atol=1e-5)
    raw = features.reshape(5, groups, -1).double()
    expected = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_pixels_are_refused(name: str) -> None:
    for overrides in ("data.features=none",), ("data.features=none", "data.name=digits"):
        with pytest.raises(ConfigError) as refused:
            workspace_of(f"model={name}", *overrides)
        expected = f"model={name}: takes features, not 1x8x8 pixels; set data.features=scattering"
        assert str(refused.value) == expected


def test_what_is_too_small_or_does_not_divide_is_refused() -> None:
    for name, model in (("cnn_tanh", models.CnnTanh), ("cnn_tanh_gn", models.CnnTanhGn)):
        line = rf"^model={name}: has no room for its second convolution on images of 8x8, needs 14x14"
        with pytest.raises(ConfigError, match=line):
            model((1, 8, 8), 10)
    with pytest.raises(ConfigError, match=r"^model=cnn_tanh_cifar: needs images of at least 8x8, not 7x9"):
        models.CnnTanhCifar((3, 7, 9), 10)
    with pytest.raises(ConfigError, match=r"^model=scatter_cnn: needs colour images of at least 8x8"):
        models.ScatterCnn((243, 1, 8), 10)
    with pytest.raises(ConfigError, match=r"81.* divisible by .*5") as refused:
        made("scatter_linear", GREY, 10, "model.groups=5")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", FEATURES)
def test_the_model_alone_chooses_the_features(name: str) -> None:
    config = compose(f"model={name}", "data=fashion_mnist")
    assert (config.data.features, config.data.name) == ("scattering", "fashion_mnist")
    assert compose("model=cnn_tanh").data.features == "none"
