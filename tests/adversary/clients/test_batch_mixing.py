"""A model in which examples change one another is refused before the first round, whatever its layers are called.

To clip each example's gradient bounds nothing where the example is also in the gradients of others. The check runs in
the client's own process, on random examples.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from tests.composed import workspace_of
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    CLASSES,
    EVERYBODY,
    IMAGE,
    LR,
    N,
    Scripted,
    examples_of,
    job_of,
    model_of,
    plan_of,
    trained,
)

PIXELS = math.prod(IMAGE)


class Function(nn.Module):
    """A layer without weights."""

    def __init__(self, function) -> None:
        super().__init__()
        self._function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._function(inputs)


class Leaky(torch.autograd.Function):
    """The identity, whose backward pass divides by the norm of the whole batch's gradient."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, errors):
        return errors / errors.norm()


class InModel(nn.Module):
    """A model that mixes between its layers, in its own forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, 8)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs.flatten(1))
        return self.last(hidden - hidden.mean(0).detach())


def with_layer(function) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), Function(function), nn.Tanh(), nn.Linear(8, CLASSES))


def closed(hidden: torch.Tensor) -> torch.Tensor:
    """A gate that starts at zero hides what is behind it."""
    return hidden - 1e-6 * hidden.mean(0)


MIXING = {
    "mean": lambda hidden: hidden - hidden.mean(0),
    "mean without gradient": lambda hidden: hidden - hidden.mean(0).detach(),
    "a small part of it": closed,
    "norm": lambda hidden: hidden / hidden.norm(),
    "largest": lambda hidden: hidden / hidden.abs().amax(),
    "neighbours": lambda hidden: hidden + 0.1 * hidden.roll(1, 0),
    "shuffled": lambda hidden: 0.9 * hidden + 0.1 * hidden[torch.randperm(len(hidden))],
    "in eight or more": lambda hidden: hidden - hidden.mean(0) if len(hidden) >= 8 else hidden,
    "size": lambda hidden: hidden / len(hidden),
    "softmax over the batch": lambda hidden: hidden.softmax(0),
    "rank": lambda hidden: hidden * (hidden >= hidden.median(0).values),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_mixes_is_refused_by_its_path(name):
    with pytest.raises(ConfigError, match=r"model=Sequential: an example changes .* \(at 2 Function\)") as refusal:
        DpSgd(1.0).settle(plan_of(with_layer(MIXING[name])))
    assert "\n" not in str(refusal.value)


def test_a_model_that_mixes_in_its_own_forward_pass_is_refused():
    with pytest.raises(ConfigError, match=r"model=InModel: an example changes .* \(at InModel\)"):
        DpSgd(1.0).settle(plan_of(InModel()))


def test_a_backward_pass_that_mixes_is_refused():
    with pytest.raises(ConfigError, match="model=Sequential: no mode gives the gradients"):
        DpSgd(1.0).settle(plan_of(with_layer(Leaky.apply)))


class Gated(nn.Module):
    """A branch that mixes, behind two weights that start at zero, so that they have no gradient either."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(PIXELS, CLASSES)
        self.gate = nn.Linear(PIXELS, CLASSES, bias=False)
        self.scale = nn.Parameter(torch.zeros(CLASSES))
        nn.init.zeros_(self.gate.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.flatten(1)
        return self.layer(flat) + self.scale * self.gate(flat).mean(0)


def test_weights_that_start_at_zero_hide_nothing():
    with pytest.raises(ConfigError, match="model=Gated: an example changes"):
        DpSgd(1.0).settle(plan_of(Gated()))


@pytest.mark.parametrize("mode", MODES[:3])
def test_what_the_check_prevents(mode, monkeypatch):
    """The control: without it one example moves the sum by more than its clip, many times over."""
    monkeypatch.setattr("privacy.mechanisms.dp_sgd.require_separate", lambda *_: None)
    monkeypatch.setattr("privacy.mechanisms.dp_sgd.settled_mode", lambda *_: mode)

    def update_of(value: float) -> torch.Tensor:
        model = nn.Sequential(nn.Flatten(), Function(lambda x: x - x.mean(0)), nn.Linear(PIXELS, CLASSES))
        with torch.no_grad():
            [parameter.zero_() for parameter in model.parameters()]
        examples = examples_of()
        examples.inputs[0] = value
        job = job_of(model, examples, Scripted(0.0, [EVERYBODY]))
        return trained(DpSgd(1.0, clip=1.0), job, plan_of(model, steps=1, batch_size=N))

    moved = float((update_of(100.0) - update_of(-100.0)).norm())
    assert moved > 3 * 2 * LR * 1.0 / N


# models that keep their examples apart


class Attention(nn.Module):
    """Rows of an image as a sequence: projections, and attention between the rows of one image."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Linear(28, 8)
        self.key = nn.Linear(28, 8)
        self.value = nn.Linear(28, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, CLASSES)
        self.dropout = dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.squeeze(1)
        dropped = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(self.query(rows), self.key(rows), self.value(rows), dropout_p=dropped)
        return self.last(F.dropout(self.norm(found), dropped).mean(1))


class Embedded(nn.Module):
    """Pixels as words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(16, 4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        words = self.words((inputs.flatten(1) * 4).long().clamp(-8, 7) + 8)
        return self.last(words.tanh().mean(1))


SEPARATE = {
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
    ),
    "layer norm": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(PIXELS), nn.Linear(PIXELS, CLASSES)),
    "dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(PIXELS, 30), nn.AlphaDropout(0.2), nn.Tanh(), nn.Linear(30, CLASSES)
    ),
    "dropout of channels": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(256, CLASSES)
    ),
    "attention": Attention,
    "attention with dropout": lambda: Attention(0.3),
    "embedding": Embedded,
    "noisy inputs": lambda: nn.Sequential(
        nn.Flatten(), Function(lambda x: x + 0.1 * torch.randn_like(x)), nn.Linear(PIXELS, CLASSES)
    ),
    "conditions on the example": lambda: with_layer(lambda x: torch.where(x.sum(1, keepdim=True) > 0, x, -x)),
}


@pytest.mark.parametrize("name", SEPARATE)
def test_a_model_that_keeps_examples_apart_is_taken(name):
    torch.manual_seed(0)
    dp = DpSgd(1.0)
    dp.settle(plan_of(SEPARATE[name]()))
    assert dp.mode in MODES


def test_the_check_leaves_the_generators_and_the_model_alone():
    model = SEPARATE["dropout"]()
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    DpSgd(1.0).settle(plan_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(one, another) for one, another in zip(before, model.parameters(), strict=True))


class Mixing(nn.Sequential):
    """A model as a configuration names it."""

    def __init__(self, shape, classes) -> None:
        super().__init__(nn.Flatten(), Function(lambda x: x - x.mean(0)), nn.Linear(math.prod(shape), classes))


def test_a_run_is_refused_before_its_first_round():
    """A mechanism for clients clips whole updates, so it does not matter there."""
    own = "model._target_=tests.adversary.clients.test_batch_mixing.Mixing"
    with pytest.raises(ConfigError, match=r"model=Mixing: .*\(at 1 Function\)"):
        workspace_of("mechanism=dp_sgd", own)
    workspace_of(own)
    workspace_of("mechanism=client_dp", own, "training.weighting=uniform", "clients=20", "delta=1e-3")


# weights that are used twice


class Twice(nn.Module):
    """A hidden layer that is applied two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, 8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs.flatten(1)).tanh()
        return self.last(self.again(self.again(hidden).tanh()).tanh())


class Tied(nn.Module):
    """Weights of a layer that a function uses again, where no hook of the layer sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.flatten(1)
        return self.first(flat) + F.linear(flat.flip(1), self.first.weight)


def test_a_layer_that_is_used_twice_takes_another_mode_by_itself():
    dp = DpSgd(1.0)
    dp.settle(plan_of(Twice()))
    assert dp.mode == "hooks"
    with pytest.raises(ConfigError, match=r"mechanism.dp_sgd.mode=ghost: .* again, .*; choose mode=auto") as refusal:
        DpSgd(1.0, mode="ghost").settle(plan_of(Twice()))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ghost"])
def test_weights_that_a_hook_does_not_see_are_refused_where_hooks_measure(mode):
    with pytest.raises(ConfigError, match="one example at a time") as refusal:
        DpSgd(1.0, mode=mode).settle(plan_of(Tied()))
    assert "\n" not in str(refusal.value)
    dp = DpSgd(1.0)
    dp.settle(plan_of(Tied()))
    assert dp.mode == "ew"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_taken_for_the_built_in_models(mode):
    for name in ("logistic", "mlp", "cnn"):
        DpSgd(1.0, mode=mode).settle(plan_of(model_of(name)))
