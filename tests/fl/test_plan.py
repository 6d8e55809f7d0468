"""The plan of a run: cohorts, addresses, weights, learning rates, the default minimum of contributions."""

import math
from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fl.plan import RunPlan
from privacy.errors import ConfigError
from tests.composed import plan_of, workspace_of

TEN = ("clients=10", "cohort=3")
# 40 clients, of whom some hold no data
SPARSE = ("clients=40", "data.partition=dirichlet", "data.alpha=0.02", "data.allow_empty=true")
CLIENTS = ("client/0", "client/1")


def unbuildable(**_: object) -> torch.nn.Module:
    """A model that says when it is built."""
    raise AssertionError("the model was built")


# a model and a device that no machine has
NOWHERE = ("model._target_=tests.fl.test_plan.unbuildable", "device=cuda:99")


# ---- a plan needs no model


def parts_of(plan: RunPlan) -> dict[str, object]:
    """Every part of a plan, computed."""
    properties = [name for name in dir(RunPlan) if not name.startswith("_") and not callable(getattr(RunPlan, name))]
    called = {"cohort": plan.cohort(1), "weight": plan.weight(0), "spec": plan.spec(650)}
    return {name: getattr(plan, name) for name in properties} | called


@pytest.mark.parametrize("overrides", [(), ("secure_sum=ckks",), ("mechanism=dp_sgd", "delta=1e-5")])
def test_a_plan_builds_no_model_and_takes_no_device(overrides):
    parts = parts_of(plan_of(*NOWHERE, *overrides))
    assert parts["cohort"] == (0, 1, 2, 3)
    assert {"backend", "schedule", "everybody", "learning_rates", "max_weight"} < parts.keys()


def test_a_workspace_builds_the_model():
    with pytest.raises(ConfigError, match="the model was built"):
        workspace_of(NOWHERE[0])
    with pytest.raises(ConfigError, match=r"^device=cuda:99: "):
        workspace_of(NOWHERE[1])


def test_a_plan_says_what_a_workspace_of_the_same_configuration_says():
    options = ("data.partition=dirichlet", *TEN, "secure_sum=ckks")
    alone = plan_of(*options)
    work = workspace_of(*options)
    assert alone.hash == work.plan.hash
    assert alone.schedule == work.plan.schedule
    assert alone.spec(work.initial_D.numel()) == work.spec
    assert all(np.array_equal(*parts) for parts in zip(alone.partitions, work.plan.partitions, strict=True))


# ---- cohorts


def cohorts(rounds: int, *overrides: str) -> list[tuple[int, ...]]:
    plan = plan_of(*overrides, f"rounds={rounds}")
    return [plan.cohort(number) for number in range(1, rounds + 1)]


def test_cohorts_are_reproducible_and_hold_nobody_twice():
    drawn = cohorts(50, *TEN)
    assert cohorts(50, *TEN) == drawn
    assert cohorts(50, *TEN, "server=fedadam", "model=mlp") == drawn
    assert cohorts(50, *TEN, "seed=2") != drawn
    for cohort in drawn:
        assert len(set(cohort)) == 3
        assert list(cohort) == sorted(cohort)
        assert all(type(client) is int and 0 <= client < 10 for client in cohort)


def test_a_cohort_depends_on_its_round_alone():
    late = plan_of(*TEN, "rounds=7").cohort(7)
    torch.manual_seed(3)
    np.random.seed(3)
    assert plan_of(*TEN, "rounds=9").cohort(7) == late


def test_every_cohort_is_as_likely_as_any_other():
    drawn = Counter(cohorts(6000, *TEN))
    counts = [drawn[cohort] for cohort in combinations(range(10), 3)]
    assert sum(counts) == 6000
    assert len(counts) == comb(10, 3)
    assert chisquare(counts).pvalue > 1e-4


def test_everybody_is_asked_where_no_cohort_is_named():
    assert cohorts(2) == [(0, 1, 2, 3)] * 2


def test_a_cohort_beyond_those_that_hold_data_is_refused():
    holders = len(plan_of(*SPARSE).candidates)
    assert len(plan_of(*SPARSE, f"cohort={holders}").candidates) == holders
    with pytest.raises(ConfigError, match=rf"^cohort={holders + 1}: only {holders} of 40 clients hold data$"):
        workspace_of(*SPARSE, f"cohort={holders + 1}")


@pytest.mark.parametrize(
    ("overrides", "lanes"),
    [((), 1), (("runtime.workers=2",), 2), (("runtime.workers=9",), 4), (("runtime=deployment", "clients=3"), 3)],
)
def test_as_many_clients_at_once_as_the_runtime_has(overrides, lanes):
    assert plan_of(*overrides).lanes == lanes


# ---- addresses


@pytest.mark.parametrize(
    ("overrides", "asked", "silent"),
    [
        (("secure_sum=plain",), (), ()),
        (("secure_sum=secagg",), (), ()),
        (("secure_sum=ckks",), ("keyholder",), ()),
        (("secure_sum=crypten", "secure_sum.parties=2"), ("party/0", "party/1"), ()),
        (("secure_sum=crypten", "secure_sum/aggregate=median"), ("party/0", "party/1", "party/2"), ("dealer",)),
    ],
)
def test_the_dealer_has_a_process_and_is_not_asked(overrides, asked, silent):
    plan = plan_of("clients=2", *overrides)
    assert plan.asked == CLIENTS + asked
    assert plan.members == asked + silent
    assert plan.everybody == CLIENTS + asked + silent


# ---- what is summed, and how fast clients learn


@pytest.mark.parametrize(
    ("overrides", "lengths"),
    [
        ((), {"update": 650, "weight": 1}),
        (("mechanism=client_dp", "mechanism.client_dp.adaptive=true"), {"update": 650, "extra": 1, "weight": 1}),
    ],
)
def test_the_vector_is_the_update_the_mechanisms_values_and_the_weight(overrides, lengths):
    spec = plan_of(*TEN, *overrides).spec(650)
    assert {segment.name: segment.length for segment in spec.segments} == lengths
    assert spec.cohort_size == 3


@pytest.mark.parametrize(
    ("schedule", "closed"),
    [
        ("constant", lambda lr, k, rounds: lr),
        ("cosine", lambda lr, k, rounds: lr * (1 + math.cos(math.pi * k / rounds)) / 2),
        ("exponential", lambda lr, k, rounds: lr * 0.99**k),
        ("step", lambda lr, k, rounds: lr * 0.5 ** (k // 10)),
    ],
)
def test_learning_rates_follow_their_closed_form(schedule, closed):
    rates = plan_of(f"training/schedule={schedule}", "training.lr=0.3", "rounds=25").learning_rates
    assert rates == pytest.approx([closed(0.3, k, 25) for k in range(25)], rel=1e-9)


# ---- the least number of contributions


@pytest.mark.parametrize(
    ("overrides", "minimum"),
    [
        (["secure_sum=plain"], 1),
        (["secure_sum=pad"], 2),
        (["secure_sum=ckks", "cohort=2"], 2),
        (["secure_sum=ckks", "secure_sum.encrypt_fraction=0.5"], 2),
        (["secure_sum=ckks", "clients=7"], 4),
        (["secure_sum=ckks", "clients=7", "server.min_share=0.9"], 7),
        (["secure_sum=ckks", "clients=7", "server.min_contributors=1"], 4),
        (["secure_sum=ckks", "clients=7", "server.min_contributors=6"], 6),
        (["secure_sum=ckks", "server.min_contributors=1", "server.min_share=0.25"], 1),
        (["secure_sum=plain", "clients=7", "server.min_share=0.9"], 1),
        (["secure_sum=plain", "server.min_contributors=3"], 3),
        (["secure_sum=plain", "cohort=1"], 1),
        (["secure_sum=pad", "cohort=1", "server.min_contributors=1"], 1),
    ],
)
def test_what_hides_contributions_hides_one_among_two_at_least(overrides, minimum):
    assert workspace_of(*overrides).spec.min_contributors == minimum


@pytest.mark.parametrize("alone", ["cohort=1", "clients=1"])
def test_a_cohort_of_one_hides_nothing(alone):
    with pytest.raises(ConfigError) as refusal:
        workspace_of("secure_sum=pad", alone)
    assert str(refusal.value) == (
        "server.min_contributors=null: a sum over one is its update, which pad is to hide: ask more, or set it to 1"
    )
