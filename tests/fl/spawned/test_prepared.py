"""Runs whose clients' zeros are encrypted ahead, beside runs that encrypt in turn."""

import numpy as np
import polars as pl
import pytest

from experiments.execute import execute
from fl.checkpoint import Checkpoints
from privacy.errors import ConfigError
from results.store import RunDirectory
from tests.composed import SMALL, compose, workspace_of

CKKS = (*SMALL, "secure_sum=ckks", "output.progress=false", "runtime.together=1")
AHEAD = "runtime.prepare_ahead=true"


def run(folder, *overrides: str) -> pl.DataFrame:
    execute(compose(*CKKS, *overrides, f"out={folder}"))
    return RunDirectory(folder).rows()


@pytest.fixture
def cores(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("keys", ["keyholder", "clients"])
def test_weights_and_bytes_are_those_of_encrypting_in_turn(tmp_path, keys):
    rows = {}
    for one in ("true", "false"):
        rows[one] = run(tmp_path / one, f"runtime.prepare_ahead={one}", f"secure_sum.keys={keys}")
    weights = {one: Checkpoints(tmp_path / one / "checkpoints", 1).latest().weights_D.numpy() for one in rows}
    tolerance = workspace_of(*CKKS, f"secure_sum.keys={keys}").tolerance
    assert np.abs(weights["true"] - weights["false"]).max() <= 2 * 2 * 4 * tolerance + 1e-7  # weights are float32
    counted = pl.col("metric").is_in(["up_bytes", "ciphertext_bytes", "ciphertexts"]) & (pl.col("round") > 0)
    columns = ["round", "where", "stage", "metric", "value"]
    sent, in_turn = (rows[one].filter(counted).select(columns).sort(columns) for one in ("true", "false"))
    assert sent.equals(in_turn)
    assert "ciphertexts" in sent["metric"]
    spent = rows["true"].filter(pl.col("stage") == "ahead")
    assert set(spent["metric"]) == {"cpu"}, "it lies beside other work, so it is no wall time of its own"
    assert len(spent) == 2 * 4
    assert (spent["value"] > 0).all()
    assert rows["false"].filter(pl.col("stage") == "ahead").is_empty()


@pytest.mark.usefixtures("cores")
def test_the_first_line_says_so_and_nothing_is_left_behind(tmp_path, capsys):
    import psutil

    execute(compose(*CKKS, AHEAD, f"out={tmp_path}", "output.progress=true"))
    assert "prepared ahead" in capsys.readouterr().err
    assert not [one for one in psutil.Process().children() if "prepare-ahead" in " ".join(one.cmdline())]


def test_without_a_second_core_it_says_so_and_encrypts_in_turn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    rows = run(tmp_path, AHEAD, "output.progress=true", "seed=11")
    assert "nothing prepared ahead: 1 process of clients on 1 core leave no second one" in capsys.readouterr().err
    assert rows.filter(pl.col("stage") == "ahead").is_empty()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("secure_sum=secagg",), "secagg"),
        (("secure_sum=plain",), "plain"),
        (("secure_sum.parameters=nvflare",), "ckks"),
    ],
)
def test_a_sum_that_prepares_nothing_is_refused(overrides, name):
    with pytest.raises(ConfigError, match=rf"^runtime\.prepare_ahead=True: .*{name}.* prepares nothing"):
        workspace_of(*CKKS, AHEAD, *overrides)
