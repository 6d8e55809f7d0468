"""Models that do well under DP-SGD: bounded activations, normalisation within an example, features not learned.

They keep the contract of fl/models/plain.py. The scattering models take the features of `data.features=scattering`, so
their
`shape` is (81 C, H // 4, W // 4). The architectures of Tramer and Boneh 2021 (arXiv:2011.11660) follow models.py in
their code, ftramer/Handcrafted-DP.
"""

from torch import nn

from fl.data.features import PER_CHANNEL
from fl.models.plain import Shape, cnn_layers
from privacy.errors import ConfigError

GROUP = 4  # channels per normalisation group


class CnnTanh(nn.Sequential):
    """The CNN of Papernot et al. 2021 (arXiv:2007.14191) with its tanh: 26,010 parameters on MNIST."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__(*cnn_layers("cnn_tanh", shape, classes, nn.Tanh))


class CnnTanhGn(nn.Sequential):
    """`CnnTanh` with GroupNorm, four channels a group, behind each convolution: 26,106 parameters on MNIST."""

    def __init__(self, shape: Shape, classes: int) -> None:
        layers: list[nn.Module] = []
        for layer in cnn_layers("cnn_tanh_gn", shape, classes, nn.Tanh):
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.GroupNorm(layer.out_channels // GROUP, layer.out_channels))
        super().__init__(*layers)


class CnnTanhCifar(nn.Sequential):
    """The tanh CNN that Tramer and Boneh 2021 train on the pixels of CIFAR-10: 550,570 parameters there."""

    def __init__(self, shape: Shape, classes: int) -> None:
        channels, height, width = shape
        if min(height, width) < 8:
            needs = f"needs images of at least 8x8, not {height}x{width}; choose model=mlp"
            raise ConfigError.of("model", "cnn_tanh_cifar", needs)
        layers: list[nn.Module] = []
        for filters in (32, 64, 128):
            first = nn.Conv2d(channels, filters, 3, padding=1), nn.Tanh()
            second = nn.Conv2d(filters, filters, 3, padding=1), nn.Tanh()
            layers += [*first, *second, nn.MaxPool2d(2)]
            channels = filters
        hidden = nn.Linear(channels * (height // 8) * (width // 8), 128), nn.Tanh()
        super().__init__(*layers, nn.Flatten(), *hidden, nn.Linear(128, classes))


def _normalisation(model: str, shape: Shape, groups: int) -> nn.GroupNorm:
    """Make the layer that normalises features within one example; it has no weights, so it holds no training data.

    Raises:
        ConfigError: the shape is not that of features.
    """
    if shape[0] % PER_CHANNEL:
        size = "x".join(map(str, shape))
        raise ConfigError.of("model", model, f"takes features, not {size} pixels; set data.features=scattering")
    return nn.GroupNorm(groups, shape[0], affine=False)


class ScatterLinear(nn.Sequential):
    """A linear classifier of scattering features (Tramer and Boneh 2021): 39,700 parameters on Fashion-MNIST.

    The README of their code uses 27 groups for it.
    """

    def __init__(self, shape: Shape, classes: int, groups: int = 27) -> None:
        channels, height, width = shape
        norm = _normalisation("scatter_linear", shape, groups)
        super().__init__(norm, nn.Flatten(), nn.Linear(channels * height * width, classes))


class ScatterCnn(nn.Sequential):
    """A small tanh CNN on scattering features (Tramer and Boneh 2021): 33,066 parameters on Fashion-MNIST.

    For features of colour images it is their larger network: 187,210 parameters on CIFAR-10.
    """

    def __init__(self, shape: Shape, classes: int, groups: int = 27) -> None:
        norm = _normalisation("scatter_cnn", shape, groups)
        head = _grey_head if shape[0] == PER_CHANNEL else _colour_head
        super().__init__(norm, *head(shape, classes))


def _grey_head(shape: Shape, classes: int) -> list[nn.Module]:
    channels, height, width = shape
    positions = -(-height // 2) * -(-width // 2)
    first = nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.Tanh()
    second = nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()
    return [*first, *second, nn.Flatten(), nn.Linear(32 * positions, 32), nn.Tanh(), nn.Linear(32, classes)]


def _colour_head(shape: Shape, classes: int) -> list[nn.Module]:
    channels, height, width = shape
    if min(height, width) < 2:
        needs = "needs colour images of at least 8x8; choose model=scatter_linear"
        raise ConfigError.of("model", "scatter_cnn", needs)
    first = nn.Conv2d(channels, 64, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)
    second = nn.Conv2d(64, 64, 3, padding=1), nn.Tanh()
    return [*first, *second, nn.Flatten(), nn.Linear(64 * (height // 2) * (width // 2), classes)]
