"""Scores of clients on their own examples: right, switched, told on the card, and in the table."""

import numpy as np
import pytest

from privacy.errors import ConfigError
from results.summary import summarise
from tests.composed import examples_of, rows_in, run, run_with_set_up, state_in, workspace_of

SCORED = ("runtime.client_evaluation=true", "data.partition=dirichlet", "data.alpha=0.5", "server.evaluate_every=0")


def scores_by_hand(work, flat_D, client):
    inputs_NP, labels_N = examples_of(work, work.plan.partitions[client])
    split = flat_D.size - 10
    logits_NK = inputs_NP @ flat_D[:split].reshape(10, -1).T + flat_D[split:]
    top_N = logits_NK.max(axis=1)
    losses_N = (
        top_N + np.log(np.exp(logits_NK - top_N[:, None]).sum(axis=1)) - logits_NK[range(len(labels_N)), labels_N]
    )
    return {"accuracy": (logits_NK.argmax(axis=1) == labels_N).mean(), "loss": losses_N.mean()}


def told(folder, number):
    rows = rows_in(folder).filter(stage="evaluate", round=number)
    found = {}
    for where, metric, value in rows.select("where", "metric", "value").iter_rows():
        if where.startswith("client/") and metric in ("accuracy", "loss"):
            found.setdefault(where, {})[metric] = value
    return found


@pytest.mark.parametrize("secure_sum", ["plain", "secagg"])
def test_each_client_scores_the_model_that_the_round_starts_from(tmp_path, secure_sum):
    run_with_set_up(tmp_path / "one", *SCORED, "rounds=1", f"secure_sum={secure_sum}")
    after_D = state_in(tmp_path / "one" / "checkpoints").weights_D.numpy().astype(np.float64)
    run_with_set_up(tmp_path / "two", *SCORED, "rounds=2", f"secure_sum={secure_sum}")
    work = workspace_of(*SCORED)
    starts = {1: work.initial_D.numpy().astype(np.float64), 2: after_D}
    for number, flat_D in starts.items():
        found = told(tmp_path / "two" / "checkpoints", number)
        assert list(found) == [f"client/{client}" for client in range(4)]
        for client in range(4):
            expected = scores_by_hand(work, flat_D, client)
            assert found[f"client/{client}"] == pytest.approx(expected, abs=1e-5), (number, client)


@pytest.mark.parametrize("kind", ["Dropped", "BatchNorm"])
def test_scoring_changes_no_weight(tmp_path, kind):
    """Of models that compute something else in evaluation."""
    model = (f"model._target_=tests.fl.models.zoo.{kind}", "data.alpha=5")
    plain = run(tmp_path / "plain", *SCORED[1:], *model)
    scored = run(tmp_path / "scored", *SCORED, *model)
    assert plain.weights_D.equal(scored.weights_D)
    assert not told(tmp_path / "plain", 1)


def test_its_time_is_no_time_of_training(tmp_path):
    run(tmp_path, *SCORED)
    rows = rows_in(tmp_path)
    spent = rows.filter(metric="wall", round=2).filter(
        rows.filter(metric="wall", round=2)["where"].str.starts_with("cl")
    )
    assert "evaluate" in set(spent["stage"])
    own = spent.filter(~spent["stage"].is_in(["evaluate", "witness"]))["value"].sum()
    first = rows.filter(metric="wall", round=1)
    before = first.filter(first["where"].str.starts_with("cl"), ~first["stage"].is_in(["evaluate", "witness"]))
    told = summarise(rows, parameters=650, final={})["client_s"]
    assert told == pytest.approx((own + before["value"].sum()) / 2)


def test_without_the_times_of_clients_it_is_refused():
    with pytest.raises(ConfigError, match=r"^runtime.client_evaluation=True: .* runtime.client_metrics=true"):
        workspace_of(*SCORED, "runtime.client_metrics=false")


def test_beside_an_epsilon_it_is_refused_unless_exact_figures_are_wanted(tmp_path):
    private = ("mechanism=dp_sgd", "noise=seeded")
    with pytest.raises(ConfigError, match=r"^runtime.client_evaluation=true: .*runtime.client_diagnostics=true"):
        workspace_of(*SCORED, *private)
    run(tmp_path, *SCORED, *private, "runtime.client_diagnostics=true")
    assert len(told(tmp_path, 1)) == 4
