"""The bands that DP-FTRL takes from a plan, and its refusals."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import ConfigError
from privacy.mechanisms.dp_ftrl import DpFtrl
from tests.privacy.mechanisms.dp_ftrl.matrices import CLIP, PLAN, SIGMA, drawn, noise, settled, strategy


@pytest.mark.parametrize(
    ("bands", "separation", "rounds", "window"),
    [(None, 3, 50, 3), (None, 51, 50, 50), (None, 1, 50, 1), (2, 3, 50, 2), (3, 3, 50, 3), (51, 51, 50, 50)],
)
def test_bands_are_the_separation_unless_fewer_are_wanted(bands, separation, rounds, window):
    mechanism = settled(bands, replace(PLAN, separation=separation, rounds=rounds))
    assert mechanism.window == window
    noise_TD = noise(mechanism, min(rounds, 60), 1)
    std = SIGMA * CLIP * np.linalg.norm(strategy(window, window)[:, 0])
    assert noise_TD[0] == pytest.approx(std * drawn(1, 1)[0])


POSITIVE = "must be a finite number above 0"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"noise_multiplier": None}, "noise_multiplier=None: give it or target_epsilon"),
        ({"target_epsilon": 2.0}, "noise_multiplier=1.0: target_epsilon=2.0 is given as well"),
        ({"noise_multiplier": -1.0}, f"noise_multiplier=-1.0: {POSITIVE}"),
        ({"noise_multiplier": None, "target_epsilon": 0.0}, f"target_epsilon=0.0: {POSITIVE}"),
        ({"clip": 0.0}, f"clip=0.0: {POSITIVE}"),
        ({"clip": 1e-300}, "clip=1e-300: must be from 1.2e-38"),
        ({"bands": 0}, "bands=0: must be at least 1"),
        ({"bands": -3}, "bands=-3: must be at least 1"),
    ],
)
def test_each_parameter_is_refused_in_one_line(arguments: Mapping[str, float | None], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        DpFtrl(**{"noise_multiplier": 1.0, **arguments})  # type: ignore[arg-type]
    assert str(refusal.value).startswith(f"mechanism.dp_ftrl.{line}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: dp_ftrl needs training.weighting=uniform"),
        ({"delta": 1 / 200}, r"delta=0.005: must be below 1/clients = 0.005"),
        (
            {"separation": 4},
            r"mechanism.dp_ftrl.bands=5: some client returns after 4 rounds: take at most as many bands, or "
            r"sampler.name=separated and a larger sampler.min_separation",
        ),
    ],
)
def test_a_plan_that_breaks_the_promise_is_refused(changes, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        settled(5, replace(PLAN, **changes))
