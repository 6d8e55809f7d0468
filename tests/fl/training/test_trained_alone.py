"""What does not require a gradient is no part of what is clipped, noised, encrypted and sent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl.checkpoint import Checkpoints
from privacy.errors import RunRefused
from tests.composed import rows_in, run, run_with_set_up, server_of, vector_of, workspace_of
from tests.fl.models import zoo

FROZEN = "model._target_=tests.fl.models.zoo.Frozen"
TRAINED = zoo.WIDTH * 10 + 10
UNIFORM = ("training.weighting=uniform", "delta=5e-4", "clients=20", "cohort=5")
SLOTS = ["plain", "ckks", "bfv", "pad", "secagg", "crypten", "dp_sgd", "client_dp", "local_dp", "distributed_dp_bfv"]


@pytest.mark.parametrize("privacy", SLOTS)
def test_a_frozen_layer_takes_no_place_in_the_vector(privacy):
    work = workspace_of(FROZEN, f"privacy={privacy}", *UNIFORM)
    assert work.trained == len(work.initial_D) == TRAINED
    assert work.plan.backend.summed_length(TRAINED) == work.spec.segments[0].length < 2 * TRAINED


@pytest.mark.parametrize("name", ["client_dp", "local_dp"])
def test_noise_reaches_trained_values_alone(tmp_path, name):
    """The noise of one round is so large that a frozen layer would show it."""
    options = (FROZEN, f"mechanism={name}", *UNIFORM, f"mechanism.{name}.noise_multiplier=100", "rounds=1")
    if name == "local_dp":
        options += ("mechanism.local_dp.epsilon_per_round=null",)
    work = workspace_of(*options)
    before = work.model.first.weight.detach().clone()
    state = run(tmp_path, *options)
    assert len(state.weights_D) == TRAINED
    assert (state.weights_D - work.initial_D).abs().min() > 0
    work.load(state.weights_D)
    assert torch.equal(work.model.first.weight, before)
    assert torch.equal(work.model.last.bias, state.weights_D[-10:])


def test_the_clip_is_of_the_norm_of_trained_values():
    options = ("mechanism=client_dp", *UNIFORM[:3], "mechanism.client_dp.clip=0.01")
    update_D = vector_of(workspace_of(FROZEN, *options), state={"client_dp.clip": 0.01})[:-1]
    assert np.linalg.norm(update_D.astype(np.float64)) == pytest.approx(0.01, rel=1e-3)
    assert len(update_D) == TRAINED


def test_bytes_are_those_of_trained_values(tmp_path):
    run_with_set_up(tmp_path, FROZEN, "rounds=1")
    rows = rows_in(tmp_path / "checkpoints")
    sent = rows.filter((rows["metric"] == "up_bytes") & (rows["round"] == 1))["value"].to_list()
    assert len(sent) == 4
    assert all(4 * (TRAINED + 1) <= one < 4 * (TRAINED + 1) + 400 for one in sent)


def test_a_checkpoint_with_values_that_are_not_trained_is_refused(tmp_path):
    state = run(tmp_path, FROZEN, "rounds=1")
    longer = replace(state, weights_D=torch.cat([torch.zeros(64 * zoo.WIDTH + zoo.WIDTH), state.weights_D]))
    Checkpoints(tmp_path, 1).save(longer, [])
    with pytest.raises(RunRefused, match=f"has {65 * zoo.WIDTH + TRAINED} values, and the model trains {TRAINED}"):
        server_of(workspace_of(FROZEN, "rounds=2"), tmp_path)


def test_a_constant_buffer_takes_no_place_and_stays(tmp_path):
    options = ("model._target_=tests.fl.models.zoo.Constant", "rounds=1")
    work = workspace_of(*options)
    assert work.trained == len(work.initial_D) == sum(p.numel() for p in work.model.parameters())
    state = run(tmp_path, *options)
    work.load(state.weights_D)
    assert work.model.scale.tolist() == [0.5] * 5


def test_an_optimizer_that_decays_weights_leaves_frozen_ones():
    work = workspace_of(FROZEN, "training/optimizer=adamw", "training.optimizer.weight_decay=0.5", "training.lr=0.1")
    before = work.model.first.weight.detach().clone()
    vector_of(work)
    assert torch.equal(work.model.first.weight, before)


def test_complex_values_are_summed_as_pairs(tmp_path):
    """The oracle: the mean of four clients' own updates, in float64, as the sum under masks opens it."""
    options = ("model._target_=tests.fl.models.zoo.Complex", "rounds=1", "training.weighting=uniform")
    work = workspace_of(*options)
    assert len(work.initial_D) == 2 * 64 * zoo.WIDTH + TRAINED
    mean_D = np.mean([vector_of(work, client)[:-1].astype(np.float64) for client in range(4)], axis=0)
    assert np.abs(mean_D[: 2 * 64 * zoo.WIDTH]).max() > 1e-3
    for name in ("plain", "secagg"):
        state = run_with_set_up(tmp_path / name, *options, f"secure_sum={name}")
        moved_D = (state.weights_D.double() - work.initial_D.double()).numpy()
        assert np.abs(moved_D - mean_D).max() < 1e-4
