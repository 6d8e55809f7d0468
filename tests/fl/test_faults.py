import numpy as np
import pytest

from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.fault_options import FaultsConfig
from fl.faults import drop_out, scale_of, scaled_clients
from fl.server import Errand
from fl.workspace import Workspace
from privacy.errors import ConfigError, RuntimeFailure
from tests.composed import canonical


@pytest.mark.parametrize("count", [0, 2, 10])
def test_so_many_clients_cheat_and_the_seed_says_who(count):
    chosen = scaled_clients(count, 10, 1)
    assert len(chosen) == count
    assert chosen <= set(range(10))
    assert chosen == scaled_clients.__wrapped__(count, 10, 1)
    assert count in (0, 10) or {scaled_clients(count, 10, seed) for seed in range(20)} != {chosen}


def test_who_cheats_multiplies_and_nobody_else_does():
    faults = FaultsConfig(scaled_clients=3, scale=-7.0)
    factors = [scale_of(client, faults, 10, 5) for client in range(10)]
    assert sorted(factors) == [-7.0] * 3 + [1.0] * 7


def test_the_rate_is_that_of_each_client_and_round():
    faults = FaultsConfig(dropout_rate=0.3)

    def gone(number, client, seed=1):
        try:
            drop_out(client, number, "collect", faults, seed)
        except RuntimeFailure:
            return True
        return False

    drawn = [[gone(number, client) for client in range(50)] for number in range(1, 41)]
    assert abs(np.mean(drawn) - 0.3) < 0.05
    assert drawn[0] != drawn[1]
    assert drawn[0] == [gone(1, client) for client in range(50)] != [gone(1, client, seed=2) for client in range(50)]
    assert not any(gone(0, client) for client in range(50)), "at set-up"


SECAGG = ("secure_sum=secagg", "clients=10", "secure_sum.server=curious", "faults.dropout_rate=0.15", "seed=2")


@pytest.mark.parametrize("stage", [None, "advertise", "share_keys", "mask", "confirm", "unmask"])
def test_who_falls_silent_at_a_stage_is_told_and_the_round_goes_on(tmp_path, stage):
    """Masks are in the sum from the third stage on, so who is lost later still counts."""
    one = [] if stage is None else [f"faults.dropout_stage={stage}"]
    work = Workspace(canonical(*SECAGG, *one))
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    lost = rows.filter(rows["metric"] == "dropped")
    assert set(lost["stage"]) == {stage or "advertise"}
    survivors = rows.filter(rows["metric"] == "survivors")["value"].sum()
    assert survivors == 20 - (0 if stage in ("confirm", "unmask") else len(lost))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("faults.dropout_stage=mask",), "faults.dropout_stage=mask: belongs to faults.dropout_rate"),
        (
            ("faults.dropout_stage=mask", "faults.dropout_rate=0.1"),
            "faults.dropout_stage=mask: secure_sum=plain asks clients at collect",
        ),
    ],
)
def test_a_stage_that_drops_nobody_is_refused(overrides, message):
    with pytest.raises(ConfigError) as refusal:
        Workspace(canonical(*overrides))
    assert str(refusal.value) == message
