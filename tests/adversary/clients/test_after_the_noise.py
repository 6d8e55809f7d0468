"""What a client's optimizer does after the noise sees no example: momentum, weight decay, moments and schedules.

Noised sums are put in place of those that the data gave. Whatever the examples and the draws, the release is then the
same, bit for bit: all else that leaves is computed from them.
"""

import math

import pytest
import torch

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_optimizers import Sourced
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    CLIPPINGS,
    EVERYBODY,
    LR,
    NOBODY,
    STEPS,
    Scripted,
    drawn,
    examples_of,
    job_of,
    model_of,
    plan_of,
    trained,
)

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
}
DRAWS = ([EVERYBODY] * STEPS, [NOBODY] * STEPS, [drawn(1, 5), NOBODY, drawn(25), EVERYBODY])


def release_of(name: str, mode: str, clipping: str, draws, spoilt: float) -> torch.Tensor:
    model = model_of("mlp")
    examples = examples_of()
    examples.inputs[5] = spoilt
    job = job_of(model, examples, Scripted(0.0, draws))
    kind, options = OPTIMIZERS[name]
    job.optimizer = kind(model.parameters(), lr=LR, **options)
    dp = DpSgd(1.0, mode=mode, clipping=clipping, max_physical_batch_size=7)
    return trained(dp, job, plan_of(model))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("mode", "clipping"), [("ew", "flat"), ("ghost", "flat")])
def test_the_release_is_a_function_of_the_noised_sums_alone(name, mode, clipping, monkeypatch):
    def noised(optimizer) -> None:
        for number, parameter in enumerate(optimizer.params):
            parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))

    monkeypatch.setattr(Sourced, "add_noise", noised)
    first_D, *others = (
        release_of(name, mode, clipping, draws, spoilt) for draws in DRAWS for spoilt in (0.0, math.nan)
    )
    assert first_D.abs().max() > 1e-3
    for other_D in others:
        assert torch.equal(first_D, other_D)


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_the_control_the_sums_themselves_tell_the_draws_apart(mode, clipping):
    assert not torch.equal(*(release_of("sgd", mode, clipping, draws, 0.0) for draws in DRAWS[:2]))
