"""Real runs under DP-FTRL: the model, a stop, and a refusal before anybody trains."""

import numpy as np
import polars as pl
import pytest
import torch

from fl.checkpoint import Checkpoints
from fl.training import vectors
from privacy.errors import ConfigError
from tests.composed import PROBE, run, server_of, workspace_of
from tests.fl.faults.stopping import stopped_in
from tests.fl.whole_runs.spending import charged
from tests.outside.probe import known_update
from tests.privacy.mechanisms.dp_ftrl.matrices import strategy

SEEDED = ("noise=seeded", "delta=1e-3", "accountant=rdp", "training.weighting=uniform", "clients=6", "cohort=2")
OWN = ("+mechanism.dp_ftrl._target_=privacy.DpFtrl", "+mechanism.dp_ftrl.noise_multiplier=0.8")
KNOWN = (*PROBE, *OWN, "+mechanism.dp_ftrl.clip=7.0", *SEEDED, "sampler.name=separated", "rounds=7")


def test_the_model_is_the_clipped_updates_and_the_inverse_strategy_on_the_servers_noise(tmp_path):
    work = workspace_of(*KNOWN)
    fresh_TD = np.stack([work.plan.randomness("server", t).generator().standard_normal(650) for t in range(1, 8)])
    std = 0.8 * 7.0 * np.linalg.norm(strategy(3, 3)[:, 0])  # six clients in pairs return after three rounds
    moved_D = np.sum(np.linalg.inv(strategy(3, 7)) @ (std * fresh_TD), axis=0)
    for number in range(1, 8):
        for client in work.plan.cohort(number):
            update_D = known_update(client, number, 650).astype(np.float64)
            moved_D += update_D * 7.0 / np.linalg.norm(update_D)
    weights_D = run(tmp_path, *KNOWN).weights_D
    assert np.allclose(weights_D.numpy(), work.initial_D.numpy() + moved_D / 2, atol=1e-4)
    told = Checkpoints(tmp_path, 2).rows().filter(pl.col("stage") == "dp_ftrl", pl.col("where") == "server")
    assert told.filter(pl.col("metric") == "signal_to_noise")["round"].to_list() == list(range(1, 8))


def test_a_run_that_was_stopped_goes_on_with_its_noise_and_charges_the_window_again(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", *KNOWN)
    stopped = tmp_path / "stopped"
    stopped_in(5, workspace_of(*KNOWN), stopped)
    work = workspace_of(*KNOWN)
    server_of(work, stopped).run()
    state = Checkpoints(stopped, 2).latest()
    assert state is not None
    assert vectors.sha256(state.weights_D) == vectors.sha256(undisturbed.weights_D)
    assert torch.equal(state.secrets["dp_ftrl.noise"], undisturbed.secrets["dp_ftrl.noise"])
    once = [(number, list(work.plan.cohort(number))) for number in range(1, 8)]
    again = (5, sorted(client for number in (3, 4, 5) for client in work.plan.cohort(number)))
    assert charged(tmp_path / "undisturbed") == once
    assert charged(stopped) == [*once[:5], again, *once[5:]]


def test_bands_beyond_what_the_sampler_keeps_are_refused_before_anybody_trains():
    with pytest.raises(ConfigError, match=r"^mechanism.dp_ftrl.bands=2: some client returns after 1 rounds"):
        workspace_of(*OWN, *SEEDED, "rounds=30", "+mechanism.dp_ftrl.bands=2")
    assert workspace_of("mechanism=dp_ftrl", "clients=6", "cohort=2", "rounds=30").plan.backend.window == 3
