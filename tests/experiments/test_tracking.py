"""Tracking: MLflow and TensorBoard get the measurements of a run once; their failure loses no result."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.command import QUICK, Here, fedveil, read, refused

RUN = ("run", *QUICK, "rounds=2", "clients=3", "out=run")
# in a separate process: MLflow gives many irrelevant warnings
READ = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([client.get_experiment_by_name("default").experiment_id])
points = client.get_metric_history(runs[0].info.run_id, "server/evaluate/accuracy")
params = runs[0].data.params
print(json.dumps([len(runs), runs[0].data.metrics["accuracy"], len(points), params["clients"], params["training.lr"]]))
"""


@pytest.mark.slow
def test_mlflow_has_parameters_rounds_and_summary_once(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        ended = fedveil(*RUN, "tracking=mlflow", f"tracking.uri={store}", folder=tmp_path)
        assert ended.status == 0, ended
    seen = subprocess.run([sys.executable, "-c", READ, store], capture_output=True, text=True, check=True).stdout
    accuracy = read(tmp_path / "run", "summary")["accuracy"]
    assert seen.strip().splitlines()[-1] == f'[1, {accuracy}, 2, "3", "0.2"]'


def test_tensorboard_has_a_scalar_a_round(here: Here, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert here(*RUN).status == 0
    assert not (tmp_path / "run" / "tracked.json").exists(), "off by default"
    assert here(*RUN, "tracking=tensorboard").status == 0, "a run that has finished can be shown, too"
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    accuracies = events.Scalars("server/evaluate/accuracy")
    assert [event.step for event in accuracies] == [1, 2]
    assert abs(accuracies[-1].value - read(tmp_path / "run", "summary")["accuracy"]) < 1e-6


def test_a_tracker_that_is_away_costs_no_results(here: Here, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    ended = here(*RUN, "tracking=tensorboard", "tracking.folder=taken")
    assert ended.status == 1
    assert ended.err.count("error") == 1, ended.err
    assert "tracking=tensorboard: " in ended.err
    assert "the results are in run, try again later" in ended.err
    assert read(tmp_path / "run", "status")["status"] == "finished"
    assert here(*RUN).status == 0


def test_options_of_another_tracker_are_refused(here: Here) -> None:
    assert refused(here(*RUN, "tracking.uri=x")) == "tracking.uri=x: belongs to tracking=mlflow"
    assert refused(here(*RUN, "tracking=x")).startswith("tracking=x: allowed are mlflow")
