"""Models in pure torch, without BatchNorm, whose statistics cross examples, which per-example clipping forbids.

A model is a class that takes `shape`, (C, H, W) of an image, and `classes`; a YAML file of `configs/model/` names
it. It maps images (N, C, H, W) to logits (N, classes), float32, and raises ConfigError for a shape it cannot take.
Weights start as torch's defaults, from the global generator.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from privacy.errors import ConfigError

Shape = Sequence[int]  # (C, H, W)


class Window(NamedTuple):
    """The sizes of a convolution or a pooling."""

    name: str
    kernel: int
    stride: int
    padding: int

    def of(self, size: int) -> int:
        """Return the output size along one axis; below 1 where the window does not fit."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


def _features(model: str, shape: Shape, windows: Sequence[Window]) -> int:
    """Return the number of positions of an image that remain after the windows.

    Raises:
        ConfigError: a window does not fit; the message names it and the smallest image that would do.
    """
    _, height, width = shape
    for window in windows:
        if min(window.of(height), window.of(width)) < 1:
            least = next(size for size in range(1, 1000) if _fits(size, windows))
            raise ConfigError.of(
                "model",
                model,
                f"has no room for its {window.name} on images of {shape[1]}x{shape[2]}, needs {least}x{least}; "
                "choose model=mlp or model=resnet18_gn",
            )
        height = window.of(height)
        width = window.of(width)
    return height * width


def _fits(size: int, windows: Sequence[Window]) -> bool:
    for window in windows:
        size = window.of(size)
        if size < 1:
            return False
    return True


class Logistic(nn.Sequential):
    """Multinomial logistic regression on the pixels."""

    def __init__(self, shape: Shape, classes: int) -> None:
        channels, height, width = shape
        super().__init__(nn.Flatten(), nn.Linear(channels * height * width, classes))


class Mlp(nn.Sequential):
    """Two hidden layers of `units`; with 200, the 2NN of McMahan et al. 2017 (arXiv:1602.05629), section 3.

    With 200 units it has 199,210 parameters on MNIST.

    Raises:
        ConfigError: `units` is below 1.
    """

    def __init__(self, shape: Shape, classes: int, units: int = 200) -> None:
        if units < 1:
            raise ConfigError.of("model.units", units, "must be at least 1")
        hidden = nn.Linear(math.prod(shape), units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()
        super().__init__(nn.Flatten(), *hidden, nn.Linear(units, classes))


CNN_WINDOWS = (
    Window("first convolution", 8, 2, 3),
    Window("first pooling", 2, 1, 0),
    Window("second convolution", 4, 2, 0),
    Window("second pooling", 2, 1, 0),
)


def cnn_layers(model: str, shape: Shape, classes: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Make the layers of the CNN of Papernot et al. 2021 (arXiv:2007.14191): 26,010 parameters on MNIST.

    `activation` replaces the paper's tanh.

    Raises:
        ConfigError: the images are too small; the message names `model`.
    """
    features = 32 * _features(model, shape, CNN_WINDOWS)
    first = nn.Conv2d(shape[0], 16, 8, stride=2, padding=3), activation(), nn.MaxPool2d(2, stride=1)
    second = nn.Conv2d(16, 32, 4, stride=2), activation(), nn.MaxPool2d(2, stride=1)
    return [*first, *second, nn.Flatten(), nn.Linear(features, 32), activation(), nn.Linear(32, classes)]


class Cnn(nn.Sequential):
    """The CNN of Opacus' MNIST example (examples/mnist.py, SampleConvNet): `cnn_layers` with ReLU."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__(*cnn_layers("cnn", shape, classes, nn.ReLU))


class LeNet(nn.Sequential):
    """The sigmoid LeNet of Deep Leakage from Gradients (Zhu et al. 2019, arXiv:1906.08935; models/vision.py there).

    88,648 parameters for 3x32x32 and 100 classes. The paper's code draws all weights uniformly from [-0.5, 0.5], for
    its attack on an untrained model. Here the weights start as torch's defaults, because the model is trained.
    """

    WINDOWS = tuple(Window(f"convolution {i + 1}", 5, stride, 2) for i, stride in enumerate((2, 2, 1, 1)))

    def __init__(self, shape: Shape, classes: int) -> None:
        features = 12 * _features("lenet", shape, self.WINDOWS)
        layers: list[nn.Module] = []
        for channels, window in zip((shape[0], 12, 12, 12), self.WINDOWS, strict=True):
            layers += [nn.Conv2d(channels, 12, 5, stride=window.stride, padding=2), nn.Sigmoid()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, classes))


class CnnMcMahan(nn.Sequential):
    """The CNN of McMahan et al. 2017 (arXiv:1602.05629), section 3: 1,663,370 parameters on MNIST.

    FedML-HE (Jin et al. 2023, arXiv:2303.10837) measures its overheads on this model.
    """

    WINDOWS = (Window("first pooling", 2, 2, 0), Window("second pooling", 2, 2, 0))

    def __init__(self, shape: Shape, classes: int) -> None:
        features = 64 * _features("cnn_mcmahan", shape, self.WINDOWS)
        first = nn.Conv2d(shape[0], 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
        second = nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, classes))


class ModerateCnn(nn.Sequential):
    """The ModerateCNN of NVIDIA FLARE's CIFAR-10 examples (examples/advanced/cifar10/pt/src/model.py), after FedMA.

    3,491,530 parameters for 3x32x32 and 10 classes: six 3x3 convolutions in three blocks, three dense layers, dropout.
    """

    WINDOWS = tuple(Window(f"{name} pooling", 2, 2, 0) for name in ("first", "second", "third"))

    def __init__(self, shape: Shape, classes: int) -> None:
        features = 256 * _features("moderate_cnn", shape, self.WINDOWS)
        layers: list[nn.Module] = []
        channels_in = shape[0]
        for channels in ((32, 64), (128, 128), (256, 256)):
            for channels_out in channels:
                layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU()]
                channels_in = channels_out
            layers.append(nn.MaxPool2d(2))
        layers.insert(-5, nn.Dropout2d(0.05))  # before the third block
        dense = nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()
        super().__init__(*layers, nn.Flatten(), nn.Dropout(0.1), *dense, nn.Dropout(0.1), nn.Linear(512, classes))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)  # 32 groups: Wu and He 2018 (arXiv:1803.08494)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, a 1x1 convolution where the shape changes (He et al. 2015, option B)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, _norm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels_in, H, W) to (N, channels, H / stride, W / stride), rounded up."""
        inner = F.relu(self.norm1(self.conv1(x)))
        # Not in place: hooks that collect per-example gradients read these tensors later.
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18Gn(nn.Sequential):
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) with a 3x3 stem for small images and GroupNorm for BatchNorm.

    11,173,962 parameters for 3x32x32 and 10 classes. GroupNorm in federated training: Hsieh et al. 2020
    (arXiv:1910.00189).
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        stem = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False), _norm(64), nn.ReLU()
        blocks: list[nn.Module] = []
        channels_in = 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [ResidualBlock(channels_in, channels, stride), ResidualBlock(channels, channels, 1)]
            channels_in = channels
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
