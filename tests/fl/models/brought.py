"""Models that people brought to other frameworks, each of which went wrong there without a word, or in a traceback."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.fl.models.zoo import WIDTH, Flat, Sequences


class FeaturesInEvaluation(Flat):
    """As in retrieval: the classifier is for training alone."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first = nn.Linear(self.pixels, 16)
        self.last = nn.Linear(16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(self.first(images.flatten(1)))
        return self.last(features) if self.training else features


class HeadsInEvaluation(Flat):
    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return logits if self.training else (logits, images)


class SoftmaxAtTheEnd(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(dim=1)


class SoftmaxInEvaluation(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits if self.training else logits.softmax(dim=1)


class DropoutThatIsNeverOff(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(F.dropout(torch.tanh(self.first(images.flatten(1)))))


class LayersInAList(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.hidden = [nn.Linear(WIDTH, WIDTH), nn.Tanh()]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.first(images.flatten(1))
        for layer in self.hidden:
            values = layer(values)
        return self.last(values)


class HiddenTeacher(Flat):
    """A list hides another model from training on purpose: nothing of it takes a gradient."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        with torch.random.fork_rng():
            self.teacher = [Flat(shape, classes)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            taught = self.teacher[0](images)
        return super().forward(images) + 0 * taught


class KeptHiddenState(Sequences):
    hidden: torch.Tensor | None = None

    def layer(self, features: int) -> nn.Module:
        return nn.GRU(features, WIDTH, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs, hidden = self.rows(images.flatten(1, 2), self.hidden)
        self.hidden = hidden.detach()
        return self.last(outputs[:, -1])


class NotANumber(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / 0 * 0


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)


class FormerWeightNorm(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first = quietly(nn.utils.weight_norm, self.first)


class FrozenBackbone(Flat):
    """Pretrained layers with a BatchNorm, which stays in evaluation mode."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.between = nn.BatchNorm1d(WIDTH)
        for frozen in (self.first, self.between):
            frozen.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        super().train(mode)
        self.between.eval()
        return self


class FrozenWeightLearnedBias(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.first.weight.requires_grad_(requires_grad=False)


class LearnedToken(Flat):
    """A parameter beside all layers, as the class token of a vision transformer."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.token = nn.Parameter(torch.linspace(-1, 1, WIDTH))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(images.flatten(1))) + self.token)


def compiled(shape: Sequence[int], classes: int) -> Any:
    return torch.compile(Flat(shape, classes), backend="eager")


def in_parallel(shape: Sequence[int], classes: int) -> nn.Module:
    return nn.DataParallel(Flat(shape, classes))


def scripted(shape: Sequence[int], classes: int) -> Any:
    return quietly(torch.jit.script, nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)))


class Squeezed(Flat):
    """Outputs that lose the dimension of a batch of one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).squeeze()


class Temperature(Flat):
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.scale


class HalfOutputs(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).bfloat16()
