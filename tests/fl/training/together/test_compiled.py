"""The pass of a group, compiled by torch: the same weights up to rounding, and its time apart."""

import shutil

import polars as pl
import pytest
import torch

from experiments.execute import execute
from fl.checkpoint import Checkpoints
from privacy.errors import ConfigError
from results.store import RunDirectory
from tests.composed import SMALL, compose, workspace_of

COMPILED = "runtime.compile=true"
has_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


def run(folder, *overrides: str) -> tuple[torch.Tensor, pl.DataFrame]:
    execute(compose(*SMALL, "output.progress=false", *overrides, f"out={folder}"))
    return Checkpoints(folder / "checkpoints", 1).latest().weights_D, RunDirectory(folder).rows()


@has_compiler
@pytest.mark.slow  # the compiler takes ten seconds
def test_weights_are_those_of_torchs_own_kernels_up_to_rounding(tmp_path):
    plain_D, rows = run(tmp_path / "plain")
    compiled_D, own = run(tmp_path / "compiled", COMPILED)
    assert (compiled_D - plain_D).abs().max() < 1e-5
    compiling = own.filter(pl.col("stage") == "compile", pl.col("metric") == "wall")
    assert compiling["value"].sum() > 0.5
    assert rows.filter(pl.col("stage") == "compile").is_empty()
    training = own.filter(pl.col("stage") == "train", pl.col("metric") == "wall", pl.col("round") == 1)["value"].sum()
    assert 0 < training < compiling["value"].sum(), "its time is none of training's"
    again_D, _ = run(tmp_path / "again", COMPILED)
    assert torch.equal(compiled_D, again_D)


def test_a_machine_without_a_compiler_is_told(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"^runtime\.compile=True: there is no C\+\+ compiler here: .*g\+\+ or clang"):
        workspace_of(COMPILED)
    monkeypatch.setenv("CXX", "none-such")
    with pytest.raises(ConfigError, match="torch needs none-such in the PATH"):
        workspace_of(COMPILED, "seed=2")


def test_private_training_is_not_compiled():
    with pytest.raises(ConfigError, match=r"^runtime\.compile=True: mechanism=dp_sgd trains in a way that"):
        workspace_of(COMPILED, "mechanism=dp_sgd", "delta=1e-4")
