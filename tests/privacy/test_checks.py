import math

import numpy as np
import pytest

from privacy.checks import check_noise, clip_norm, positive, within
from privacy.errors import ConfigError

ABOVE = "must be a finite number above 0"
RANGE = "must be from 1.2e-38 to 3.4e+38, which float32 can hold"


def refusal(check, *arguments) -> str:
    with pytest.raises(ConfigError) as refused:
        check(*arguments)
    return str(refused.value)


@pytest.mark.parametrize("value", [0, 0.0, -1, math.nan, math.inf, -math.inf])
def test_what_is_not_positive_is_refused(value):
    for check in (positive, clip_norm):
        assert refusal(check, "a.b", value) == f"a.b={value}: {ABOVE}"


@pytest.mark.parametrize("value", [1e-300, 1e-45, 1.1e-38, 3.5e38, 1e300])
def test_a_clip_that_is_no_normal_float32_is_refused(value):
    positive("a.b", value)
    assert refusal(clip_norm, "a.b", value) == f"a.b={value}: {RANGE}"


@pytest.mark.parametrize("value", [1.2e-38, 1e-6, 1, 3.4e38])
def test_a_clip_that_is_taken_keeps_the_precision_of_float32(value):
    clip_norm("a.b", value)
    assert float(np.float32(value)) == pytest.approx(value, rel=2**-24)
    assert np.finfo(np.float32).tiny <= np.float32(value) <= np.finfo(np.float32).max


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, math.nan])
def test_what_is_not_within_is_refused(value):
    assert refusal(within, "a.b", value) == f"a.b={value}: must lie between 0 and 1"


@pytest.mark.parametrize(
    ("noise", "target", "line"),
    [
        (None, None, "a.noise_multiplier=None: give it or target_epsilon"),
        (
            1.0,
            2.0,
            "a.noise_multiplier=1.0: target_epsilon=2.0 is given as well: keep one, and set the other to null",
        ),
        (-1.0, None, f"a.noise_multiplier=-1.0: {ABOVE}"),
        (None, math.inf, f"a.target_epsilon=inf: {ABOVE}"),
    ],
)
def test_noise_is_given_once(noise, target, line):
    assert refusal(check_noise, "a", noise, target) == line


def test_what_is_right_passes():
    check_noise("a", 0.5, None)
    check_noise("a", None, 8)
    within("a", 0.5)
    positive("a", 1e-300)
