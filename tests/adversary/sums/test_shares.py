"""Selective delivery: a server that asks one honest client and clients of its own, and subtracts what these sent.

The server's half is the protocol's own, without the check of the number of contributors. The honest client and whoever
opens the sum hold the specification of the run. The card must name the smallest coalition that gets the update.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fl.config.identity import to_json
from fl.plan import RunPlan
from fl.threats import explained
from privacy.addresses import Address
from privacy.errors import FedveilError, PrivacyRefusal, TooFewContributors
from privacy.secure_sums.contract import require_contributors
from privacy.secure_sums.vectors import Vector
from privacy.testing.harness import Round
from tests.composed import SMALL, compose, workspace_of
from tests.fl.card.sentences import TWO_ROUNDS

LENGTH = 6
VICTIM = "client/0"
ALL_COHORTS = range(2, 13)
FEW_COHORTS = (2, 3, 5, 12)
LARGE_COHORTS = (20, 31, 40, 60, 100, 200)


def planned(name: str, cohort: int, least: int | None = None, share: float | None = None) -> RunPlan:
    config = compose(*SMALL, f"secure_sum={name}")  # composed once a sum: Hydra is slow
    config.clients = config.cohort = cohort
    config.server.min_contributors = least
    config.server.min_share = config.server.min_share if share is None else share
    return RunPlan(to_json(config))


def vectors(count: int) -> dict[str, Vector]:
    generator = np.random.default_rng(count)
    return {f"client/{client}": generator.uniform(-1, 1, LENGTH + 1).astype(np.float32) for client in range(count)}


def sum_over(plan: RunPlan, asked: dict[str, Vector]) -> Vector:
    """The sum that is opened where the server asks these clients alone.

    Raises:
        FedveilError: somebody refuses.
    """
    spec = plan.spec(LENGTH)
    round_ = Round(plan.backend.secure_sum, spec, asked, strict=True)
    round_.set_up()
    total = round_.drive(plan.backend.secure_sum.server(list(asked), replace(spec, min_contributors=1)))
    return np.append(total.update_D, total.weight)


def reads(plan: RunPlan, colluders: int) -> bool:
    """True where the server and so many clients get the update of the victim."""
    contributions = vectors(colluders + 1)
    try:
        sum_D = sum_over(plan, contributions)
    except TooFewContributors:
        return False
    own_D = sum(vector.astype(float) for address, vector in contributions.items() if address != VICTIM)
    error = np.abs(sum_D - own_D - contributions[VICTIM]).max()
    return bool(error <= (colluders + 1) * plan.backend.secure_sum.tolerance(plan.spec(LENGTH)) + 1e-12)


def smallest(plan: RunPlan, cohort: int) -> int | None:
    return next((colluders for colluders in range(cohort) if reads(plan, colluders)), None)


def named_on_the_card(plan: RunPlan) -> Sequence[str]:
    return plan.backend.secure_sum.trust(plan.spec(LENGTH)).subtracting


def of_clients(colluders: int) -> tuple[str, ...]:
    return ("the server", f"{colluders} of the clients in a sum")


@pytest.mark.parametrize(
    ("name", "cohort"),
    [
        *((name, cohort) for name in ("pad", "crypten") for cohort in ALL_COHORTS),
        *((name, cohort) for name in ("ckks", "bfv") for cohort in FEW_COHORTS),
    ],
)
def test_the_card_names_the_smallest_coalition_that_subtracts_its_own_updates(name, cohort):
    plan = planned(name, cohort)
    colluders = smallest(plan, cohort)
    assert colluders == max(2, math.ceil(cohort / 2)) - 1
    assert named_on_the_card(plan) == of_clients(colluders)


@pytest.mark.parametrize("name", ["pad", "crypten"])
@pytest.mark.parametrize(
    ("least", "share", "colluders"), [(None, 0.2, 1), (None, 0.7, 6), (None, 1.0, 9), (4, 0.2, 3), (3, None, 4)]
)
def test_the_larger_of_number_and_share_holds(name, least, share, colluders):
    plan = planned(name, 10, least, share)
    assert smallest(plan, 10) == colluders
    assert named_on_the_card(plan) == of_clients(colluders)


@pytest.mark.parametrize("name", ["pad", "crypten", "ckks", "bfv"])
def test_control_a_sum_over_one_is_an_update(name):
    plan = planned(name, 10, least=1, share=0.1)
    assert smallest(plan, 10) == 0
    assert named_on_the_card(plan) == ("the server",)


def accepted(plan: RunPlan, contributors: int) -> bool:
    """True where whoever opens the sum accepts so many contributors: the check that openers and parties share."""
    try:
        require_contributors([f"client/{client}" for client in range(contributors)], plan.spec(LENGTH))
    except FedveilError:
        return False
    return True


@pytest.mark.parametrize("name", ["pad", "ckks", "bfv", "crypten"])
@pytest.mark.parametrize("cohort", LARGE_COHORTS)
def test_large_cohorts_by_the_check_of_their_openers(name, cohort):
    plan = planned(name, cohort)
    least = next(count for count in range(1, cohort + 1) if accepted(plan, count))
    assert least == math.ceil(cohort / 2)
    assert named_on_the_card(plan) == of_clients(least - 1)


# ---- another set for the same model


def again(first: Round, number: int, attempt: str, asked: Sequence[Address]) -> Round:
    """The same roles, with their stores, in another attempt or round, over other clients."""
    vectors_of = {address: first.vectors[address] for address in asked}
    return Round(
        first.secure_sum, first.spec, vectors_of, stores=first.stores, number=number, attempt=attempt, strict=True
    )


def first_round(name: str) -> Round:
    plan = planned(name, 5)
    round_ = Round(plan.backend.secure_sum, plan.spec(LENGTH), vectors(5), strict=True)
    round_.set_up()
    return round_


@pytest.mark.parametrize("name", ["pad", "ckks", "bfv", "crypten"])
def test_another_attempt_at_a_round_gives_no_other_set(name):
    round_ = first_round(name)
    round_.aggregate()
    others = list(round_.vectors)[1:]
    with pytest.raises(PrivacyRefusal, match=r"the difference would reveal an update|did not (open|reveal) the sum"):
        again(round_, 1, "another", others).aggregate()
    assert again(round_, 1, "a third", list(round_.vectors)).aggregate().survivors == tuple(round_.vectors)


@pytest.mark.parametrize("name", ["pad", "crypten"])
def test_another_round_over_the_same_model_does_as_the_card_says(name):
    round_ = first_round(name)
    whole_D = round_.aggregate().update_D
    less_D = again(round_, 2, "another", list(round_.vectors)[1:]).aggregate().update_D
    np.testing.assert_allclose(whole_D - less_D, round_.vectors[VICTIM][:-1], atol=1e-3)
    assert TWO_ROUNDS in explained(workspace_of(f"secure_sum={name}"))["beyond"]


@pytest.mark.parametrize("name", ["pad", "ckks", "bfv", "crypten"])
def test_the_card_prints_the_coalition_and_the_least_number(name):
    topics = explained(workspace_of(f"secure_sum={name}", "clients=9"))
    assert "The server and 4 of the clients in a sum together read one client's update." in topics["coalition"]
    assert "Nothing is opened over fewer than 5 clients (server.min_share)." in topics["drop-out"]


def test_no_share_of_a_cohort_is_lost_to_rounding():
    for percent in range(1, 101):
        plan = planned("pad", 100, share=percent / 100)
        assert plan.min_contributors == max(2, percent)
