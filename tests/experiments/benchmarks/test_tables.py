import hashlib
import json
from pathlib import Path

import pytest

from experiments.benchmarks import main
from experiments.benchmarks.tables import fill
from results.index import collect_under
from results.table import table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "runs"
    fill(folder, 12, 3)
    return folder


@pytest.mark.slow
def test_the_runs_are_such_as_runs_leave(runs: Path) -> None:
    folders = list(runs.iterdir())
    assert len(folders) == 12
    for folder in folders:
        text = (folder / "config.json").read_bytes()
        assert folder.name == hashlib.sha256(text).hexdigest()[:16]
        names = {path.name for path in folder.iterdir()}
        assert names - {"keys"} == {
            *(".fedveil.lock", "checkpoints", "config.json", "config.yaml", "environment.json"),
            *("rows.parquet", "status.json", "summary.json"),
        }
    frame = collect_under([runs])
    assert frame["status"].unique().to_list() == ["finished"]
    assert frame["plain"].sum() == 6
    assert frame["round_s"].n_unique() == 12
    sheet = table(frame)
    assert [row["seeds"] for row in sheet.rows] == [3] * 4
    assert all(row["round_ratio_n"] == 3 for row in sheet.rows), "each has its twins"


@pytest.mark.slow
def test_the_real_command_is_measured(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["tables", "--folder", str(runs), "--runs", "12", "--seeds", "3", "--json", str(out)]) == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    assert set(figures) == {
        f"12 runs of 4 configurations{what}"
        for what in (", the first time", ", the first time, peak memory", "", ", processor", ", peak memory")
    }
    assert all(value > 0 for value in figures.values())
