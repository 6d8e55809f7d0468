"""Sums by CrypTen's parties as processes: results, costs, listening addresses, and keys of their own."""

import os

import numpy as np
import pytest
import torch

from fl.keys import folders as keys
from privacy.errors import RunRefused
from tests.composed import rows_in, run_with_set_up, state_in, workspace_of
from tests.fl.runtimes.parties.runs import CRYPTEN, SEEDED, addresses, in_round, parties
from tests.privacy.secure_sums.mpc.committee import free_port


def test_a_run_ends_where_the_plain_one_does_and_its_parties_tell_their_costs(tmp_path, monkeypatch):
    """And they listen on loopback alone, and are gone at the end."""
    listening: list[set[str]] = []
    in_round(monkeypatch, 2, lambda: listening.extend(map(addresses, parties())))
    tolerance = workspace_of(*CRYPTEN).tolerance
    found = run_with_set_up(tmp_path / "run", *CRYPTEN)
    plain = run_with_set_up(tmp_path / "plain")
    assert 0 < (found.weights_D - plain.weights_D).abs().max() < 100 * tolerance
    assert listening == [{"127.0.0.1"}] * 2
    assert not parties()
    rows = rows_in(tmp_path / "run" / "checkpoints")
    for party in ("party/0", "party/1"):
        own = rows.filter((rows["where"] == party) & (rows["round"] == 2))
        told = {(stage, metric): value for stage, metric, value in own.select("stage", "metric", "value").iter_rows()}
        assert told["peers", "comm_rounds"] == 3  # lists, sets, and CrypTen's reduction
        # 651 words of eight bytes there and back, and two signed messages
        assert 0 < told["peers", "comm_bytes"] - 2 * 8 * 651 < 2000
        assert told["protect", "cpu"] > 0
        assert 0 < told["peers", "comm_wall"] <= told["protect", "wall"]
        assert told["reveal", "down_bytes"] > 0


@pytest.mark.slow
def test_parties_meet_where_they_are_told_to_and_nowhere_else(tmp_path, monkeypatch):
    listening: list[set[str]] = []
    in_round(monkeypatch, 1, lambda: listening.extend(map(addresses, parties())))
    run_with_set_up(tmp_path, *CRYPTEN, f"secure_sum.rendezvous=tcp://127.0.0.1:{free_port()}", "rounds=1")
    assert listening == [{"127.0.0.1"}] * 2


@pytest.mark.slow
def test_weights_are_the_same_however_many_parties_and_workers(tmp_path):
    states = [
        run_with_set_up(tmp_path / str(index), "secure_sum=crypten", *overrides, SEEDED)
        for index, overrides in enumerate([("secure_sum.parties=2",), ("secure_sum.parties=5", "runtime.workers=2")])
    ]
    assert torch.equal(states[0].weights_D, states[1].weights_D)


@pytest.mark.slow
def test_distributed_noise_under_shares_is_that_under_the_plain_sum(tmp_path):
    noised = ("mechanism=distributed_dp", "delta=1e-2", SEEDED)
    plain = run_with_set_up(tmp_path / "plain", *noised)
    hidden = run_with_set_up(tmp_path / "shared", *noised, *CRYPTEN)
    assert torch.equal(plain.weights_D, hidden.weights_D)
    assert workspace_of(*noised, *CRYPTEN).plan.backend.holds_against("client") == ["outsider", "server"]


def test_a_process_that_plays_a_role_has_no_other_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_held", None)
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    everybody = ("client/0", "party/0", "party/1")
    keys.set_up(tmp_path, everybody)
    own = keys.simulated("party/1", everybody)
    parcel = keys.parcel("party/1", everybody)
    assert own.identity.to_bytes().hex() not in repr(parcel)
    assert str(own.identity.to_bytes()) not in repr(parcel)
    held = keys.hold(parcel)
    assert keys.simulated("party/1", everybody) is held
    assert held.identity.public == own.identity.public
    assert held.roster.to_bytes() == own.roster.to_bytes()
    held.store.put("kept", b"1")
    assert own.store.get("kept") == b"1"
    with pytest.raises(RunRefused, match="this process has the keys of party/1 alone"):
        keys.simulated("party/0", everybody)
    assert keys.KEYS_VARIABLE not in os.environ


@pytest.mark.slow
def test_values_beyond_the_bound_are_cut_and_counted(tmp_path):
    run_with_set_up(tmp_path, *CRYPTEN, "secure_sum.bound=0.05", "rounds=1")  # a twelfth of the values
    rows = rows_in(tmp_path / "checkpoints")
    cut = rows.filter(rows["metric"] == "clipped_values")
    assert len(cut) == 4
    assert cut["value"].min() > 0
    assert np.isfinite(state_in(tmp_path / "checkpoints").weights_D.numpy()).all()
