"""The witness within a run: an alarm ends it before any upload, and its time counts as no overhead."""

import numpy as np
import polars as pl
import pytest

from fl.metering import Meter
from privacy.errors import WitnessAlarm
from privacy.witness.examine import FALSE_ALARM
from results.summary import summarise
from tests.composed import rows_in, run_with_set_up

BARE = ("secure_sum=pad", "secure_sum.keys=clients", "secure_sum._target_=tests.outside.bare_pad.BarePad")
HIDDEN = {
    "pad": ("secure_sum=pad", "secure_sum.keys=clients"),
    "bfv": ("secure_sum=bfv", "secure_sum.keys=clients"),
    "ckks": ("secure_sum=ckks", "secure_sum.keys=clients"),
    "secagg": ("secure_sum=secagg",),
}


@pytest.mark.parametrize(
    "runtime", [(), pytest.param(("runtime.workers=1",), marks=pytest.mark.slow)], ids=["in process", "workers"]
)
def test_protection_that_never_switches_on_ends_the_run(tmp_path, runtime):
    with pytest.raises(WitnessAlarm, match="stops stage collect"):
        run_with_set_up(tmp_path, *BARE, *runtime)
    rows = rows_in(tmp_path / "checkpoints")
    sent = rows.filter(pl.col("metric") == "up_bytes", pl.col("stage") == "collect")
    assert sent.is_empty(), "nothing of an update left"
    assert "down_bytes" in rows.filter(pl.col("round") == 1)["metric"].to_list(), "what was measured is kept"


def test_without_a_witness_nobody_would_know(tmp_path):
    """The control: the same run ends well, with the weights of one that is protected."""
    bare = run_with_set_up(tmp_path / "bare", *BARE, "witness=false")
    honest = run_with_set_up(tmp_path / "honest", *HIDDEN["pad"])
    assert np.array_equal(bare.weights_D.numpy(), honest.weights_D.numpy())


def test_its_time_stands_apart(tmp_path):
    run_with_set_up(tmp_path, "secure_sum=secagg")
    rows = rows_in(tmp_path / "checkpoints").filter(pl.col("round") >= 1)
    witness = rows.filter(pl.col("stage") == "witness", pl.col("metric") == "wall")
    assert len(witness) == 2 * 4, "each client looked in each round"
    waited = rows.filter(pl.col("stage") == "round", pl.col("metric") == "witness").sort("round")
    each = witness.group_by("round").agg(pl.col("value").sum()).sort("round")
    assert waited["value"].to_list() == pytest.approx(each["value"].to_list()), "clients ran in turn"
    walls = rows.filter(pl.col("stage") == "round", pl.col("metric") == "wall").sort("round")["value"]
    summary = summarise(rows_in(tmp_path / "checkpoints"), parameters=650, final={})
    assert summary["first_round_s"] == pytest.approx(walls[0] - waited["value"][0])
    assert summary["witness_s"] == pytest.approx(waited["value"].mean())
    peaks = rows_in(tmp_path / "checkpoints").filter(pl.col("metric") == "peak_rss", pl.col("stage") != "witness")
    assert summary["peak_rss_bytes"] == peaks["value"].max()


def test_where_clients_run_at_once_a_round_waits_for_less():
    meter = Meter()
    for client, seconds in enumerate([3.0, 1.0, 1.0, 1.0]):
        meter.add(f"client/{client}", "witness", "wall", seconds, "s")
    assert meter.witnessing_s(lanes=1) == 6.0
    assert meter.witnessing_s(lanes=2) == 3.0
    assert meter.witnessing_s(lanes=4) == 3.0, "as long as the slowest"


def test_plain_has_nothing_to_look_at(tmp_path):
    run_with_set_up(tmp_path)
    assert rows_in(tmp_path / "checkpoints").filter(pl.col("stage") == "witness").is_empty()


def test_it_changes_no_weight(tmp_path):
    states = [run_with_set_up(tmp_path / str(on), "secure_sum=secagg", f"witness={on}") for on in (True, False)]
    assert np.array_equal(states[0].weights_D.numpy(), states[1].weights_D.numpy())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_honest_runs_raise_no_alarm(tmp_path):
    assert FALSE_ALARM <= 1e-9
    kinds = list(HIDDEN.values())
    for seed in range(200):
        run_with_set_up(tmp_path / str(seed), *kinds[seed % len(kinds)], f"seed={seed}")
