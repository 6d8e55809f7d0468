"""Central and local noise alike: calibration, charges, and refusals of plans and parameters."""

import math
from dataclasses import replace

import pytest

from privacy.errors import ConfigError
from privacy.mechanisms.client_dp import ClientDp
from privacy.mechanisms.local_dp import LocalDp
from tests.privacy.accounting.exact import gaussian_delta
from tests.privacy.mechanisms.client_jobs import PLAN


@pytest.mark.parametrize("kind", [ClientDp, LocalDp])
def test_a_target_is_met_by_the_client_that_takes_part_most_often(kind):
    """k Gaussians of sigma are one of sigma / sqrt(k), whose epsilon is exact; PLD is close to it from above."""
    plan = replace(PLAN, participations=(1, 9) + (4,) * 198, accountant="pld")
    mechanism = kind(target_epsilon=3.0)
    mechanism.settle(plan)
    assert gaussian_delta(mechanism.noise_multiplier / 3, 3.0) <= plan.delta * (1 + 1e-3)
    assert gaussian_delta(mechanism.noise_multiplier / 3, 2.98) > plan.delta


def test_what_a_participation_is_charged():
    central = ClientDp(noise_multiplier=1.3, adaptive=True)
    local = LocalDp(noise_multiplier=0.9)
    for mechanism, relation, sigma in ((central, "zero_out", 1.3), (local, "replace", 0.9)):
        mechanism.settle(PLAN)
        charge = mechanism.charge(7)
        assert (charge.mechanism, charge.unit, charge.relation) == (mechanism.name, "client", relation)
        assert charge.event.noise_multiplier == sigma, "the split between sum and bits costs nothing more"
    assert (central.holds_against, local.holds_against) == (("outsider",), ("outsider", "server"))


@pytest.mark.parametrize("kind", [ClientDp, LocalDp])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: {} needs training.weighting=uniform"),
        ({"uniform_weights": False, "public_weights": True}, "training.weighting=examples: {} needs .*=uniform"),
        ({"delta": 1 / 200}, r"delta=0.005: must be below 1/clients = 0.005"),
        ({"delta": 0.5}, r"delta=0.5: must be below 1/clients = 0.005"),
    ],
)
def test_a_plan_that_breaks_the_promise_is_refused(kind, changes, line):
    kind(noise_multiplier=1.0).settle(replace(PLAN, delta=0.00499))
    with pytest.raises(ConfigError, match=f"^{line.format(kind.name)}$"):
        kind(noise_multiplier=1.0).settle(replace(PLAN, **changes))


POSITIVE = "must be a finite number above 0"
BAD = [
    ({}, "noise_multiplier=None: give it or target_epsilon"),
    ({"noise_multiplier": 1.0, "target_epsilon": 2.0}, "noise_multiplier=1.0: target_epsilon=2.0 is given as well"),
    *(({"noise_multiplier": value}, f"noise_multiplier={value}: {POSITIVE}") for value in (0, -1.0, math.nan)),
    *(({"target_epsilon": value}, f"target_epsilon={value}: {POSITIVE}") for value in (0, -1.0, math.inf)),
    *(({"noise_multiplier": 1.0, "clip": value}, f"clip={value}: {POSITIVE}") for value in (0.0, -2, math.inf)),
    ({"noise_multiplier": 1.0, "clip": 1e-300}, "clip=1e-300: must be from 1.2e-38"),
]
BAD_CENTRAL = [
    *(({"quantile": value}, f"quantile={value}: must lie between 0 and 1") for value in (0.0, 1.0, -0.5, math.nan)),
    ({"clip_learning_rate": 0.0}, f"clip_learning_rate=0.0: {POSITIVE}"),
    ({"bit_noise_fraction": -1.0}, f"bit_noise_fraction=-1.0: {POSITIVE}"),
]
BAD_LOCAL = [
    ({"epsilon_per_round": 1.0}, "epsilon_per_round=1.0: noise_multiplier and target_epsilon must be null beside it"),
    ({"noise_multiplier": None, "epsilon_per_round": 0.0}, f"epsilon_per_round=0.0: {POSITIVE}"),
]


@pytest.mark.parametrize(
    ("kind", "arguments", "line"),
    [
        *((kind, arguments, line) for kind in (ClientDp, LocalDp) for arguments, line in BAD),
        *((ClientDp, {"noise_multiplier": 1.0, **arguments}, line) for arguments, line in BAD_CENTRAL),
        *((LocalDp, {"noise_multiplier": 1.0, **arguments}, line) for arguments, line in BAD_LOCAL),
    ],
)
def test_each_parameter_is_refused_in_one_line(kind, arguments, line):
    with pytest.raises(ConfigError) as refusal:
        kind(**arguments)
    assert str(refusal.value).startswith(f"mechanism.{kind.name}.{line}")
    assert "\n" not in str(refusal.value)
