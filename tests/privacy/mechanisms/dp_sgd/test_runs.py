"""Whole runs under DP-SGD: reproducible where they are seeded, and finite whatever the gradients."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from privacy.mechanisms.contract import Batch, ClientJob, Mechanism
from privacy.mechanisms.dp_sgd_modes import MODES
from tests.composed import examples_of as digits_of
from tests.composed import gradient_at, run, vector_of, workspace_of

SEEDED = ("mechanism=dp_sgd", "noise=seeded")


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_is_the_models_state_in_its_order(mode):
    """All examples drawn, no clipping, negligible noise: plain gradient descent, computed by hand."""
    options = ("noise_multiplier=1e-9", "clip=1e3", f"mode={mode}")
    work = workspace_of(*SEEDED, *(f"mechanism.dp_sgd.{one}" for one in options), "training.batch_size=10000")
    vector = vector_of(work, 1)
    gradient_D = gradient_at(work.initial_D.numpy().astype(np.float64), *digits_of(work, work.plan.partitions[1]))
    assert vector[-1] == 1
    assert np.abs(vector[:-1] + 0.05 * gradient_D).max() < 1e-6


def test_clients_and_rounds_have_noise_of_their_own():
    work = workspace_of(*SEEDED, "training.sample_rate=1e-12", "training.epochs=null", "training.steps=1")
    again = workspace_of(*SEEDED, "training.sample_rate=1e-12", "training.epochs=null", "training.steps=1")
    noise_ND = np.stack([vector_of(work, client, round_)[:-1] for client in (0, 1) for round_ in (1, 2)])
    assert np.array_equal(vector_of(again, 1, 2)[:-1], noise_ND[3])
    assert np.abs(np.corrcoef(noise_ND) - np.eye(4)).max() < 6 / math.sqrt(650)


@pytest.mark.parametrize("overrides", [(f"mechanism.dp_sgd.mode={mode}",) for mode in MODES])
def test_a_run_is_reproducible_where_its_noise_is_seeded(tmp_path, overrides):
    first, second = (run(tmp_path / name, *SEEDED, *overrides) for name in ("first", "second"))
    assert first.round == 2
    assert torch.isfinite(first.weights_D).all()
    assert torch.equal(first.weights_D, second.weights_D)


def test_another_seed_gives_another_run(tmp_path):
    first, other = (run(tmp_path / seed, *SEEDED, f"seed={seed}") for seed in "12")
    assert not torch.equal(first.weights_D, other.weights_D)


def test_a_run_with_the_systems_noise_is_not_reproducible(tmp_path):
    first, second = (run(tmp_path / name, "mechanism=dp_sgd", "noise=os") for name in ("a", "b"))
    assert not torch.equal(first.weights_D, second.weights_D)


def test_a_run_of_noise_solved_for_epsilon(tmp_path):
    target = ("mechanism.dp_sgd.noise_multiplier=null", "mechanism.dp_sgd.target_epsilon=3")
    assert run(tmp_path, *SEEDED, *target, "accountant=rdp").round == 2


class Broken(Mechanism):
    """A mechanism that spoils one client's inputs, so that none of its gradients is finite."""

    name = "broken"

    def prepare(self, job: ClientJob) -> None:
        if job.address == "client/1":
            job.batches = self._spoilt(job.batches)

    def _spoilt(self, batches) -> Iterator[Batch]:
        return ((inputs * math.nan, labels) for inputs, labels in batches)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_whose_gradients_are_not_finite_takes_part_like_any_other(tmp_path, caplog, mode):
    """A client that is left out would tell that it holds such examples."""
    broken = f"+mechanism.broken._target_={Broken.__module__}.Broken"
    state = run(tmp_path / "run", *SEEDED, broken, f"mechanism.dp_sgd.mode={mode}", "server.min_contributors=4")
    assert torch.isfinite(state.weights_D).all()
    assert "client/1" not in caplog.text
