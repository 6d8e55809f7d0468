"""Configurations composed as on the command line, and objects built from them: plans, workspaces, servers, runs."""

import os
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments.hydra.compose import composed
from experiments.hydra.error_lines import CONFIGS
from fl import runtimes
from fl.checkpoint import Checkpoints, State
from fl.config.identity import to_json
from fl.keys.folders import LEDGERS_VARIABLE
from fl.keys.ledgers import SIMULATED
from fl.metering import Meter
from fl.participant import Request, answer
from fl.plan import RunPlan
from fl.runtimes import inprocess, serving
from fl.runtimes.inprocess import InProcessGrid
from fl.server import Errand, Server
from fl.transport import Attempt, Transport
from fl.workspace import Workspace

# 650 parameters on 1,797 embedded digits, evaluated only at the end: a run takes a tenth of a second
SMALL = ("model=logistic", "clients=4", "rounds=2", "device=cpu", "training.lr=0.05", "server.evaluate_every=0")
MASKED = ("secure_sum._target_=tests.outside.masked_sum.MaskedSum",)  # two stages, and memory between them
PROBE = ("+mechanism.probe._target_=tests.outside.probe.Probe",)  # no training, known updates


def compose(*overrides: str) -> DictConfig:
    """The configuration that `fedveil run OVERRIDES` would run.

    Hydra takes a tenth of a second, so each choice of groups is composed once, and values are set in a copy of it, by
    Hydra's own function. `tests/test_composed.py` compares.
    """
    config = deepcopy(_composed(tuple(override for override in overrides if _chooses(override))))
    values = [override for override in overrides if not _chooses(override)]
    ConfigLoaderImpl._apply_overrides_to_config(_parser().parse_overrides(values), config)
    return config


_composed = lru_cache(maxsize=256)(composed)
_parser = lru_cache(maxsize=1)(OverridesParser.create)


def _chooses(override: str) -> bool:
    """Whether an override chooses a file of a group."""
    key = override.partition("=")[0].lstrip("+~").partition("@")[0]
    return "@" in override.partition("=")[0] or (CONFIGS / key).is_dir()


@lru_cache(maxsize=256)
def canonical(*overrides: str) -> str:
    """The canonical text of the small configuration with these overrides."""
    return to_json(compose(*SMALL, *overrides))


def plan_of(*overrides: str) -> RunPlan:
    """A fresh plan of the small configuration with these overrides; its mechanisms have not settled."""
    return RunPlan(canonical(*overrides))


def workspace_of(*overrides: str) -> Workspace:
    """A fresh workspace for the small configuration with these overrides."""
    return Workspace(canonical(*overrides))


def server_of(work: Workspace, folder: Path, grid: InProcessGrid | None = None) -> Server:
    """A server over the in-process grid, or over another one."""
    os.environ[LEDGERS_VARIABLE] = str(folder / SIMULATED)
    grid = grid or InProcessGrid(work.plan.hash, work.plan.config.clients)
    return serving.server_of(work, grid, inprocess.locate(grid, work.plan), Errand(folder))


def transport_of(work: Workspace, grid: InProcessGrid, deadline_s: float | None = None) -> Transport:
    """A transport with its own meter."""
    return Transport(grid, inprocess.locate(grid, work.plan), Meter(), deadline_s, 0.0)


def attempt_of(work: Workspace, round_: int = 1, name: str = "first") -> Attempt:
    """One attempt at a round."""
    return Attempt(work.plan.hash, work.plan.canonical, round_, name)


def request_of(work: Workspace, client: int = 0, round_: int = 1, stage: str = "collect", **changes: Any) -> Request:
    """A request to a client, with the initial weights."""
    fields = {"attempt": "first", "inbound": {}, "model_D": work.initial_D.numpy().copy()} | changes
    return Request(f"client/{client}", stage, round_, **fields)


def vector_of(work: Workspace, *arguments: Any, **changes: Any) -> np.ndarray[Any, Any]:
    """The vector that a client contributes."""
    records, _ = answer(work, request_of(work, *arguments, **changes), {})
    return np.array(records["vector"])


def run(folder: Path, *overrides: str) -> State:
    """Run in process to the end; returns the final state."""
    work = workspace_of(*overrides)
    inprocess.run(work, Errand(folder))
    return state_in(folder)


def run_with_set_up(folder: Path, *overrides: str) -> State:
    """Run to the end by the configuration's runtime, set-up included, as from the command line."""
    runtimes.run(workspace_of(*overrides), folder, Errand(folder / "checkpoints"))
    return state_in(folder / "checkpoints")


def state_in(checkpoints: Path) -> State:
    """The state of a run, ended or not."""
    state = Checkpoints(checkpoints, 2).latest()
    assert state is not None
    return state


def rows_in(checkpoints: Path) -> pl.DataFrame:
    """The rows of a run, ended or not."""
    return Checkpoints(checkpoints, 2).rows()


def softmax_gradient(
    weights_KP: np.ndarray[Any, Any], bias_K: np.ndarray[Any, Any], inputs_NP: Any, labels_N: Any
) -> np.ndarray[Any, Any]:
    """Gradient of the mean cross entropy of softmax(W x + b), flat and in that order, in float64 by hand."""
    logits_NK = inputs_NP @ weights_KP.T + bias_K
    shifted_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    error_NK = shifted_NK / shifted_NK.sum(axis=1, keepdims=True)
    error_NK[np.arange(len(labels_N)), labels_N] -= 1
    error_NK /= len(labels_N)
    return np.concatenate([(error_NK.T @ inputs_NP).ravel(), error_NK.sum(axis=0)])


def gradient_at(flat_D: np.ndarray[Any, Any], inputs_NP: Any, labels_N: Sequence[int], classes: int = 10) -> Any:
    """`softmax_gradient` at flat weights (the order of the logistic model's state)."""
    split = flat_D.size - classes
    return softmax_gradient(flat_D[:split].reshape(classes, -1), flat_D[split:], inputs_NP, labels_N)


def examples_of(work: Workspace, indices: Any = slice(None)) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Training examples as float64 rows of pixels, normalised by hand, and their labels."""
    train = work.data.train
    pixels = train.images[indices].numpy().astype(np.float64) / work.data.pixel_max
    whole = train.images.numpy().astype(np.float64) / work.data.pixel_max
    return ((pixels - whole.mean()) / whole.std()).reshape(len(pixels), -1), train.labels[indices].numpy()
