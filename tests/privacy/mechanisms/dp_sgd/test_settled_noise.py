"""DP-SGD before it starts: refusals, the noise solved for a target, and the default mode."""

import math
import re

import pytest
import torch
from dp_accounting.pld import PLDAccountant

from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd import DpSgd
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import model_of, plan_of, steps_of


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "noise_multiplier=None: give it or target_epsilon"),
        ({"noise_multiplier": 1.0, "target_epsilon": 3.0}, "noise_multiplier=1.0: target_epsilon=3.0 is given as"),
        ({"target_epsilon": 0.0}, "target_epsilon=0.0: must be a finite number above 0"),
        ({"target_epsilon": -1.0}, "target_epsilon=-1.0: must be a finite number above 0"),
        ({"target_epsilon": math.nan}, "target_epsilon=nan: must be a finite number above 0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0: must be a finite number above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0: must be a finite number above 0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier=inf: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "clip": 0.0}, "clip=0.0: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "clip": math.nan}, "clip=nan: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "mode": "fast"}, "mode=fast: allowed are auto, hooks, ew, functorch, ghost"),
        ({"noise_multiplier": 1.0, "clipping": "soft"}, "clipping=soft: allowed are flat, per_layer, adaptive"),
        ({"noise_multiplier": 1.0, "mode": "ghost", "clipping": "per_layer"}, "clipping=per_layer: mode=ghost clips"),
        ({"noise_multiplier": 1.0, "mode": "ghost", "clipping": "adaptive"}, "clipping=adaptive: mode=ghost clips"),
        ({"noise_multiplier": 1.0, "max_physical_batch_size": 0}, "max_physical_batch_size=0: at least 1"),
        ({"noise_multiplier": 1.0, "min_clip": 2.0, "max_clip": 2.0}, "max_clip=2.0: must be above min_clip=2.0"),
        ({"noise_multiplier": 1.0, "clip_learning_rate": -0.1}, "clip_learning_rate=-0.1: must be a finite number"),
    ],
)
def test_a_parameter_out_of_range_is_refused(options, line):
    with pytest.raises(ConfigError, match=re.escape(f"mechanism.dp_sgd.{line}")) as refusal:
        DpSgd(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_clip", math.nan),
        ("target_unclipped_quantile", math.nan),
        ("target_unclipped_quantile", 1.5),
        ("unclipped_noise_fraction", math.nan),
        ("unclipped_noise_fraction", -1.0),
    ],
)
def test_a_parameter_of_adaptive_clipping_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"mechanism.dp_sgd.{key}={value}"):
        DpSgd(1.0, clipping="adaptive", **{key: value})


BATCH_NORM = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: .*weighting=uniform.*public_weights=true"),
        ({"proximal": 0.25}, "training.proximal_mu=0.25: .*set it to 0"),
        ({"delta": 1 / 26}, "delta=0.038.*must be below 1/records = 0.038"),
        ({"delta": 0.5}, "delta=0.5: must be below 1/records = 0.038"),
        ({"model": BATCH_NORM}, "model=Sequential: .*BatchNorm.*: take GroupNorm"),
    ],
)
def test_a_plan_that_cannot_keep_the_promise_is_refused(changes, line):
    with pytest.raises(ConfigError, match=line) as refusal:
        DpSgd(1.0).settle(plan_of(**{"model": model_of()} | changes))
    assert "\n" not in str(refusal.value)


def test_public_weights_may_be_unequal():
    DpSgd(1.0).settle(plan_of(model_of(), uniform_weights=False, public_weights=True))


def test_an_epsilon_out_of_reach_is_refused():
    with pytest.raises(ConfigError, match="epsilon"):
        DpSgd(target_epsilon=1e-9).settle(plan_of(model_of(), sample_rate=1.0))


CLIENTS = {"clients": 4, "cohort_size": 3, "rounds": 4, "examples": (60, 400, 1500, 0), "batch_size": 32}


@pytest.mark.parametrize(
    ("accountant", "target", "changes", "schedules"),
    [
        (
            "prv",
            3.0,
            {"participations": (3, 4, 1, 0), "epochs": 2, "steps": None},
            [(1 / 2, 12), (1 / 13, 104), (1 / 47, 94)],
        ),
        ("pld", 1.0, {"participations": (1, 2, 4, 0), "steps": 10}, [(1 / 2, 10), (1 / 13, 20), (1 / 47, 40)]),
        ("prv", 8.0, {"participations": (4, 1, 1, 0), "steps": 5, "sample_rate": 0.2}, [(0.2, 20), (0.2, 5), (0.2, 5)]),
    ],
)
def test_the_solved_noise_keeps_every_client_within_the_target(accountant, target, changes, schedules, caplog):
    """Epsilon by another library's privacy loss distributions, over the schedules as a reader would count them."""
    dp = DpSgd(target_epsilon=target)
    with caplog.at_level("INFO", logger="fedveil"):
        dp.settle(plan_of(model_of(), accountant=accountant, **CLIENTS | changes))
    paid = []
    for rate, steps in schedules:
        loss = PLDAccountant(value_discretization_interval=1e-3)
        loss.compose(steps_of(rate, steps, dp.noise_multiplier))
        paid.append(loss.get_epsilon(1e-5))
    assert max(paid) <= target + 0.02
    assert max(paid) >= 0.95 * target
    assert f"noise_multiplier={dp.noise_multiplier:.4f} for epsilon={target:g}" in caplog.text


@pytest.mark.parametrize(("model", "mode"), [("cnn", "ew"), ("mlp", "ghost"), ("logistic", "ghost")])
def test_the_default_mode_is_the_one_that_was_measured_fastest(model, mode):
    dp = DpSgd(1.0)
    dp.settle(plan_of(model_of(model)))
    assert dp.mode == mode
    per_layer = DpSgd(1.0, clipping="per_layer")  # ghost mode does not support it
    per_layer.settle(plan_of(model_of(model)))
    assert per_layer.mode == "ew"
