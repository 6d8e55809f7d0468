"""The trial of a model before its clients are stacked: which are taken, and which are refused for which reason."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from privacy.mechanisms.separate_examples import randomised
from privacy.mechanisms.stacked import layers, rules, trial
from privacy.mechanisms.stacked.parts import Unstackable
from tests.privacy.mechanisms.stacked.clients import MODELS, draws_of, models_of, sums_of

FEATURES = 6


def random_examples(count: int, shape: tuple[int, ...] = (1, 2, 3)):
    generator = torch.Generator().manual_seed(11)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % 4


def fault_of(model: nn.Module, examples=random_examples) -> str | None:
    return trial.fault(randomised(model, examples), examples)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_known_layers_are_taken(name):
    shape = MODELS[name][1]
    assert fault_of(models_of(name, 1)[0], lambda count: random_examples(count, shape)) is None


class Own(nn.Module):
    """A layer by its forward function, with a weight, a bias and a scale."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, FEATURES)
        self.weight = nn.Parameter(torch.randn(FEATURES, FEATURES))
        self.bias = nn.Parameter(torch.randn(FEATURES))
        self.compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, self.inner(x.flatten(1).to(self.bias.dtype)).tanh())


def linear(layer: Own, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)


USES = "takes part otherwise than as the weight or the bias of one"
REFUSED = {
    "by hand": (Own(lambda own, x: x @ own.weight + own.bias), USES),
    "twice": (Own(lambda own, x: linear(own, linear(own, x).tanh())), USES),
    "also by hand": (Own(lambda own, x: linear(own, x) * own.bias.sum()), USES),
    "never": (Own(lambda own, x: nn.functional.linear(x, own.weight)), USES),
    "transposed": (Own(lambda own, x: nn.functional.linear(x, own.weight.T, own.bias)), "a part of its parameters"),
    "detached too": (Own(lambda own, x: linear(own, x) + x @ own.weight.detach()), "not those of one example"),
    "out of order": (Own(lambda own, x: linear(own, x.flip(0)).flip(0)), "not those of one example"),
    "first of all": (Own(lambda own, x: linear(own, x[:1]) + 0 * x), "the examples in the first dimension"),
    "rows joined": (Own(lambda own, x: linear(own, x.repeat(2, 1))[: len(x)]), "the examples in the first dimension"),
    "dropout": (Own(lambda own, x: linear(own, nn.functional.dropout(x))), "draws random numbers"),
    "noise": (Own(lambda own, x: linear(own, x + torch.rand_like(x))), "draws random numbers"),
    "double": (Own(linear).double(), "in another type than float32"),
    "weight norm": (parametrizations.weight_norm(nn.Linear(FEATURES, 4)), "a part of its parameters|" + USES),
    "in groups": (nn.Conv2d(2, 4, 1, groups=2), "a convolution in groups"),
    "by name": (nn.Conv2d(1, 4, 3, padding="same"), "padding by name"),
    "of one dimension": (nn.Conv1d(2, 4, 1), USES),
    "transposed convolution": (nn.ConvTranspose2d(1, 4, 1), USES),
    "embedding": (nn.Embedding(3, 4), USES),
}


class Mean(nn.Module):
    """A layer on images, and the mean of its outputs by class."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.inner, nn.Linear):
            return self.inner(x.flatten(1))
        if isinstance(self.inner, nn.Embedding):
            return self.inner((x.flatten(1) > 0).long()).mean(1)
        if isinstance(self.inner, nn.Conv1d):
            return self.inner(x.flatten(2).mT.reshape(len(x), 2, 3)).mean(2)
        return self.inner(x.expand(-1, getattr(self.inner, "in_channels", 1), -1, -1)).flatten(2).mean(2)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_measured_is_refused(name):
    model, reason = REFUSED[name]
    found = fault_of(model if isinstance(model, Own) else Mean(model))
    assert found is not None
    assert re.search(reason, found), found


def test_a_half_frozen_layer_is_refused_and_a_frozen_one_is_taken():
    model = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 4))
    model[1].bias.requires_grad_(False)
    assert "a part of its parameters" in str(fault_of(model))
    model[1].weight.requires_grad_(False)
    assert fault_of(model) is None
    model[1].requires_grad_(True)
    model[3].requires_grad_(False)
    assert fault_of(model) is None


def test_a_pass_that_uses_a_layer_again_is_refused_while_training_too():
    """For a model whose trial did not come that way: by the sizes of values, for instance."""

    class Late(nn.Module):
        again = False

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(784, 784)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.inner(x.flatten(1))
            return self.inner(x) if self.again else x

    model = Late()
    draws = draws_of("logistic", (2, 2))
    sums_of([model, model], draws, 1.0)
    model.again = True
    with pytest.raises(Unstackable, match=r"inner\.weight takes part otherwise"):
        sums_of([model, model], draws, 1.0)


def test_a_change_in_place_of_a_layers_input_is_refused():
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(FEATURES, FEATURES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1) * 1.0
            y = self.inner(x)
            x += 1
            return x + y

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sums_of([Adding()], [random_examples(3)], 1.0)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (layers.Linear, "norms"),
        (layers.Sampled, "norms"),
        (layers.Linear, "add"),
        (layers.Sampled, "add"),
        (layers.Convolution, "restored"),
        (rules.Rules, "require_whole"),
    ],
)
def test_the_trial_finds_a_layer_that_computes_otherwise(kind, change, monkeypatch):
    right = getattr(kind, change)

    def wrong(layer, *arguments):
        if change == "norms":
            return 3 * right(layer)
        if change == "restored":
            return right(layer, *arguments).flip(0)
        if change == "add":
            factors_M, *others = arguments
            return right(layer, 0.5 * factors_M, *others)
        return None

    model = models_of("cnn", 1)[0]
    examples = lambda count: random_examples(count, (1, 28, 28))  # noqa: E731
    assert fault_of(model, examples) is None
    monkeypatch.setattr(kind, change, wrong)
    if change == "require_whole":
        assert "not those of one example" in str(fault_of(REFUSED["also by hand"][0]))
    else:
        assert "not those of one example" in str(fault_of(model, examples))
