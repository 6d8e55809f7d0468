"""Sweeps: failing cells are recorded, other cells go on, finished cells are skipped; exit status."""

import hashlib
from pathlib import Path

import pytest

from tests.experiments.command import QUICK, Ended, Here, fedveil, read, refused
from tests.scenery.paths import some

LR_ERROR = "training.lr=-1.0: must be a finite number above 0"
SWEEP = ("sweep", *QUICK, "seed=1,2", "training.lr=0.1,-1")


def cells(root: Path) -> dict[str, Path]:
    """Directories of cells by seed and learning rate."""
    found = {}
    for path in sorted(root.iterdir()):
        if path.is_dir():
            config = read(path, "config")
            found[f"{config['seed']} {config['training']['lr']:g}"] = path
    return found


def assert_swept(ended: Ended, root: Path) -> dict[str, str]:
    """Assert that two of four cells finished and all are recorded; returns the weights' hashes by cell."""
    assert ended.status == 2, ended
    assert "2 of 4 cells finished" in ended.out
    assert "Traceback" not in ended.err
    complaints = [line for line in ended.err.splitlines() if line.startswith("fedveil: error: ")]
    assert len(complaints) == 2
    assert all(LR_ERROR in line for line in complaints)
    assert "seed=1" in complaints[0]
    assert "seed=2" in complaints[1]
    found = cells(root)
    assert sorted(found) == ["1 -1", "1 0.1", "2 -1", "2 0.1"]
    for name, path in found.items():
        assert path.name == hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16]
        status = read(path, "status")
        failed = name.endswith("-1")
        assert status["status"] == ("failed" if failed else "finished")
        assert status["error"] == ("training.lr=-1.0: must be a finite number above 0" if failed else None)
        assert (path / "summary.json").exists() is not failed
    return {name: read(path, "summary")["weights_sha256"] for name, path in found.items() if "-" not in name}


def test_failing_cells_are_recorded_and_finished_ones_skipped(here: Here, tmp_path: Path) -> None:
    first = here(*SWEEP, "out=cells")
    weights = assert_swept(first, tmp_path / "cells")
    assert len(set(weights.values())) == 2
    assert "finished earlier" not in first.out
    kept = {path: path.stat().st_mtime_ns for path in some(tmp_path.rglob("summary.json"))}
    second = here(*SWEEP, "out=cells")
    assert assert_swept(second, tmp_path / "cells") == weights
    assert second.out.count("(finished earlier; force=true runs it again)") == 2
    assert second.err.count(f"{LR_ERROR} (failed earlier; output.retry=true tries again)") == 2
    assert "failed earlier" not in here(*SWEEP, "out=cells", "output.retry=true").err
    assert {path: path.stat().st_mtime_ns for path in some(tmp_path.rglob("summary.json"))} == kept
    # a sweep that goes further computes the new cell alone
    more = here("sweep", *QUICK, "seed=2,3", "training.lr=0.1", "out=cells")
    assert more.status == 0
    assert "2 of 2 cells finished" in more.out
    assert more.out.count("(finished earlier") == 1
    assert len(cells(tmp_path / "cells")) == 5


def test_without_out_each_cell_has_its_usual_folder(here: Here, tmp_path: Path) -> None:
    swept = here("sweep", *QUICK, "seed=1,2")
    assert swept.status == 0, swept
    found = cells(tmp_path / "results" / "runs" / "default")
    assert sorted(name.partition(" ")[0] for name in found) == ["1", "2"]
    for path in found.values():
        assert path.name == hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    # a single run uses the same folder, so it has finished already
    assert "(finished earlier" in here.run("seed=2").out


def test_run_with_m_is_a_sweep(here: Here, tmp_path: Path) -> None:
    ended = here("run", "-m", *QUICK, "seed=1,2", "out=cells")
    assert ended.status == 0, ended
    assert len(cells(tmp_path / "cells")) == 2


def test_a_sweep_says_that_its_own_choice_is_in_no_epsilon(here: Here) -> None:
    note = "choosing the best cell on private data"
    assert note in here("sweep", *QUICK, "mechanism=client_dp", "delta=1e-3", "seed=1,2", "out=private").out
    assert note not in here("sweep", *QUICK, "seed=1,2", "out=plain").out
    assert note not in here("sweep", *QUICK, "mechanism=client_dp", "delta=1e-3", "seed=1", "out=one").out


def test_what_no_cell_can_be_composed_of_is_refused_at_once(here: Here, tmp_path: Path) -> None:
    assert refused(here("sweep", *QUICK, "seed=1,2", "roundz=3", "out=cells")).endswith("did you mean rounds?")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "start"),
    [("seed=1,x", "seed=1,x: Value 'x' of type 'str'"), ("model=mlp,nope", "model=nope: allowed are cnn")],
)
def test_a_cell_that_cannot_be_composed_stops_the_sweep_before_it_starts(
    here: Here, tmp_path: Path, override: str, start: str
) -> None:
    assert refused(here("sweep", *QUICK, override, "out=cells")).startswith(start)
    assert not cells(tmp_path / "cells")


PROBES = "tests.outside.probe"


def test_a_cell_with_a_defect_lets_the_others_go_on(here: Here, tmp_path: Path) -> None:
    ended = here("sweep", *QUICK, f"+mechanism.x._target_={PROBES}.Defect,{PROBES}.Probe", "out=cells")
    assert ended.status == 1
    assert "2 of 3 cells finished" in ended.out
    statuses = sorted(read(path, "status")["status"] for path in (tmp_path / "cells").iterdir() if path.is_dir())
    assert statuses == ["failed", "finished", "finished"]  # the plain twin is the third


@pytest.mark.slow
def test_cells_in_other_processes_end_the_same(here: Here, tmp_path: Path) -> None:
    weights = assert_swept(here(*SWEEP, "out=here"), tmp_path / "here")
    elsewhere = fedveil(*SWEEP, "out=there", "hydra/launcher=joblib", folder=tmp_path)
    assert assert_swept(elsewhere, tmp_path / "there") == weights
