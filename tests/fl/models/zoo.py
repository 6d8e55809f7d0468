"""Small models of the kinds that people bring: recurrent, attention, normalised, tied, frozen, lazy, complex, half, and
such as keep something beside their weights. Each maps images to logits, unless its name says otherwise.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrizations

WIDTH = 8  # of a hidden layer, and of a step of a sequence


class Flat(nn.Module):
    """One hidden layer; a subclass changes a part."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.pixels = math.prod(shape)
        self.first = nn.Linear(self.pixels, WIDTH)
        self.between: nn.Module = nn.Tanh()
        self.last = nn.Linear(WIDTH, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(images.flatten(1))))


class InPlace(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.ReLU(inplace=True)


class PRelu(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.PReLU(WIDTH)


class Dropped(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.Dropout(0.3)


class Gated(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU())


class Bilinear(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.pairs = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(images.flatten(1)))
        return self.last(self.pairs(hidden, hidden))


class BatchNorm(Flat):
    momentum: float | None = 0.1

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.BatchNorm1d(WIDTH, momentum=self.momentum)


class CountingBatchNorm(BatchNorm):
    momentum = None


class LayerNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.LayerNorm(WIDTH)


class RmsNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.RMSNorm(WIDTH)


class GroupNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.GroupNorm(2, WIDTH)


class SpectralNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first = parametrizations.spectral_norm(self.first)


class WeightNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first = parametrizations.weight_norm(self.first)


class Convolution(nn.Sequential):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        features = 4 * (shape[1] - 2) * (shape[2] - 2)
        super().__init__(nn.Conv2d(shape[0], 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(features, classes))


class Sequences(nn.Module):
    """A layer over the rows of an image."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.rows = self.layer(shape[2])
        self.last = nn.Linear(WIDTH, classes)

    def layer(self, features: int) -> nn.Module:
        return nn.RNN(features, WIDTH, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.rows(images.flatten(1, 2))[0][:, -1])


class Lstm(Sequences):
    def layer(self, features: int) -> nn.Module:
        return nn.LSTM(features, WIDTH, batch_first=True)


class Gru(Sequences):
    def layer(self, features: int) -> nn.Module:
        return nn.GRU(features, WIDTH, batch_first=True)


class Attention(Sequences):
    def layer(self, features: int) -> nn.Module:
        return nn.MultiheadAttention(features, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1, 2)
        return self.last(self.rows(rows, rows, rows, need_weights=False)[0].mean(1))


class Transformer(Sequences):
    def layer(self, features: int) -> nn.Module:
        return nn.TransformerEncoderLayer(features, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.rows(images.flatten(1, 2)).mean(1))


class Tied(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        other = nn.Linear(WIDTH, WIDTH)
        self.between = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), other)
        other.weight = self.between[0].weight


class Unused(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.beside = nn.Linear(3, 3)


class Frozen(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first.requires_grad_(requires_grad=False)


class AllFrozen(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.requires_grad_(requires_grad=False)


class Lazy(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first = nn.LazyLinear(WIDTH)


class UnreachedLazy(Lazy):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.beside = nn.LazyLinear(WIDTH)


class Complex(nn.Module):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(math.prod(shape), WIDTH, dtype=torch.complex64) / 10)
        self.last = nn.Linear(WIDTH, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last((images.flatten(1).to(torch.complex64) @ self.turn).abs())


class Narrow(Flat):
    """A hidden layer in bfloat16."""

    dtype = torch.bfloat16

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.to(self.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.to(self.dtype)).float()


class Half(Narrow):
    dtype = torch.float16


class Double(Narrow):
    dtype = torch.float64


class Steps(Flat):
    """A layer that grows cold with the number of its steps, in `kind` of memory."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.remember()

    def remember(self) -> None:
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps = self.steps + 1
        return super().forward(images) / (1 + self.steps)


class FloatSteps(Steps):
    """The same in a buffer of the state, which is averaged."""

    def remember(self) -> None:
        self.register_buffer("steps", torch.zeros(()))


class LocalSteps(Steps):
    def remember(self) -> None:
        self.register_buffer("steps", torch.zeros(()), persistent=False)


class ComplexSteps(Steps):
    """The same in a complex buffer: a mean of real pairs."""

    def remember(self) -> None:
        self.register_buffer("steps", torch.zeros((), dtype=torch.complex64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps = self.steps + 1
        return Flat.forward(self, images) / (1 + self.steps.real)


class AttributeSteps(Steps):
    def remember(self) -> None:
        self.steps = 0


class ListSteps(Steps):
    def remember(self) -> None:
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(1)
        return Flat.forward(self, images) / (1 + len(self.seen))


class FrozenSteps(Steps):
    def remember(self) -> None:
        self.steps = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps.add_(1)
        return Flat.forward(self, images) / (1 + self.steps)


class Shown(Flat):
    """A layer that keeps its last hidden values to show them: no output depends on them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown = self.first(images.flatten(1)).detach()
        return super().forward(images)


class Constant(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.register_buffer("scale", torch.full((5,), 0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.scale[0]


class Late(Flat):
    """A counter that moves from the fifth step on: no dry step sees it."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.steps = 0
        self.register_buffer("late", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps > 20:
            self.late += 1
        return super().forward(images)


class Tuple(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images), images


class TwoInputs(Flat):
    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return super().forward(images + others)


class TooWide(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes + 1)


class TooNarrow(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes - 1)


class FarTooNarrow(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes - 7)
