"""Spending and guarantees of a run from the user's view: budgets, summaries, refusals."""

import math
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from results.rows import read_rows
from tests.experiments.command import Here, read, refused
from tests.fl.whole_runs.spending import BUDGET, CLIENT_DP, DELTA, SPENDING, charged, epsilon_of
from tests.privacy.accounting.exact import gaussian_epsilon
from tests.scenery.paths import some


def test_a_run_ends_before_the_round_that_would_pass_its_budget(here, tmp_path):
    ended = here.run(*SPENDING, "out=run")
    assert ended.status == 0, ended
    assert "3 rounds" in ended.out
    assert f"epsilon_budget={BUDGET:g} ends the run before round 4" in ended.err
    folder = tmp_path / "run"
    summary = read(tmp_path / "run", "summary")
    assert read(folder, "status")["status"] == "budget_exhausted"
    assert summary["rounds"] == summary["evaluated_round"] == 3
    assert summary["epsilon"] == pytest.approx(epsilon_of(3))
    assert summary["epsilon"] <= BUDGET
    scores = read_rows(folder / "rows.parquet").filter(pl.col("metric") == "accuracy")
    assert scores["round"].to_list() == [3], "evaluated once, at the end that the budget set"
    before = {path: path.read_bytes() for path in some(folder.rglob("*")) if path.is_file()}
    again = here.run(*SPENDING, "out=run")
    assert again.status == 0
    assert "finished earlier" in again.out
    assert {path: path.read_bytes() for path in some(folder.rglob("*")) if path.is_file()} == before


def test_a_budget_that_is_never_reached_ends_nothing(here, tmp_path):
    assert here.run(*CLIENT_DP, "rounds=3", f"epsilon_budget={epsilon_of(3) * 1.001}", "out=run").status == 0
    assert read(tmp_path / "run", "status")["status"] == "finished"
    assert read(tmp_path / "run", "summary")["rounds"] == 3


def test_a_budget_below_the_first_round_is_refused(here):
    line = refused(here.run(*CLIENT_DP, "epsilon_budget=0.5", "out=run"))
    assert line == "epsilon_budget=0.5: the first round costs more; raise it, or the noise"


SAID = ("epsilon_unit", "delta", "accountant", "noise", "holds_against")


def summary_of(here: Here, *overrides: str) -> dict:
    ended = here.run(*overrides, "out=run")
    assert ended.status == 0, ended
    return read(Path("run"), "summary")


def test_a_summary_says_what_client_dp_gives(here):
    summary = summary_of(here, "mechanism=client_dp", "clients=6", "cohort=2", "rounds=4", f"delta={DELTA}")
    times = Counter(client for number, clients in charged(Path("run/checkpoints")) for client in clients)
    assert sum(times.values()) == 8
    assert len(set(times.values())) > 1
    # PRV, the default, adds its error bound to the exact value
    exact = {n: gaussian_epsilon(n**-0.5, DELTA) for n in times.values()}
    spread = sorted(exact[n] for n in times.values())
    assert summary["epsilon"] == summary["epsilon_client"] == pytest.approx(spread[-1], abs=0.03)
    assert summary["epsilon_client_median"] == pytest.approx(spread[len(spread) // 2], abs=0.03)
    assert [summary[key] for key in SAID] == ["client", DELTA, "prv", "os", "outsider"]


def test_a_summary_says_what_local_dp_gives(here):
    """One round at epsilon_per_round=8 is epsilon 8; over 2 rounds the noise is worth half its variance."""
    options = ("mechanism=local_dp", f"delta={DELTA}", "noise=seeded", "accountant=pld")
    summary = summary_of(here, *options, "rounds=1")
    assert summary["epsilon"] == summary["epsilon_client_median"] == pytest.approx(8.0, rel=1e-3)
    assert [summary[key] for key in SAID] == ["client", DELTA, "pld", "seeded", "outsider and server"]


def test_a_summary_says_what_dp_sgd_gives(here):
    """359 or 360 examples in batches of 32 make 12 steps a round, each with a rate of 1/12."""
    summary = summary_of(here, "mechanism=dp_sgd", "mechanism.dp_sgd.noise_multiplier=0.9", "accountant=rdp")
    step = PoissonSampledDpEvent(1 / 12, GaussianDpEvent(0.9))
    expected = RdpAccountant().compose(step, 24).get_epsilon(1e-5)
    assert summary["epsilon"] == summary["epsilon_record"] == pytest.approx(expected)
    assert "epsilon_client" not in summary
    assert [summary[key] for key in SAID] == ["record", 1e-5, "rdp", "os", "outsider and server"]


def test_a_summary_says_the_noise_that_was_solved(here):
    solved = ("mechanism.dp_ftrl.noise_multiplier=null", "mechanism.dp_ftrl.target_epsilon=5")
    options = ("mechanism=dp_ftrl", "clients=6", "cohort=2", "rounds=6", f"delta={DELTA}", "accountant=pld")
    ended = here.run(*options, *solved, "out=run")
    summary = read(Path("run"), "summary")
    sigma = summary["dp_ftrl.noise_multiplier"]
    assert gaussian_epsilon(2**-0.5 * sigma, DELTA) == pytest.approx(5, rel=3e-3)  # everybody is asked twice
    assert f"dp_ftrl.noise_multiplier {sigma:.4g}" in ended.out
    assert [summary[key] for key in SAID] == ["client", DELTA, "pld", "os", "outsider"]


def test_a_summary_says_what_distributed_dp_gives(here):
    """Under the plain sum the server sees single shares, so it is left out of the promise."""
    summary = summary_of(here, "mechanism=distributed_dp", f"delta={DELTA}", "mechanism.distributed_dp.bits=20")
    expected = RdpAccountant().compose(GaussianDpEvent(1.0), 2).get_epsilon(DELTA)
    assert expected < summary["epsilon"] < 1.02 * expected
    assert [summary[key] for key in SAID] == ["client", DELTA, "rdp", "os", "outsider"]
    assert summary["upload_bytes_per_parameter"] == pytest.approx(4 * 1025 / 650, rel=0.05)  # and NumPy's header


def test_a_summary_promises_nothing_for_plain(here):
    summary = summary_of(here)
    assert summary["epsilon"] is None
    assert not {key for key in summary if key.startswith(("epsilon_", "delta", "holds", "accountant"))}


BOTH = ("mechanism=client_dp", "+mechanism.dp_sgd._target_=privacy.DpSgd", "accountant=rdp")


def test_two_units_hold_against_their_own(here):
    """The clients' epsilon is that of client_dp, without a guarantee against the server, which adds its noise."""
    summary = summary_of(here, *BOTH, "+mechanism.dp_sgd.noise_multiplier=1.0", f"delta={1e-5}")
    assert summary["epsilon_record"] < math.inf
    assert summary["epsilon"] == summary["epsilon_client"] != summary["epsilon_record"]
    assert summary["epsilon_unit"] == "client"
    assert summary["holds_against"] == "outsider"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("training.weighting=examples",), "training.weighting=examples: {} needs training.weighting=uniform"),
        (("delta=0.25",), "delta=0.25: must be below 1/clients = 0.25"),
        (("delta=1.0",), "delta=1.0: must lie between 0 and 1"),
        (("noise=none",), "noise=none: allowed are os, seeded"),
        (("accountant=gdp",), "accountant=gdp: allowed are prv, rdp, pld"),
        (("epsilon_budget=0",), "epsilon_budget=0.0: must be a finite number above 0"),
        (("mechanism.{}.clip=-1.0",), "mechanism.{}.clip=-1.0: must be a finite number above 0"),
    ],
)
@pytest.mark.parametrize("name", ["client_dp", "local_dp"])
def test_what_breaks_a_promise_is_refused_in_one_line(here, name, overrides, line):
    assert refused(here.run(f"mechanism={name}", *(o.format(name) for o in overrides), "out=run")) == line.format(name)
    assert not Path("run").exists()


def test_local_dp_works_with_the_accountant_that_is_the_default_or_is_refused_before_it_trains(here):
    ended = here.run("mechanism=local_dp", f"delta={DELTA}", "out=run")
    if ended.status:
        assert "accountant=prv" in refused(ended)
        assert not Path("run").exists(), "it was refused after it had trained"
    else:
        assert read(Path("run"), "summary")["epsilon"] > 8.0


def test_relations_that_cannot_be_added_are_refused_before_anything_trains(here):
    extra = (
        "+mechanism.local_dp._target_=privacy.LocalDp",
        "+mechanism.local_dp.noise_multiplier=1.0",
    )
    line = refused(here.run("mechanism=client_dp", *extra, f"delta={DELTA}", "accountant=rdp", "out=run"))
    assert "relation" in line
    assert not Path("run").exists(), "it was refused after it had trained"
