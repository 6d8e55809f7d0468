"""Clients of DP-SGD trained together, against the same clients one by one, with the same streams of random numbers."""

import numpy as np
import pytest

from experiments.execute import execute
from fl.participant import Request, client_job
from fl.training.generators import seed_generators
from fl.training.local import train
from results.store import RunDirectory
from tests.composed import SMALL, compose, request_of, vector_of, workspace_of

RAGGED = ("data.partition=dirichlet", "clients=7", "cohort=5", "training.batch_size=16", "training.weighting=uniform")
PRIVATE = (*RAGGED, "mechanism=dp_sgd", "noise=seeded", "delta=1e-4", "mechanism.dp_sgd.clip=0.5")
CLOSE = 1e-5  # of the largest value of an update


# Opacus's hooks, which keep the same distance from the clip; that of its ghost norms is four times as large
ALONE = ("runtime.together=1", "mechanism.dp_sgd.mode=hooks")


def updates_of(*overrides: str) -> dict[int, np.ndarray]:
    """The contributions of the first cohort."""
    work = workspace_of(*PRIVATE, *overrides)
    return {int(client): vector_of(work, client) for client in work.plan.cohort(1)}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("training.epochs=3",),
        ("training.epochs=null", "training.steps=4"),
        ("training.sample_rate=0.05",),
        ("training.public_weights=true", "training.weighting=examples"),
        ("training.optimizer._target_=torch.optim.Adam", "training.lr=0.001"),
        ("training.optimizer.momentum=0.9",),
        ("training.class_weights=[1,2,1,1,1,1,0.5,1,1,3]", "training.label_smoothing=0.1"),
        ("mechanism.dp_sgd.max_physical_batch_size=5",),
        ("model=mlp",),
    ],
    ids=lambda one: one[0] if one else "plain",
)
@pytest.mark.parametrize("wanted", ["auto", "2"])
def test_each_client_trains_as_it_does_alone(wanted, options):
    alone = updates_of(*options, *ALONE)
    work = workspace_of(*PRIVATE, *options, f"runtime.together={wanted}")
    assert work.together.choice.size == (5 if wanted == "auto" else 2)
    for client, one in alone.items():
        other = vector_of(work, client)
        assert np.abs(one[:-1]).max() > 1e-3
        assert np.abs(one - other).max() <= CLOSE * np.abs(one[:-1]).max()


def test_a_rate_so_small_that_draws_are_empty_gives_steps_of_noise_alone():
    rare = ("training.sample_rate=1e-6", "training.epochs=null", "training.steps=3")
    alone = updates_of(*rare, *ALONE)
    together = updates_of(*rare, "runtime.together=auto")
    for client, one in alone.items():
        assert np.abs(one[:-1]).max() > 1e-3
        assert np.abs(one - together[client]).max() <= CLOSE * np.abs(one[:-1]).max()
    rows = np.stack([one[:-1] for one in together.values()])
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 6 / np.sqrt(rows.shape[1]), "the noise of one client tells nothing of another's"


def test_the_order_of_asking_changes_no_bit():
    one = workspace_of(*PRIVATE, "runtime.together=2")
    other = workspace_of(*PRIVATE, "runtime.together=2")
    cohort = [int(client) for client in one.plan.cohort(1)]
    asked = {client: vector_of(one, client) for client in cohort}
    for client in [cohort[4], cohort[1]]:
        assert np.array_equal(vector_of(other, client), asked[client])


def test_one_by_one_is_opacus_as_it_was():
    work = workspace_of(*PRIVATE, "runtime.together=1")
    client = int(work.plan.cohort(1)[0])
    found = vector_of(work, client)[:-1]
    other = workspace_of(*PRIVATE, "runtime.together=1")
    seed = seed_generators(other.device, other.plan.config.seed, "train", 1, client)
    request: Request = request_of(other, client)
    job = client_job(other, request, {}, other.initial_D, seed)
    other.plan.backend.prepare(job)
    train(job)
    update_D = other.layout(job.model).flatten() - other.initial_D
    assert np.array_equal(found, update_D.numpy() * np.float32(other.plan.weight(client)))


def test_a_client_that_got_other_weights_trains_from_its_own():
    work = workspace_of(*PRIVATE, "runtime.together=auto")
    alone = workspace_of(*PRIVATE, "runtime.together=1")
    own_D = work.initial_D.numpy()[::-1].copy()
    first, second = (int(client) for client in work.plan.cohort(1)[:2])
    vector_of(work, first)
    assert np.array_equal(vector_of(work, second, model_D=own_D), vector_of(alone, second, model_D=own_D))


def test_a_run_pays_the_same_and_tells_the_same(tmp_path):
    """The costs in epsilon, and each client's own diagnostics."""
    told = []
    for wanted in (ALONE, ("runtime.together=auto",)):
        folder = tmp_path / str(len(told))
        other = ("mechanism.dp_sgd.clip=7", "runtime.client_diagnostics=true", "output.progress=false", f"out={folder}")
        execute(compose(*SMALL, *PRIVATE, *wanted, *other))
        rows = RunDirectory(folder).rows()
        is_told = rows["metric"].is_in(["epsilon_record", "clipped_fraction"])
        told.append(rows.filter(is_told).select("round", "where", "stage", "metric", "value").rows())
    assert {row[3] for row in told[0]} == {"clipped_fraction", "epsilon_record"}
    assert {row[4] for row in told[0] if row[3] == "clipped_fraction" if row[0] == 1} - {0.0, 1.0}
    assert told[0] == told[1]


def test_a_job_that_nobody_prepared_gives_no_update():
    """Only the group's own training, which `stacked` has noised, stands in for `prepare`."""
    work = workspace_of(*PRIVATE, "runtime.together=1")
    client = int(work.plan.cohort(1)[0])
    job = client_job(work, request_of(work, client), {}, work.initial_D, 1)
    train(job)
    with pytest.raises(AssertionError):
        work.plan.backend.on_update(job, work.layout(job.model).flatten() - work.initial_D)


def test_clients_of_a_group_are_not_prepared(monkeypatch):
    """Their private copies and optimizers took a tenth of a private round."""
    wanted = updates_of("runtime.together=auto")

    def unasked(*_: object) -> None:
        raise AssertionError("prepared")

    monkeypatch.setattr("privacy.mechanisms.dp_sgd.DpSgd.prepare", unasked)
    found = updates_of("runtime.together=auto")
    assert all(np.array_equal(found[client], own) for client, own in wanted.items())
    with pytest.raises(AssertionError, match="prepared"):
        updates_of(*ALONE)
