"""The files that a run leaves behind, and the ownership of its folder."""

import hashlib
import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fl.checkpoint import Checkpoints
from fl.config.identity import identified
from results.rows import SCHEMA, read_rows
from tests.experiments.command import QUICK, Here, read, refused

# the required keys of a summary
SUMMARY = {
    "accuracy",
    "loss",
    "rounds",
    "round_s",
    "first_round_s",
    "train_s",
    "upload_bytes_per_parameter",
    "download_bytes_per_parameter",
    "epsilon",
    "weights_sha256",
    "backend",
    "assumption",
}
PARAMETERS = 64 * 10 + 10


@pytest.fixture
def finished(here: Here, tmp_path: Path) -> Path:
    """The folder of a finished run of 3 rounds, a cohort of 2 out of 4."""
    ended = here.run("out=run", "rounds=3", "cohort=2")
    assert ended.status == 0, ended
    return tmp_path / "run"


def test_a_run_leaves_its_files_behind(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        ".fedveil.lock",
        "config.json",
        "config.yaml",
        "data.json",
        "environment.json",
        "rows.parquet",
        "summary.json",
        "status.json",
        "checkpoints",
    }
    config = OmegaConf.load(finished / "config.yaml")
    assert isinstance(config, DictConfig)
    assert (config["cohort"], config["rounds"], config["out"]) == (2, 3, "run")
    assert config["model"] == {"_target_": "fl.models.Logistic"}
    resolved = OmegaConf.to_container(config)
    assert isinstance(resolved, dict)
    assert identified(resolved) == read(finished, "config")
    status = read(finished, "status")
    assert (status["status"], status["error"]) == ("finished", None)
    assert status["started"] < status["ended"]
    environment = json.dumps(read(finished, "environment"))
    assert torch.__version__.split("+")[0] in environment


def test_the_summary_holds_what_was_promised(finished: Path) -> None:
    summary = read(finished, "summary")
    assert summary.keys() >= SUMMARY
    assert summary["rounds"] == 3
    assert summary["parameters"] == PARAMETERS
    assert 0.5 < summary["accuracy"] <= 1
    assert summary["epsilon"] is None
    assert summary["backend"] == "plain"
    assert "trusted" in summary["assumption"]
    # float32 values and one weight, with less than 300 bytes around them
    assert 4 * (PARAMETERS + 1) / PARAMETERS <= summary["upload_bytes_per_parameter"] < 4 + 300 / PARAMETERS
    assert 4 <= summary["download_bytes_per_parameter"] < 4 + 300 / PARAMETERS
    assert summary["train_s"] > 0
    assert summary["round_s"] > 0
    assert summary["first_round_s"] > 0
    assert (summary["dropped"], summary["rejected"]) == (0, 0)
    for value in summary.values():
        assert not isinstance(value, float) or math.isfinite(value)


def test_the_rows_are_tidy_and_the_weights_those_of_the_summary(finished: Path) -> None:
    rows = read_rows(finished / "rows.parquet")
    assert dict(rows.schema) == dict(SCHEMA)
    assert rows["round"].unique().sort().to_list() == [0, 1, 2, 3]
    trained = rows.filter(pl.col("where").str.starts_with("client/"), metric="wall", stage="train")
    assert trained.group_by("round").len().sort("round")["len"].to_list() == [2, 2, 2]
    state = Checkpoints(finished / "checkpoints", keep=2).latest()
    assert state is not None
    assert state.round == 3
    kept = sorted(path.name for path in (finished / "checkpoints").glob("*.ckpt"))
    assert kept == ["round-000002.ckpt", "round-000003.ckpt"]
    assert hashlib.sha256(state.weights_D.numpy().tobytes()).hexdigest() == read(finished, "summary")["weights_sha256"]
    accuracy = rows.filter(stage="evaluate", metric="accuracy").sort("round")["value"].to_list()
    assert accuracy[-1] == read(finished, "summary")["accuracy"]
    assert len(accuracy) == 3


def test_the_error_of_the_sum_is_told_where_it_was_measured(here: Here, finished: Path, tmp_path: Path) -> None:
    assert read(finished, "summary")["sum_error"] is None
    assert here.run("out=measured", "runtime.measure_sum_error=true").status == 0
    summary = read(tmp_path / "measured", "summary")
    assert summary["sum_error"] == 0
    assert summary["assumption"] == "a test: the server is told every client's contribution"
    line = refused(here.run("runtime=deployment", "clients=3", "runtime.measure_sum_error=true"))
    assert line.startswith("runtime.measure_sum_error=True: sends contributions in the clear")


def test_a_second_configuration_in_the_same_folder_is_refused_unless_forced(here: Here, finished: Path) -> None:
    weights = read(finished, "summary")["weights_sha256"]
    line = refused(here.run("out=run", "rounds=3", "cohort=2", "seed=2"))
    assert line.startswith("run holds another configuration (")
    assert "it differs in seed" in line
    assert "force=true" in line
    assert read(finished, "summary")["weights_sha256"] == weights
    forced = here.run("out=run", "rounds=3", "cohort=2", "seed=2", "force=true")
    assert forced.status == 0, forced
    assert "finished earlier" not in forced.out
    assert read(finished, "summary")["weights_sha256"] != weights
    assert read(finished, "config")["seed"] == 2
    assert len(list((finished / "checkpoints").glob("*.parquet"))) == 4  # set-up and three rounds, no older ones


def test_a_finished_run_is_repeated_only_when_forced(here: Here, finished: Path) -> None:
    first = read(finished, "summary"), (finished / "summary.json").stat().st_mtime_ns
    again = here.run("out=run", "rounds=3", "cohort=2", "output.progress=false")
    assert "(finished earlier; force=true runs it again)" in again.out
    assert (read(finished, "summary"), (finished / "summary.json").stat().st_mtime_ns) == first
    forced = here.run("out=run", "rounds=3", "cohort=2", "force=true")
    assert "finished earlier" not in forced.out
    assert (finished / "summary.json").stat().st_mtime_ns > first[1]
    assert read(finished, "summary")["weights_sha256"] == first[0]["weights_sha256"]


def test_without_out_the_folder_is_named_by_the_hash(here: Here, tmp_path: Path) -> None:
    assert here.run("rounds=1").status == 0
    run_hash = here("hash", *QUICK, "rounds=1").out.strip()
    directory = tmp_path / "results" / "runs" / "default" / run_hash[:16]
    assert read(directory, "status")["status"] == "finished"
    assert hashlib.sha256((directory / "config.json").read_bytes()).hexdigest() == run_hash


def test_nothing_else_is_written(finished: Path, tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
