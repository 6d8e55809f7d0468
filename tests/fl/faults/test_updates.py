"""Updates and weights that are none, zero, or beyond the range, under every secure sum. D is values of the model."""

import numpy as np
import pytest
import torch

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.runtimes import inprocess
from fl.server import Errand
from fl.workspace import Workspace
from privacy.errors import ConfigError, TooFewContributors
from tests.composed import canonical, examples_of, gradient_at, workspace_of
from tests.fl.faults.runs import (
    ALL,
    BASE,
    CLIENTS,
    COLLECTED,
    OF,
    ROUNDS,
    Ended,
    assert_right,
    contributions,
    ended,
    left_of,
    run,
)


@pytest.mark.parametrize("kind", ["not_finite", "misshapen", "retyped"])
@pytest.mark.parametrize("name", ALL)
def test_updates_that_are_none_never_leave(tmp_path, name, kind):
    found = run(tmp_path, *OF[name], f"faults.kind={kind}", "faults.rate=0.2")
    assert_right(found, left_of(found, kind))
    sent = found.rows.filter(metric="up_bytes", stage=COLLECTED.get(name, "collect"))
    for number in range(1, ROUNDS + 1):
        assert found.where("dropped", number) == found.struck(kind, number)
        assert set(sent.filter(round=number)["where"]) == left_of(found, kind)[number].keys()


def changed(found: Ended, kind: str, v_of, factor: float = 1.0) -> dict:
    """All contributions, with the weight or update of the struck clients changed."""
    rounds = {}
    for number in range(1, ROUNDS + 1):
        struck = found.struck(kind, number)
        rounds[number] = {
            who: (v_of(v), factor * update_D) if who in struck else (v, update_D)
            for who, (v, update_D) in contributions(found.work, number).items()
        }
    assert any(found.struck(kind, number) for number in range(1, ROUNDS + 1))
    return rounds


@pytest.mark.parametrize("name", ALL)
def test_a_zero_update_counts_as_such(tmp_path, name):
    """One step on all of a client's examples, by hand in float64: who does not train still weighs something."""
    one_step = ("clients=10", "training.batch_size=10000", "training.lr=0.5", "data.partition=dirichlet", "rounds=1")
    work = workspace_of(*one_step, *OF[name], "faults.kind=zero", "faults.rate=0.4")
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    found = ended(work, tmp_path)
    struck = found.struck("zero", 1)
    start_D = work.initial_D.numpy().astype(np.float64)
    assert 0 < len(struck) < CLIENTS
    step_D = np.zeros(len(start_D))
    for client, part in enumerate(work.plan.partitions):
        if f"client/{client}" not in struck:
            step_D -= 0.5 * work.plan.weight(client) * gradient_at(start_D, *examples_of(work, part))
    step_D /= sum(map(work.plan.weight, range(CLIENTS)))
    assert np.abs(step_D).max() > 0.05
    assert np.abs(found.weights_D - start_D - step_D).max() < 3 * CLIENTS * work.tolerance + 1e-6


@pytest.mark.parametrize("mechanism", ["client_dp", "local_dp", "dp_ftrl"])
def test_a_zero_update_survives_clipping(tmp_path, mechanism):
    """A norm of 0 is not used as a divisor; only noise remains."""
    options = ("training.weighting=uniform", "delta=1e-3", "rounds=1", "noise=seeded", "clients=4")
    work = workspace_of(f"mechanism={mechanism}", *options, "faults.kind=zero", "faults.rate=1")
    inprocess.run(work, Errand(tmp_path))
    state = Checkpoints(tmp_path, 2).latest()
    assert torch.isfinite(state.weights_D).all()
    assert (state.weights_D != work.initial_D).all()


@pytest.mark.parametrize("name", ALL)
def test_who_claims_no_examples_weighs_nothing_and_who_lies_no_more_than_anybody_may(tmp_path, name):
    nothing = run(tmp_path / "nothing", *OF[name], "faults.kind=weightless", "faults.rate=0.3")
    assert_right(nothing, changed(nothing, "weightless", lambda _: 0.0))
    lying = run(tmp_path / "lying", *OF[name], "faults.kind=lying", "faults.rate=0.3")
    assert_right(lying, changed(lying, "lying", lambda _: 1.0))
    assert np.abs(lying.weights_D - nothing.weights_D).max() > 0.05


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_all_zero_end_the_run(tmp_path, name):
    work = Workspace(canonical(*BASE, *OF[name], "faults.kind=weightless", "faults.rate=1"))
    with pytest.raises(TooFewContributors, match="total weight of the contributions is 0: no client holds an example"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    assert len(rows.filter(round=1, metric="fault_weightless")) == CLIENTS
    assert np.array_equal(ended(work, tmp_path).weights_D, work.initial_D.numpy())


@pytest.mark.parametrize("name", [one for one in ALL if one != "plain"])
def test_what_passes_the_range_is_cut_and_counted(tmp_path, name):
    """Values reach four times the bound here, and none wraps."""
    found = run(tmp_path, *OF[name], "secure_sum.bound=1", "faults.kind=zero")  # or the cut values would end it
    assert_right(found, {n: contributions(found.work, n, clip=1.0) for n in range(1, ROUNDS + 1)})
    assert len(found.where("clipped_values", 1)) > CLIENTS / 2


def test_a_cohort_whose_sum_would_wrap_is_refused():
    with pytest.raises(ConfigError, match="2 sums of 1000 contributions decrypt wrongly with probability up to 2"):
        workspace_of("secure_sum=bfv", "secure_sum.value_bits=32", "clients=1000")
