"""The clients' optimizers: one step beside torch's unfused one, in each type, and options of another class."""

import pytest
import torch
import yaml

from experiments.hydra.error_lines import CONFIGS
from fl.training.optimizers import OF_SGD, client_options
from privacy.errors import ConfigError
from tests.composed import run, workspace_of

SGD = {"_target_": "torch.optim.SGD", **OF_SGD, "momentum": 0.5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("size", [3, 16, 50])
def test_a_step_is_that_of_sgd_in_float64(dtype, size):
    """By hand: w - lr * g in float64, up to half a unit of the type."""
    generator = torch.Generator().manual_seed(size)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    gradient = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient.clone()
    options = client_options("training.optimizer", SGD, [parameter])
    torch.optim.SGD(
        [parameter], lr=0.5, **{name: value for name, value in options.items() if name != "_target_"}
    ).step()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    wanted = start.to(wide) - 0.5 * gradient.to(wide)
    assert ((parameter.detach().to(wide) - wanted).abs() <= torch.finfo(dtype).eps * (wanted.abs() + 1)).all()


def test_one_narrow_parameter_among_many_takes_the_fused_step_from_all():
    wide = torch.nn.Parameter(torch.zeros(3))
    narrow = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    assert client_options("o", SGD, [wide])["fused"]
    assert not client_options("o", SGD, [wide, narrow])["fused"]


@pytest.mark.parametrize("name", ["Narrow", "Half"])
def test_a_narrow_model_learns_like_its_twin(tmp_path, name):
    options = ("training.lr=0.2", "rounds=2", "server.evaluate_every=1")
    kind = f"model._target_=tests.fl.models.zoo.{name}"
    narrow = run(tmp_path / "narrow", kind, *options).weights_D
    wide = run(tmp_path / "wide", "model._target_=tests.fl.models.zoo.Flat", *options).weights_D
    moved = (wide - workspace_of("model._target_=tests.fl.models.zoo.Flat").initial_D).norm()
    assert (narrow - wide).norm() < 0.2 * moved


def test_the_options_of_sgd_are_those_of_its_file():
    file = yaml.safe_load((CONFIGS / "training/optimizer/sgd.yaml").read_text())
    assert file == {"_target_": "torch.optim.SGD", **OF_SGD}


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("Adam", {"weight_decay", "fused"}),
        ("AdamW", {"weight_decay", "fused"}),
        ("RMSprop", {"momentum", "weight_decay"}),
        ("Rprop", set()),
        ("Adagrad", {"weight_decay", "fused"}),
    ],
)
def test_another_class_takes_its_own_options(name, left):
    kind = f"torch.optim.{name}"
    work = workspace_of(f"training.optimizer._target_={kind}")
    assert set(work.client_optimizer.keywords) == left
    work.try_model()


@pytest.mark.parametrize(("option", "value"), [("momentum", "0.9"), ("betas", "[0.9,0.99]"), ("fused", "false")])
def test_an_option_that_was_set_and_is_not_taken_is_named(option, value):
    change = f"++training.optimizer.{option}={value}"
    told = rf"^training\.optimizer\.{option}=.*torch\.optim\.Rprop takes no {option}: leave it out"
    with pytest.raises(ConfigError, match=told):
        workspace_of("training.optimizer._target_=torch.optim.Rprop", change)


def test_an_optimizer_that_cannot_step_is_named_before_the_first_round():
    work = workspace_of("training.optimizer._target_=torch.optim.LBFGS")
    with pytest.raises(ConfigError, match=r"^training\.optimizer=LBFGS: fails in a step: .*closure"):
        work.try_model()
