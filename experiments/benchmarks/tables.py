"""`fedveil table` over many runs: time and memory of the real command, without and with the index of the runs.

Each run has its own folder in the layout of `results/store.py`, with its rows, configuration, status,
summary and environment. Two are real ones, plain and with masks; the others are copies of these with another seed and
learning rate, scattered figures, and a matching folder name. Unlike a run's own files, they are not synced to
disk. Half the configurations are plain, and every other one has its twin.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.processes import Timed
from results.store import CONFIG, LOCK

REAL = ("rounds=2", "clients=4", "model=logistic", "device=cpu", "output.progress=false")
KINDS = ("plain", "pad")
SCATTERED = ("accuracy", "loss", "macro_f1", "round_s", "first_round_s", "train_s")
SCATTER = 0.05
ENVIRONMENT = "environment.json"
MIB = 2**20


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=100_000, help="number of runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each configuration (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="keep the runs in this folder, or take the runs that it already holds"
    )


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """All figures of this benchmark."""
    if arguments.folder is not None:
        return _figures(arguments.folder, arguments.runs, arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        return _figures(Path(folder) / "runs", arguments.runs, arguments.seeds)


def _figures(folder: Path, runs: int, seeds: int) -> list[BenchFigure]:
    if not folder.exists():
        fill(folder, runs, seeds)
    name = f"{runs} runs of {runs // seeds} configurations"
    cold = _timed(folder)
    warm = _timed(folder)
    again = _timed(folder)
    best = min(warm, again, key=lambda timed: timed.wall_s)
    return [
        BenchFigure(f"{name}, the first time", cold.wall_s, "s"),
        BenchFigure(f"{name}, the first time, peak memory", cold.peak_bytes / MIB, "MiB"),
        BenchFigure(name, best.wall_s, "s", "<= 5"),
        BenchFigure(f"{name}, processor", best.processor_s, "s"),
        BenchFigure(f"{name}, peak memory", max(warm.peak_bytes, again.peak_bytes) / MIB, "MiB", "<= 954"),  # 1 GB
    ]


def _timed(folder: Path) -> Timed:
    """Run `fedveil table FOLDER` as a user does, with the output in a file."""
    with tempfile.NamedTemporaryFile(suffix=".md") as out:
        return Timed.of([sys.executable, "-m", "experiments.cli", "table", str(folder), "--out", out.name])


def fill(folder: Path, runs: int, seeds: int) -> None:
    """Fill a folder with copies of two real runs."""
    with tempfile.TemporaryDirectory() as place:
        samples = {kind: _sample(Path(place) / kind, kind) for kind in KINDS}
        scatter = np.random.default_rng(1)
        grid = product(range(runs // seeds // len(KINDS)), KINDS, range(seeds))
        for variant, kind, seed in grid:
            _copy(samples[kind], folder, 0.1 * (1 + variant / runs), seed, scatter)


def _sample(path: Path, kind: str) -> Path:
    """Run one real configuration as a template."""
    command = [sys.executable, "-m", "experiments.cli", "run", *REAL, f"privacy={kind}", f"out={path}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def _copy(sample: Path, folder: Path, lr: float, seed: int, scatter: np.random.Generator) -> None:
    configuration = json.loads((sample / CONFIG).read_bytes())
    configuration["seed"] = seed
    configuration["training"]["lr"] = lr
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    path = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    (path / "checkpoints").mkdir(parents=True)
    summary = dict(_scattered(json.loads((sample / "summary.json").read_bytes()), scatter))
    (path / LOCK).touch()
    (path / CONFIG).write_text(text)
    (path / "summary.json").write_text(json.dumps(summary, indent=2))
    for name in ("config.yaml", ENVIRONMENT, "rows.parquet", "status.json"):
        shutil.copyfile(sample / name, path / name)


def _scattered(summary: Mapping[str, Any], scatter: np.random.Generator) -> Iterator[tuple[str, Any]]:
    for key, value in summary.items():
        yield key, value * scatter.normal(1, SCATTER) if key in SCATTERED else value
