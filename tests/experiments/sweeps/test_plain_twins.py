"""Plain twins: a sweep runs the baselines that its grid lacks, each once."""

import json
from pathlib import Path

import polars as pl
import pytest

from results.comparison import compare
from results.runs import collect, find_runs
from tests.experiments.command import QUICK, Here

FEW = ("rounds=1", "clients=3", "training.weighting=uniform")


def swept(here: Here, *overrides: str) -> pl.DataFrame:
    ended = here("sweep", *QUICK, *FEW, *overrides, "out=cells")
    assert ended.status == 0, ended
    return collect(find_runs([Path("cells")]))


def test_missing_twins_are_added_once_for_each_seed(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    dp = "mechanism.dp_sgd.noise_multiplier=1,2"
    runs = swept(here, "mechanism=dp_sgd", "delta=5e-4", dp, "seed=1,2")
    assert len(runs) == 6
    assert runs["plain"].sum() == 2
    private = compare(runs).filter(~pl.col("plain"))
    assert private["train_ratio_n"].to_list() == [2, 2], "every cell has its twin"
    twins = [json.loads(text) for text in runs.filter("plain")["configuration"]]
    assert all(twin["training"]["weighting"] == "uniform" and twin["clients"] == 3 for twin in twins)
    assert all(twin["delta"] == 5e-4 for twin in twins), "as a plain cell of this grid would have it"


def test_a_twin_that_the_grid_has_is_not_run_again(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here("sweep", *QUICK, *FEW, "secure_sum=plain,secagg", "noise=seeded", "delta=1e-3", "out=cells")
    assert ended.status == 0
    assert "plain twin" not in ended.out
    assert len(find_runs([Path("cells")])) == 2
    assert ended.err.count("Launching") == 1, "the plan is not told"


def test_twins_can_be_left_out(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(swept(here, "secure_sum=secagg", "seed=1,2", "output.twins=false")) == 2


def test_a_single_run_has_none(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert here.run(*FEW, "secure_sum=secagg", "out=cells").status == 0
    assert len(find_runs([Path("cells")])) == 1


def test_a_cell_that_has_no_twin_runs_all_the_same(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    faults = ("faults.dropout_rate=0.01", "faults.dropout_stage=mask")
    ended = here("sweep", *QUICK, *FEW, "secure_sum=secagg", *faults, "seed=1,2", "out=cells")
    assert ended.status == 0
    assert ended.err.count("not run, so there is no comparison with it: faults.dropout_stage=mask") == 2
    assert len(find_runs([Path("cells")])) == 2


def test_nothing_is_run_where_a_sweep_only_tells(here: Here, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here("hash", "-m", *QUICK, *FEW, "secure_sum=secagg", "seed=1,2")
    assert ended.status == 0
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("override", ["training.lr=banana", "model=nothing"])
def test_what_cannot_be_composed_is_said_once(here: Here, tmp_path: Path, monkeypatch, override: str) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here("sweep", *QUICK, *FEW, "secure_sum=secagg", override, "seed=1,2", "out=cells")
    assert ended.status == 2
    assert ended.err.count("fedveil: error:") == 1
