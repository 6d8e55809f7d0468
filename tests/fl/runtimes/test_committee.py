"""Sums with parties beside clients and server, through the runtimes: real processes, real ciphertexts."""

import os
import signal
import stat

import numpy as np
import psutil
import pytest
import torch

from fl.keys.folders import MASTER
from privacy.errors import ConfigError, RuntimeFailure
from tests.composed import rows_in, run_with_set_up, workspace_of
from tests.scenery.paths import some

SUMS = [("pad", "keyholder"), ("bfv", "clients")]
SUMS += [
    pytest.param(*rest, marks=pytest.mark.slow)
    for rest in (("pad", "clients"), ("bfv", "keyholder"), ("ckks", "clients"), ("ckks", "keyholder"))
]  # type: ignore[misc]


@pytest.mark.parametrize(("name", "keys"), SUMS)
def test_a_run_ends_where_the_plain_one_does_but_for_rounding(tmp_path, name, keys):
    overrides = (f"secure_sum={name}", f"secure_sum.keys={keys}")
    work = workspace_of(*overrides)
    tolerance = work.plan.backend.secure_sum.tolerance(work.spec)
    assert 0 < tolerance < 1e-3
    found = run_with_set_up(tmp_path / "run", *overrides)
    plain = run_with_set_up(tmp_path / "plain")
    assert (found.weights_D - plain.weights_D).abs().max() < 100 * tolerance
    rows = rows_in(tmp_path / "run" / "checkpoints")
    opened = rows.filter((rows["stage"] == "open") & (rows["metric"] == "down_bytes"))
    assert len(opened) == 2
    assert set(opened["where"]) == ({"keyholder"} if keys == "keyholder" else {"client/0"})


@pytest.mark.slow
def test_exact_sums_give_the_same_weights_wherever_their_key_is_and_in_workers(tmp_path):
    states = [
        run_with_set_up(tmp_path / str(index), *overrides, "noise=seeded")
        for index, overrides in enumerate(
            [
                ("secure_sum=pad",),
                ("secure_sum=pad", "secure_sum.keys=clients"),
                ("secure_sum=bfv", "runtime.workers=2"),
            ]
        )
    ]
    assert all(torch.equal(state.weights_D, states[0].weights_D) for state in states)


def slow(*overrides: str) -> object:
    """Mark a test as slow, since a keyholder takes seconds to start."""
    return pytest.param(overrides, marks=pytest.mark.slow, id=" ".join(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ("secure_sum=bfv", "secure_sum.keys=clients", "secure_sum.masks=false", "secure_sum.broadcast=true"),
        ("privacy=ckks_clients", "secure_sum.encrypt_fraction=0.2", "secure_sum.encrypt_by=sensitivity"),
        ("privacy=fedml_he",),
        slow("secure_sum=ckks", "secure_sum.masks=false"),
        slow("privacy=flare", "runtime.workers=2"),
        slow("secure_sum=bfv", "secure_sum.encrypt_fraction=0.2"),
        slow("secure_sum=ckks", "secure_sum.encrypt_fraction=0.2", "secure_sum.encrypt_by=sensitivity"),
    ],
    ids=str,
)
def test_what_the_field_does_trains_too(tmp_path, overrides):
    """The run also resumes after a stop without another set-up."""
    found = run_with_set_up(tmp_path / "found", *overrides, "rounds=1"), run_with_set_up(tmp_path / "found", *overrides)
    plain = run_with_set_up(tmp_path / "plain", "rounds=1"), run_with_set_up(tmp_path / "plain")
    for state, expected in zip(found, plain, strict=True):
        assert np.allclose(state.weights_D.numpy(), expected.weights_D.numpy(), atol=2e-3)


def test_a_broadcast_counts_the_download_of_every_client(tmp_path):
    run_with_set_up(tmp_path, "privacy=flare", "rounds=1")
    rows = rows_in(tmp_path / "checkpoints")
    down = rows.filter((rows["stage"] == "broadcast") & (rows["metric"] == "down_bytes"))
    up = rows.filter((rows["stage"] == "collect") & (rows["metric"] == "up_bytes"))
    assert len(down) == len(up) - 1
    assert np.allclose(down["value"], up["value"][0], rtol=0.02)


@pytest.mark.slow
def test_distributed_noise_under_an_exact_sum_is_that_under_the_plain_one(tmp_path):
    noised = ("mechanism=distributed_dp", "delta=1e-2", "noise=seeded")
    plain = run_with_set_up(tmp_path / "plain", *noised)
    hidden = run_with_set_up(tmp_path / "pad", *noised, "secure_sum=pad")
    assert torch.equal(plain.weights_D, hidden.weights_D)
    assert workspace_of(*noised, "secure_sum=pad").plan.backend.holds_against("client") == ["outsider", "server"]


def test_an_approximate_sum_refuses_integers():
    with pytest.raises(ConfigError, match="secure_sum=ckks: does not sum integers exactly"):
        workspace_of("mechanism=distributed_dp", "delta=1e-2", "secure_sum=ckks")


@pytest.mark.slow
def test_keys_are_for_their_owner_alone_and_outlast_a_stop(tmp_path):
    run_with_set_up(tmp_path, "secure_sum=ckks", "rounds=1")
    master = (tmp_path / "keys" / MASTER).read_bytes()
    for path in some((tmp_path / "keys").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    secret = (tmp_path / "keys" / "keyholder" / "he.secret").read_bytes()
    assert not list((tmp_path / "keys").glob("client-*/he.secret"))
    for path in some((tmp_path / "checkpoints").iterdir()):
        content = path.read_bytes()
        assert master not in content
        assert secret[100:132] not in content
    run_with_set_up(tmp_path, "secure_sum=ckks", "rounds=1")
    assert (tmp_path / "keys" / MASTER).read_bytes() == master


@pytest.mark.slow
def test_a_keyholder_that_is_killed_ends_the_run_in_one_line(tmp_path, monkeypatch):
    from fl.server import Server

    original = Server.aggregate
    others = {child.pid for child in psutil.Process().children()}  # of tests before this one

    def kill_then_aggregate(self, number, cohort):
        if number == 2:
            own = [child for child in psutil.Process().children() if child.pid not in others]
            (keyholder,) = [child for child in own if "spawn_main" in " ".join(child.cmdline())]
            os.kill(keyholder.pid, signal.SIGKILL)
        return original(self, number, cohort)

    monkeypatch.setattr(Server, "aggregate", kill_then_aggregate)
    with pytest.raises(RuntimeFailure, match=r"^the process of keyholder died$"):
        run_with_set_up(tmp_path, "secure_sum=pad")
    monkeypatch.undo()
    again = run_with_set_up(tmp_path, "secure_sum=pad")
    assert torch.equal(again.weights_D, run_with_set_up(tmp_path / "whole", "secure_sum=pad").weights_D)


@pytest.mark.slow
def test_values_beyond_the_bound_are_cut_and_counted(tmp_path):
    run_with_set_up(tmp_path, "secure_sum=pad", "secure_sum.bound=0.05", "rounds=1")  # a twelfth of the values
    rows = rows_in(tmp_path / "checkpoints")
    cut = rows.filter(rows["metric"] == "clipped_values")
    assert len(cut) == 4
    assert cut["value"].min() > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("secure_sum=ckks", "secure_sum.keys=server"), r"secure_sum\.keys=server: allowed are keyholder, clients"),
        (("secure_sum=pad", "secure_sum.bound=0"), r"secure_sum\.bound=0: must be a finite number above 0"),
        (("secure_sum=pad", "secure_sum.value_bits=1"), r"secure_sum\.value_bits=1: must be from 2 to 32"),
        (("secure_sum=ckks", "secure_sum.parameters=best"), r"secure_sum\.parameters=best: ckks has lean"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(overrides, message):
    with pytest.raises(ConfigError, match=message):
        workspace_of(*overrides)


def test_float32_never_rounds_beyond_the_bound():
    from fl.participant import limited

    for bound in (0.3, 0.1, 1e-3, 7.7):
        host_D = torch.tensor([10.0, -10.0, bound / 2])
        assert limited(host_D, bound) == 2
        assert float(host_D.abs().max()) <= bound
        assert np.isclose(float(host_D.max()), bound)
