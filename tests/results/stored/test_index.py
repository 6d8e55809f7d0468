import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from results import index, runs
from results.index import NAME, collect_under
from results.runs import collect, find_runs
from results.store import RunDirectory, open_run
from tests.results.samples import CKKS, canonical, configuration, store, summary


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        store(tmp_path / "runs", configuration(seed=seed), "finished", summary(accuracy=seed / 10))
    store(tmp_path / "runs" / "deep" / "er", configuration(secure_sum=CKKS), "budget_exhausted", summary())
    store(tmp_path / "runs", configuration(seed=4), "failed", error="x")
    return tmp_path / "runs"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A list of the runs read from their own files, which a test may clear."""
    paths: list[Path] = []

    def noting(listed: list[Path]) -> pl.DataFrame:
        paths.extend(listed)
        return collect(listed)

    monkeypatch.setattr(index, "collect", noting)
    return paths


def told(root: Path) -> list[dict[str, object]]:
    """The runs read through an index, for any number; asserts the same result without it."""
    frame = collect_under([root], least=1)
    plain = collect(find_runs([root]))
    assert frame.sort("path").equals(plain.sort("path"))
    return frame.to_dicts()


def runs_of(root: Path) -> set[Path]:
    return set(find_runs([root]))


def test_ended_runs_are_read_once(root: Path, read: list[Path]) -> None:
    assert len(told(root)) == 5
    assert set(read) == runs_of(root)
    read.clear()
    told(root)
    assert [path for path in read if RunDirectory(path).finished] == []
    assert len(read) == 1, "the failed one"


def run_of(root: Path, seed: int) -> Path:
    (found,) = (path for path in root.iterdir() if path.is_dir() and f'"seed":{seed}' in text_of(path))
    return found


def text_of(path: Path) -> str:
    file = path / "config.json"
    return file.read_text() if file.exists() else ""


def test_a_run_that_was_written_again_is_noticed(root: Path, read: list[Path]) -> None:
    told(root)
    read.clear()
    path = run_of(root, 2)
    RunDirectory(path).write_summary(summary(accuracy=0.875))
    assert 0.875 in {run["accuracy"] for run in told(root)}
    assert path in read


@pytest.mark.parametrize("name", ["summary.json", "status.json", "config.json"])
def test_a_file_that_was_changed_in_place_to_the_same_size_and_time_is_noticed(
    root: Path, read: list[Path], name: str
) -> None:
    told(root)
    read.clear()
    file = run_of(root, 2) / name
    before = file.stat()
    changed = file.read_text().replace("0.2", "0.7").replace("finished", "unfinish").replace("digits", "images")
    with file.open("r+") as opened:
        opened.write(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    told(root)
    assert file.parent in read


def test_runs_that_came_and_went_are_noticed(root: Path) -> None:
    told(root)
    new = store(root, configuration(seed=5), "finished", summary(accuracy=0.625))
    assert 0.625 in {run["accuracy"] for run in told(root)}
    shutil.rmtree(new)
    shutil.rmtree(root / "deep")
    assert len(told(root)) == 4
    assert len(pl.read_parquet(root / NAME)) == 3, "who is gone is gone from the index too"


def test_a_run_inside_a_runs_folder_is_noticed(root: Path) -> None:
    told(root)
    store(run_of(root, 1), configuration(seed=6), "finished", summary(accuracy=0.375))
    assert 0.375 in {run["accuracy"] for run in told(root)}


def test_a_run_that_starts_afresh_is_no_longer_taken_for_finished(root: Path) -> None:
    told(root)
    with open_run(run_of(root, 3), canonical(configuration(seed=3)), "", force=True) as run:
        run.write_status("running")
        assert "running" not in {row["status"] for row in told(root) if row["summarised"]}
    assert sorted(str(row["status"]) for row in told(root)) == [
        *("budget_exhausted", "failed", "finished", "finished", "interrupted")
    ]


def test_a_damaged_index_or_one_of_other_code_is_made_anew(
    root: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(root)
    whole = (root / NAME).read_bytes()
    (root / NAME).write_bytes(whole[:100])
    told(root)
    assert len(pl.read_parquet(root / NAME)) == 4
    read.clear()
    (root / "runs.py").write_bytes(Path(str(runs.__file__)).read_bytes() + b"\n# changed\n")
    monkeypatch.setattr(runs, "__file__", str(root / "runs.py"))
    told(root)
    assert set(read) == runs_of(root)


def test_an_index_that_cannot_be_written_is_done_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / NAME).mkdir()  # root may write anywhere else
    assert len(told(root)) == 5


def test_a_long_wait_is_announced(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index, "CHUNK", 2)
    told(root)
    assert capsys.readouterr().err == f"fedveil: reading 5 runs, once: {root / NAME} will hold them\n"
    told(root)
    assert capsys.readouterr().err == ""


def test_few_runs_leave_nothing_behind(root: Path) -> None:
    assert len(collect_under([root])) == 5
    assert not list(root.rglob(NAME))


def test_paths_are_those_that_were_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sorted(str(path.relative_to(root)) for path in runs_of(root))
    monkeypatch.chdir(root)
    for _ in range(2):
        assert [run["path"] for run in told(Path())] == expected
        assert [run["path"] for run in told(Path("deep"))] == [path for path in expected if path.startswith("deep")]
    (inner,) = (root / "deep" / "er").iterdir()
    assert [run["path"] for run in told(inner)] == [str(inner)]


def test_overlapping_roots_have_each_run_once(root: Path) -> None:
    frame = collect_under([root / "deep", root, root], least=1)
    assert len(frame) == frame["path"].n_unique() == 5
