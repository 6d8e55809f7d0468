"""Launchers: a cell gives the same weights with each of them, and cells share the resources of a machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.sweeps import cores_and_gpus as sharing
from experiments.sweeps import objectives
from privacy.errors import ConfigError
from tests.experiments.command import QUICK, Ended, Here, environment, fedveil, read
from tests.scenery.paths import some

CELLS = (*QUICK, "rounds=1", "clients=3", "privacy=bfv", "seed=1,2")  # exact: CKKS rounds afresh each time


def weights(root: Path) -> dict[str, str]:
    """The hash of the weights of each run."""
    return {path.parent.name: read(path.parent, "summary")["weights_sha256"] for path in root.glob("*/summary.json")}


def test_a_search_gets_the_figures_of_cells_and_of_their_twins() -> None:
    cell = {"accuracy": 0.75, "round_s": 3.0, "epsilon": None}
    twin = {"accuracy": 1.0, "round_s": 2.0}
    keys = ["accuracy", "accuracy_points", "round_ratio", "round_s"]
    assert objectives.values(keys, cell, twin) == (0.75, -0.25, 1.5, 3.0)
    assert objectives.directions(keys) == ["maximize", "maximize", "minimize", "minimize"]
    assert objectives.values(["epsilon"], cell, twin) == (float("inf"),)
    assert objectives.values(["loss"], cell, twin) is None
    assert objectives.values(["round_ratio"], cell, {}) is None


@pytest.mark.parametrize("key", ["acuracy", "backend", "seeds"])
def test_what_no_column_measures_is_no_objective(key: str) -> None:
    with pytest.raises(ConfigError, match=f"output.objectives={key}: allowed are .*accuracy, accuracy_points"):
        objectives.directions([key])


def sweep_of(launcher: dict[str, object], *overrides: str, **values: object) -> DictConfig:
    """The configuration of a sweep as a callback gets it, reduced to the relevant keys."""
    hydra = {"launcher": launcher, "overrides": {"task": list(overrides), "hydra": []}, "sweep": {"dir": "cells"}}
    runtime = {"name": "inprocess", "workers": 0, "address": None, "federation": None}
    config = {"hydra": hydra, "training": {"threads": 1}, "runtime": runtime, "device": "cpu"}
    return OmegaConf.create({**config, **values})


@pytest.mark.parametrize(
    ("overrides", "needs"),
    [
        ((), 1),
        (("training.threads=1,3",), 3),
        (("training.threads=2", "runtime.workers=1,2,4"), 4),
        (("runtime=inprocess,ray",), 8),
        (("runtime=deployment,inprocess",), 8),
    ],
)
def test_the_largest_cell_counts(monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], needs: int) -> None:
    monkeypatch.setattr(sharing, "available", lambda: 8)
    assert sharing.cores(sweep_of({}, *overrides)) == needs


JOBLIB = {"_target_": "x.JoblibLauncher", "n_jobs": -1}
RAY = {"_target_": "x.RayLauncher", "ray": {"remote": {}}}
SLURM = {"_target_": "x.SlurmLauncher", "cpus_per_task": None, "gpus_per_node": None}


@pytest.mark.parametrize(
    ("device", "n_jobs", "jobs"), [("cpu", -1, 4), ("auto", -1, 2), ("cuda", -1, 2), ("cuda:1", -1, 1), ("cpu", 3, 3)]
)
def test_joblib_has_a_process_for_so_many_cores_or_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, n_jobs: int, jobs: int
) -> None:
    monkeypatch.setattr(sharing, "available", lambda: 8)
    monkeypatch.setattr(sharing, "gpus", lambda: 2)
    monkeypatch.setenv(sharing.OUTCOMES, "/nowhere/outcomes.jsonl")
    config = sweep_of(JOBLIB | {"n_jobs": n_jobs}, training={"threads": 2}, device=device)
    with monkeypatch.context() as patched:
        patched.setenv(sharing.SLOTS, "")
        patched.setenv(sharing.COMMON, "")
        sharing.Share().on_multirun_start(config)
        assert os.environ[sharing.SLOTS] == f"/nowhere/slots-{jobs}"
    assert config.hydra.launcher.n_jobs == jobs
    assert f"+hydra.job.env_set.{sharing.SLOTS}='/nowhere/slots-{jobs}'" in config.hydra.overrides.hydra


@pytest.mark.parametrize("launcher", [RAY, SLURM])
def test_clusters_are_asked_for_what_a_cell_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launcher: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (sharing.OUTCOMES, sharing.COMMON):
        monkeypatch.setenv(name, "")
    config = sweep_of(launcher, training={"threads": 3}, device="cuda")
    sharing.Share().on_multirun_start(config)
    asked = config.hydra.launcher.ray.remote if launcher is RAY else config.hydra.launcher
    assert (asked.get("num_cpus", asked.get("cpus_per_task")), asked.get("num_gpus", asked.get("gpus_per_node"))) == (
        3,
        1,
    )
    assert Path(os.environ[sharing.OUTCOMES]).parent == tmp_path / "cells", "other machines share the sweep's folder"


CONFINED = """
import os, sys
from experiments.sweeps import cores_and_gpus as sharing
sharing.gpus = lambda: 2
sharing.settle()
print(len(os.sched_getaffinity(0)), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system confines no process to cores")
def test_processes_take_a_part_of_the_cores_and_a_gpu_each(tmp_path: Path) -> None:
    variables = environment() | {sharing.SLOTS: str(tmp_path / "slots-2"), "CUDA_VISIBLE_DEVICES": "4,7"}
    command = [sys.executable, "-c", CONFINED]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=variables, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    lines = sorted(process.stdout.readline().split() for process in processes)
    for process in processes:
        process.communicate()
    cores = len(os.sched_getaffinity(0))
    assert [line[1] for line in lines] == ["4", "7"]
    assert {int(line[0]) for line in lines} == {max(1, cores // 2)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_cells_and_their_twins_are_the_same_under_every_launcher(here: Here, tmp_path: Path, launcher: str) -> None:
    assert here("sweep", *CELLS, "out=here").status == 0
    ended = fedveil("sweep", *CELLS, "out=there", f"hydra/launcher={launcher}", folder=tmp_path)
    assert ended.status == 0, ended
    assert "cells finished" in ended.out
    assert weights(tmp_path / "there") == weights(tmp_path / "here")
    assert len(weights(tmp_path / "there")) == 4
    assert not list((tmp_path / "there").glob(".outcomes*"))


@pytest.mark.ray
def test_cells_on_ray_are_the_same(here: Here, tmp_path: Path) -> None:
    assert here("sweep", *CELLS, "out=here").status == 0
    ended = fedveil("sweep", *CELLS, "out=there", "hydra/launcher=ray", folder=tmp_path)
    assert ended.status == 0, ended
    assert weights(tmp_path / "there") == weights(tmp_path / "here")


@pytest.mark.ray
def test_a_cell_that_would_wait_for_its_own_cores_is_refused(tmp_path: Path) -> None:
    cells = (*QUICK, "rounds=1", "runtime=ray,inprocess", "seed=1,2")
    ended = fedveil("sweep", *cells, "out=there", "hydra/launcher=ray", folder=tmp_path)
    assert ended.status == 2, ended
    assert "runtime.name=ray: under hydra/launcher=ray a cell has its cores from Ray already" in ended.err
    assert "2 of 4 cells finished" in ended.out


@pytest.mark.slow
def test_slurm_runs_the_cells(here: Here, tmp_path: Path) -> None:
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here")
    assert here("sweep", *CELLS, "out=here").status == 0
    ended = fedveil("sweep", *CELLS, "out=there", "hydra/launcher=submitit_slurm", folder=tmp_path)
    assert ended.status == 0, ended
    assert weights(tmp_path / "there") == weights(tmp_path / "here")


SEARCH = ("sweep", "experiment=pareto_search", "hydra.sweeper.n_trials=3", "rounds=1", "clients=3")


def searched(ended: Ended) -> list[str]:
    """The Pareto front at the end of a search."""
    assert ended.status == 0, ended
    return [line for line in ended.err.splitlines() if "Values: " in line]


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    first = searched(fedveil(*SEARCH, folder=tmp_path))
    again = fedveil(*SEARCH, folder=tmp_path)
    assert first
    assert searched(again) == first
    assert again.out.count("(finished earlier") == 3
    front = OmegaConf.load(tmp_path / "results/runs/pareto_search/optimization_results.yaml")
    assert len(front.solutions) == len(first)


def test_a_wrong_objective_is_refused_before_anything_runs(here: Here, tmp_path: Path) -> None:
    ended = here(*SEARCH, "output.objectives=[acuracy]")
    assert ended.status == 2
    assert "output.objectives=acuracy: allowed are" in ended.err
    assert not list(tmp_path.rglob("summary.json"))


def test_forcing_a_sweep_runs_each_cell_once(here: Here, tmp_path: Path) -> None:
    plain = ("sweep", *QUICK, "rounds=1", "secure_sum=secagg,plain", "out=cells")
    assert here(*plain).status == 0
    before = {path: path.stat().st_mtime_ns for path in some(tmp_path.rglob("summary.json"))}
    ended = here(*plain, "force=true")
    assert ended.status == 0
    after = {path: path.stat().st_mtime_ns for path in some(tmp_path.rglob("summary.json"))}
    assert len(after) == 2
    assert all(after[path] > before[path] for path in before)
    assert ended.out.count("(finished earlier") == 1, "the plain cell is the twin that ran a moment ago"
