"""What no vector carries is the same for each client of a process, and in each process; or it is refused by name."""

import numpy as np
import pytest
import torch

from fl.training.kept import Kept
from privacy.errors import ConfigError
from tests.composed import run, vector_of, workspace_of
from tests.fl.models import zoo


def model(name: str) -> str:
    return f"model._target_=tests.fl.models.zoo.{name}"


@pytest.mark.parametrize("name", ["CountingBatchNorm", "Shown", "FloatSteps", "ComplexSteps", "Dropped", "Frozen"])
def test_a_client_finds_nothing_of_the_one_before(name):
    """The oracle is a process that no other client has used; a client's own batches still follow one another."""
    alone = vector_of(workspace_of(model(name)), 1, 2)
    shared = workspace_of(model(name))
    for client in (0, 2):
        vector_of(shared, client)
    assert np.array_equal(vector_of(shared, 1, 2), alone)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Steps", "training changes steps, which no sum carries"),
        ("LocalSteps", "training changes steps, which no sum carries"),
        ("FrozenSteps", "training changes steps, which no sum carries"),
        ("AttributeSteps", "attributes or buffers that its outputs depend on, which no sum carries"),
        ("ListSteps", "attributes or buffers that its outputs depend on, which no sum carries"),
    ],
)
def test_what_training_changes_and_no_sum_carries_is_refused_by_name(name, told):
    work = workspace_of(model(name))
    with pytest.raises(ConfigError, match=rf"^model={name}: .*{told}") as refusal:
        work.try_model()
    assert "\n" not in str(refusal.value)


def test_a_counter_that_moves_too_late_for_the_dry_step_is_refused_by_the_client():
    work = workspace_of(model("Late"), "training.batch_size=10")
    work.try_model()
    with pytest.raises(ConfigError, match=r"^model=Late: training changes late, which no sum carries"):
        vector_of(work)


@pytest.mark.parametrize("steps", [1, 7])
def test_a_buffer_of_floats_that_moves_is_averaged(tmp_path, steps):
    """By hand: each client adds its number of steps to the mean, and all take the same number."""
    options = ("training.epochs=null", f"training.steps={steps}", "rounds=3")
    state = run(tmp_path, model("FloatSteps"), *options)
    assert float(state.weights_D[-1]) == 3 * steps


def test_a_servers_momentum_and_adam_leave_running_variances_alone(tmp_path):
    """The mean of variances is one; a step of Adam by 0.5 would put them below zero."""
    options = (model("BatchNorm"), "server=fedadam", "server.optimizer.lr=0.5", "rounds=4")
    state = run(tmp_path / "adam", *options)
    variances = state.weights_D[-zoo.WIDTH :]
    assert (variances > 0).all()
    plain = run(tmp_path / "plain", model("BatchNorm"), "rounds=1")
    adam = run(tmp_path / "one", *options[:-1], "rounds=1")
    assert torch.equal(adam.weights_D[-2 * zoo.WIDTH :], plain.weights_D[-2 * zoo.WIDTH :])
    assert not torch.equal(adam.weights_D[: -2 * zoo.WIDTH], plain.weights_D[: -2 * zoo.WIDTH])


class Everything(torch.nn.Module):
    """A module that keeps state in every place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.register_buffer("whole", torch.tensor([1, 2]))
        self.register_buffer("later", None)
        self.register_buffer("spread", torch.ones(1).expand(3))
        self.register_buffer("gaps", torch.tensor([float("nan"), 1.0]))
        self.number = 1
        self.listed = [1, [2]]
        self.named = {"a": torch.zeros(2)}
        self.same = self.named  # one object under two names
        self.layers = [self.inner]
        self.memory = torch.zeros(2)
        self.inner.named = self.named


def test_everything_is_put_back():
    model = Everything()
    kept = Kept(model)
    whole = model.whole
    model.whole = torch.tensor([9, 9])
    whole.add_(5)
    model.later = torch.zeros(1)
    model.gaps.zero_()
    model.number = 7
    model.listed[1].append(3)
    model.named["a"] += 1
    model.named["b"] = 2
    model.memory += 1
    model.fresh = 1
    assert kept.changed() == "whole"
    kept.restore()
    assert model.whole is whole
    assert model.whole.tolist() == [1, 2]
    assert model.later is None
    assert model.spread.tolist() == [1, 1, 1]
    assert torch.isnan(model.gaps[0])
    assert model.number == 1
    assert model.listed == [1, [2]]
    assert list(model.named) == ["a"]
    assert model.named["a"].tolist() == [0, 0]
    assert model.same is model.named is model.inner.named
    assert model.layers == [model.inner]
    assert model.memory.tolist() == [0, 0]
    assert not hasattr(model, "fresh")
    assert kept.changed() is None


@pytest.mark.parametrize("entry", ["whole", "gaps", "later"])
def test_a_change_is_named(entry):
    model = Everything()
    kept = Kept(model)
    assert kept.changed() is None
    setattr(model, entry, torch.tensor([3.0, 4.0]))
    assert kept.changed() == entry


def test_a_frozen_parameter_that_changes_is_named_and_a_trained_one_is_not():
    model = Everything()
    model.inner.bias.requires_grad_(requires_grad=False)
    kept = Kept(model)
    with torch.no_grad():
        model.inner.weight.add_(1)
    assert kept.changed() is None
    with torch.no_grad():
        model.inner.bias.add_(1)
    assert kept.changed() == "inner.bias"
