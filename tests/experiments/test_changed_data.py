"""Data that are changed in place: a run on other data is another run, and the earlier one stays."""

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl.data import image_data
from fl.workspace import workspace
from results.index import collect_under
from results.store import RunDirectory
from results.table import table
from tests.experiments.command import Here, read, refused
from tests.fl.data.image_sets import examples, write_idx

TOY = ("data=huggingface", "data.name=toy", "rounds=2", "output.progress=false")


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))
    yield
    workspace.cache_clear()


def put(folder: Path, count: int = 60, seed: int = 0, flipped: int = 0) -> str:
    """Write the data, as a new process finds them; `flipped` labels are moved to the next class."""
    for split, number, salt in (("train", count, 1), ("t10k", 20, 2)):
        images, labels = examples(number, seed=10 * seed + salt)
        changed = [(label + 1) % 3 if row < flipped and split == "train" else label for row, label in enumerate(labels)]
        write_idx(folder / f"{split}-images-idx3-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.array(changed))
    image_data._load.cache_clear()
    workspace.cache_clear()
    return f"data.path={folder}"


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_the_same_data_are_the_same_run(here: Here, tmp_path: Path) -> None:
    assert here.run(*TOY, put(tmp_path / "set")).status == 0
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    shutil.rmtree(tmp_path / "set")
    shutil.copytree(tmp_path / "copy", tmp_path / "set")  # other times and inodes
    image_data._load.cache_clear()
    workspace.cache_clear()
    assert "(finished earlier; force=true runs it again)" in here.run(*TOY, f"data.path={tmp_path / 'set'}").out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"count": 90}, "train.examples 90, not 60; train.labels.0 30, not 20"),
        ({"flipped": 1}, "train.labels.0 19, not 20; train.labels.1 21, not 20"),
        ({"seed": 1}, "other images or another order, with the same numbers of examples and labels"),
    ],
)
def test_changed_data_are_a_new_run(change: dict[str, int], told: str, here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    assert here.run(*TOY, path).status == 0
    root = tmp_path / "results" / "runs" / "default"
    (first,) = folders(root)
    before = read(root / first, "summary")
    put(tmp_path / "set", **change)
    again = here.run(*TOY, path)
    assert again.status == 0
    assert "finished earlier" not in again.out
    assert f"(the data are not those of results/runs/default/{first}: {told}" in again.out
    assert read(root / first, "summary") == before
    (second,) = set(folders(root)) - {first}
    assert second.startswith(f"{first}-")
    assert read(root / second, "summary")["weights_sha256"] != before["weights_sha256"]
    assert "finished earlier" in here.run(*TOY, path).out
    put(tmp_path / "set")
    back = here.run(*TOY, path)
    assert f"in results/runs/default/{first} (finished earlier" in back.out


def test_changed_data_are_refused_in_a_folder_that_the_user_named(here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    assert here.run(*TOY, path, "out=run").status == 0
    put(tmp_path / "set", count=90)
    line = refused(here.run(*TOY, path, "out=run"))
    assert line.startswith("run holds a run on other data (now train.examples 90, not 60; ")
    assert line.endswith("choose another out=, or replace it with force=true")
    assert "finished earlier" not in here.run(*TOY, path, "out=run", "force=true").out
    assert read(tmp_path / "run", "data")["train"]["examples"] == 90


@pytest.mark.parametrize("out", [True, False])
def test_a_run_does_not_go_on_with_other_data(out: bool, here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    options = ["out=run"] if out else []
    assert here.run(*TOY, path, *options).status == 0
    root = tmp_path if out else tmp_path / "results" / "runs" / "default"
    folder = root / "run" if out else root / folders(root)[0]
    (folder / "summary.json").unlink()
    (folder / "status.json").write_text(json.dumps({"status": "running"}))  # as a process that was killed leaves it
    put(tmp_path / "set", count=90)
    ended = here.run(*TOY, path, *options)
    if out:
        assert "holds a run on other data" in refused(ended)
    else:
        assert "the data are not those of" in ended.out
    assert RunDirectory(folder).status() == {"status": "running"}


def test_a_finished_run_does_without_its_data_and_says_so(here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    assert here.run(*TOY, path).status == 0
    shutil.rmtree(tmp_path / "set")
    image_data._load.cache_clear()
    workspace.cache_clear()
    ended = here.run(*TOY, path)
    assert ended.status == 0
    assert "(finished earlier; its data cannot be compared, data.path=" in ended.out


def test_a_run_of_an_earlier_version_says_that_its_data_are_unknown(here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    assert here.run(*TOY, path, "out=run").status == 0
    (tmp_path / "run" / "data.json").unlink()
    assert "(finished earlier; its data were not recorded; force=true" in here.run(*TOY, path, "out=run").out


def test_the_record_is_for_its_owner(here: Here, tmp_path: Path) -> None:
    assert here.run(*TOY, put(tmp_path / "set"), "out=run").status == 0
    assert stat.S_IMODE((tmp_path / "run" / "data.json").stat().st_mode) == 0o600
    record = read(tmp_path / "run", "data")
    assert record["shape"] == [1, 6, 5]
    assert record["test"] == {"examples": 20, "labels": {"0": 7, "1": 7, "2": 6}}


def test_a_sweep_runs_its_cells_again_on_changed_data_and_a_table_keeps_them_apart(here: Here, tmp_path: Path) -> None:
    path = put(tmp_path / "set")
    quick = ("sweep", "model=logistic", "clients=4", "device=cpu", *TOY, path, "out=many")
    assert here(*quick, "seed=1,2").status == 0
    put(tmp_path / "set", count=90)
    assert here(*quick, "seed=1").status == 0
    rows = table(collect_under([tmp_path / "many"])).rows
    assert sorted(row["seeds"] for row in rows) == [1, 2]
    assert all("data.fingerprint=" in row["configuration"] for row in rows)
