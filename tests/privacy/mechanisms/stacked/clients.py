"""Clients with models of their own and examples of very different contrast, and the same sums one example at a time."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fl.models.plain import Cnn, CnnMcMahan, LeNet, Logistic, Mlp
from privacy.mechanisms.contract import Batch, Loss
from privacy.mechanisms.dp_sgd_optimizers import SPARE
from privacy.mechanisms.stacked.sums import ClippedSums, Tally
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import Residual

GREY = (1, 28, 28)
COLOUR = (3, 32, 32)
CLASSES = 10


class Attentive(nn.Module):
    """Linear layers over sequences, and normalisations over vectors."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(shape[2], 12)
        self.norm = nn.LayerNorm(12)
        self.second = nn.Linear(12, 12, bias=False)
        self.last = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.first(x.flatten(1, 2))).relu()
        weights = (inner @ self.second(inner).mT).softmax(dim=-1)
        return self.last((weights @ inner).mean(dim=1))


class Odd(nn.Sequential):
    """Convolutions with every option: strides, dilations and paddings that differ by side, no bias, in-place ReLU."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(
            nn.Conv2d(shape[0], 6, (5, 3), stride=(3, 2), padding=(0, 2), bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 4, 3, dilation=(1, 2), padding=1, padding_mode="circular"),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(classes, bias=False),
        )


MODELS: dict[str, tuple[Callable[..., nn.Module], Sequence[int]]] = {
    "logistic": (Logistic, GREY),
    "mlp": (Mlp, GREY),
    "cnn": (Cnn, GREY),
    "lenet": (LeNet, COLOUR),
    "cnn_mcmahan": (CnnMcMahan, GREY),
    "residual": (Residual, GREY),
    "attentive": (Attentive, GREY),
    "odd": (Odd, GREY),
}


def models_of(name: str, count: int) -> list[nn.Module]:
    """Models of one kind with weights of their own."""
    make, shape = MODELS[name]
    models = []
    for number in range(count):
        torch.manual_seed(number)
        model = make(shape, CLASSES)
        model(torch.zeros(1, *shape))
        models.append(model)
    return models


def stacked(models: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Their parameters, (N, ...) each."""
    return [torch.stack([own.detach() for own in owns]) for owns in zip(*(m.parameters() for m in models), strict=True)]


def draws_of(name: str, sizes: Sequence[int], seed: int = 0) -> list[Batch | None]:
    """Random examples of each client, the later ones of more contrast; of a size of 0, None."""
    shape = MODELS[name][1]
    generator = torch.Generator().manual_seed(seed)
    return [_draw(shape, size, generator) if size else None for size in sizes]


def _draw(shape: Sequence[int], size: int, generator: torch.Generator) -> Batch:
    inputs = torch.randn(size, *shape, generator=generator) * torch.linspace(0.1, 2.0, size).reshape(-1, 1, 1, 1)
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def sums_of(
    models: Sequence[nn.Module],
    draws: Sequence[Batch | None],
    bound: float,
    most: int = 256,
    loss: Loss = cross_entropy,
    tallies: Sequence[Tally] | None = None,
) -> torch.Tensor:
    """The sums of clipped gradients by the stack, (N, D)."""
    token = deepcopy(models[-1])
    own = [Tally() for _ in models] if tallies is None else tallies
    sums = ClippedSums(token, loss, bound, most).of(stacked(models), draws, own)
    return torch.cat([one.flatten(1) for one in sums], dim=1)


def singles_of(model: nn.Module, draw: Batch, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The gradients of single examples, one at a time, (B, D)."""
    twin = deepcopy(model).to(dtype)
    rows = []
    for inputs, label in zip(*(torch.split(one, 1) for one in draw), strict=True):
        loss = cross_entropy(twin(inputs.to(dtype)), label)
        rows.append(torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(twin.parameters()))]))
    return torch.stack(rows)


def clipped_sum(singles_BD: torch.Tensor, bound: float) -> torch.Tensor:
    """The sum of gradients clipped to what the code keeps to of the bound, float64, (D,)."""
    rows_BD = singles_BD.double()
    factors_B = (bound * (1 - SPARE) / rows_BD.norm(dim=1)).clamp(max=1.0)
    return factors_B @ rows_BD
