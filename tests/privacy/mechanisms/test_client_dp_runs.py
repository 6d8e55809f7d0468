"""Client-level mechanisms in a run: real clients, in this process."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import kstest, norm

from fl.checkpoint import Checkpoints
from fl.runtimes.inprocess import InProcessGrid
from fl.training import vectors
from fl.transport import STATE
from privacy.secure_sums.vectors import Total
from tests.composed import PROBE, run, server_of, workspace_of
from tests.fl.faults.stopping import stopped_in
from tests.outside.probe import known_update

SEEDED = ("noise=seeded", "delta=1e-3", "accountant=rdp", "training.weighting=uniform")
KNOWN = (
    *PROBE,
    "+mechanism.client_dp._target_=privacy.ClientDp",
    "+mechanism.client_dp.clip=7.0",
    *SEEDED,
)
ADAPTIVE = (
    *SEEDED,
    "mechanism=client_dp",
    "mechanism.client_dp.adaptive=true",
    "mechanism.client_dp.clip=0.4",  # the first updates are longer, the last ones shorter
    "mechanism.client_dp.noise_multiplier=0.3",
    "+mechanism.client_dp.bit_noise_fraction=0.2",
    "runtime.client_diagnostics=true",
    "clients=6",
    "cohort=4",
    "rounds=5",
)


@pytest.mark.parametrize("lost", [(), ("client/1",), ("client/0", "client/3")])
def test_the_divisor_is_the_configured_cohort_whoever_drops_out(tmp_path, lost):
    faults = [f"+mechanism.probe.faults={{{','.join(f'{address}:crash' for address in lost)}}}"] if lost else []
    overrides = (*KNOWN, *faults, "+mechanism.client_dp.noise_multiplier=1e-9", "rounds=1")
    moved_D = run(tmp_path, *overrides).weights_D - workspace_of(*overrides).initial_D
    known = [known_update(client, 1, 650).astype(np.float64) for client in range(4) if f"client/{client}" not in lost]
    assert all(seen > 7 for seen in map(np.linalg.norm, known))
    expected_D = np.sum([7.0 * update_D / np.linalg.norm(update_D) for update_D in known], axis=0) / 4
    assert np.abs(moved_D.numpy() - expected_D).max() < 1e-6
    assert np.abs(moved_D.numpy() - expected_D * 4 / (4 - len(lost))).max() > 0.01 or not lost


def test_the_released_count_is_in_no_step(tmp_path):
    """A total by hand: the step is the noised sum over the configured cohort, independent of the reported weight."""
    steps = []
    for number, weight in enumerate((1.0, 3.0, 4.0)):
        server = server_of(workspace_of(*KNOWN, "+mechanism.client_dp.noise_multiplier=0.5"), tmp_path / str(number))
        before_D = server.weights.detach().clone()
        server.step(1, Total(np.linspace(-1, 1, 650), weight, ("client/0",)))
        steps.append(server.weights.detach() - before_D)
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2])
    noise_D = steps[0].numpy() * 4 - np.linspace(-1, 1, 650)
    assert kstest(noise_D / (0.5 * 7.0), norm.cdf).pvalue > 1e-3


class Overheard(InProcessGrid):
    """A grid that records the messages of mechanisms to clients, by round."""

    def push_messages(self, messages):
        messages = list(messages)
        self.told = {**getattr(self, "told", {}), int(messages[0].metadata.group_id): dict(messages[0].content[STATE])}
        assert all(dict(message.content[STATE]) == dict(messages[0].content[STATE]) for message in messages)
        return super().push_messages(messages)


def test_clients_are_told_the_clip_and_use_it(tmp_path):
    work = workspace_of(*ADAPTIVE)
    grid = Overheard(work.plan.hash, 6)
    server_of(work, tmp_path, grid).run()
    clips = [grid.told[number]["client_dp.clip"] for number in range(1, 6)]
    assert clips[0] == 0.4
    assert len(set(clips)) == 5
    rows = Checkpoints(tmp_path, 2).rows()
    assert rows.filter(pl.col("metric") == "clip").sort("round")["value"].to_list() == clips
    own = rows.filter(pl.col("stage") == "client_dp", pl.col("where") != "server")
    for number, clip in enumerate(clips, 1):
        norms, clipped = (
            own.filter(pl.col("round") == number, pl.col("metric") == metric).sort("where")["value"].to_list()
            for metric in ("update_norm", "clipped_fraction")
        )
        assert len(norms) == 4
        assert clipped == [float(length > clip) for length in norms]
        mine = rows.filter(pl.col("round") == number, pl.col("where") == "server", pl.col("stage") == "client_dp")
        for percent in (25, 50, 75):
            told = mine.filter(pl.col("metric") == f"update_norm_q{percent}")["value"].item()
            assert told == pytest.approx(pl.Series(norms).quantile(percent / 100, "linear"))
    assert set(own.filter(pl.col("metric") == "clipped_fraction")["value"]) == {0.0, 1.0}, "the clip was of use"
    ratios = rows.filter(pl.col("metric") == "signal_to_noise")
    assert len(ratios) == 5
    assert set(ratios["where"]) == {"server"}


def test_a_run_that_was_stopped_goes_on_with_its_clip(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", *ADAPTIVE)
    stopped = tmp_path / "stopped"
    server = stopped_in(4, workspace_of(*ADAPTIVE), stopped)
    kept = Checkpoints(stopped, 2).latest()
    assert kept.round == 3
    assert kept.mechanisms == server.state
    assert kept.mechanisms["client_dp.clip"] not in (0.4, undisturbed.mechanisms["client_dp.clip"])
    work = workspace_of(*ADAPTIVE)
    grid = Overheard(work.plan.hash, 6)
    server_of(work, stopped, grid).run()
    assert grid.told[4] == kept.mechanisms
    resumed = Checkpoints(stopped, 2).latest()
    assert resumed.mechanisms == undisturbed.mechanisms
    assert vectors.sha256(resumed.weights_D) == vectors.sha256(undisturbed.weights_D)


def test_noise_of_the_operating_system_is_not_repeated(tmp_path):
    overrides = ("mechanism=client_dp", "rounds=1", "noise=os")
    assert vectors.sha256(run(tmp_path / "a", *overrides).weights_D) != vectors.sha256(
        run(tmp_path / "b", *overrides).weights_D
    )


def test_a_clip_given_as_a_whole_number_reaches_the_clients(tmp_path):
    state = run(tmp_path, "mechanism=client_dp", "mechanism.client_dp.clip=2", "rounds=1", *SEEDED)
    assert state.round == 1
    same = run(tmp_path / "float", "mechanism=client_dp", "mechanism.client_dp.clip=2.0", "rounds=1", *SEEDED)
    assert vectors.sha256(state.weights_D) == vectors.sha256(same.weights_D)
