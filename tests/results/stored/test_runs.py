import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.errors import ConfigError
from results.runs import RUNS, collect, find_runs
from results.store import open_run
from tests.results.samples import CKKS, canonical, configuration, store, summary


def test_runs_are_found_under_roots_each_once(tmp_path: Path) -> None:
    one = store(tmp_path / "demo", configuration(), "finished", summary())
    two = store(tmp_path / "demo" / "deep", configuration(seed=2), "finished", summary())
    (tmp_path / "demo" / "model").mkdir()
    (tmp_path / "demo" / "model" / "config.json").write_text("{}")
    (one / "checkpoints" / "config.json").write_text("{}")
    (one / "checkpoints" / "status.json").write_text("{}")
    assert set(find_runs([tmp_path])) == {one, two}
    assert find_runs([two]) == [two]
    assert sorted(find_runs([two, tmp_path, two])) == sorted([one, two])


def test_relative_roots_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store(Path("results/runs/demo"), configuration(), "finished", summary())
    assert [path.parts[:3] for path in find_runs([Path("results/runs")])] == [("results", "runs", "demo")]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_no_runs_says_where_it_looked(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    store(tmp_path / "full", configuration(), "finished", summary())
    with pytest.raises(ConfigError) as refusal:
        find_runs([tmp_path / "full", tmp_path / name])
    assert str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    path = store(tmp_path, configuration(seed=7), "finished", summary(accuracy=0.75, loss=None, dropped=2))
    frame = collect([path])
    assert frame.schema == RUNS
    (run,) = frame.to_dicts()
    assert (run["status"], run["summarised"], run["plain"], run["seed"]) == ("finished", True, True, "7")
    assert (run["accuracy"], run["loss"], run["dropped"], run["rejected"]) == (0.75, None, 2.0, None)


def test_what_makes_a_pair(tmp_path: Path) -> None:
    noise = {"dp": {"_target_": "privacy.DpSgd"}}
    variants = [
        configuration(),
        configuration(secure_sum=CKKS),
        configuration(mechanism=noise),
        configuration(seed=2),
        configuration(training={"lr": 0.2}),
    ]
    runs = collect([store(tmp_path, values, "finished", summary()) for values in variants])
    pairs = runs["pair"].to_list()
    groups = runs["configuration"].to_list()
    assert pairs[0] == pairs[1] == pairs[2]
    assert len({pairs[0], pairs[3], pairs[4]}) == 3
    assert groups[0] == groups[3]
    assert len(set(groups)) == 4
    assert runs["plain"].to_list() == [True, False, False, True, True]


def test_runs_without_figures_say_why(tmp_path: Path) -> None:
    failed = store(tmp_path, configuration(seed=1), "failed", error="RuntimeFailure: worker 2\n died")
    interrupted = store(tmp_path, configuration(seed=2), "running")
    fresh = store(tmp_path, configuration(seed=3), None)
    damaged = store(tmp_path, configuration(seed=4), "finished", summary())
    (damaged / "summary.json").write_text('{"accuracy": ')
    incomplete = store(tmp_path, configuration(seed=5), "finished")
    runs = collect([failed, interrupted, fresh, damaged, incomplete])
    assert runs["status"].to_list() == ["failed", "interrupted", "not started", "damaged", "damaged"]
    errors = runs["error"].to_list()
    assert errors[:3] == ["RuntimeFailure: worker 2 died", None, None]
    assert "summary.json is damaged" in errors[3]
    assert "no summary.json" in errors[4]
    assert not runs["summarised"].any()


def test_figures_of_an_earlier_end_do_not_pass_for_a_failed_runs(tmp_path: Path) -> None:
    path = store(tmp_path, configuration(), "failed", summary(), error="x")
    assert collect([path])["accuracy"].to_list() == [None]


def test_a_run_that_is_going_on_is_running(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", canonical(configuration()), "", force=False) as run:
        run.write_status("running")
        code = "import sys; from pathlib import Path; from results.runs import collect;"
        code += "print(collect([Path(sys.argv[1])])['status'][0])"
        command = [sys.executable, "-c", code, str(run.path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=os.environ)
    assert told.stdout == "running\n"


def test_a_run_with_former_class_names_is_one_of_the_present_configuration(tmp_path: Path) -> None:
    """Written as a literal: what a run of the version before holds."""
    former = configuration(
        secure_sum={"_target_": "privacy.secure_sum.PlainSum"},
        model={"_target_": "fl.private_models.CnnTanh"},
        mechanism={"dp": {"_target_": "privacy.dp_sgd.DpSgd", "clip": 1.0}},
    )
    present = configuration(
        model={"_target_": "fl.models.CnnTanh"}, mechanism={"dp": {"_target_": "privacy.DpSgd", "clip": 1.0}}
    )
    bare = configuration(model={"_target_": "fl.models.CnnTanh"})
    runs = collect([store(tmp_path, values, "finished", summary()) for values in (former, present, bare)]).to_dicts()
    assert runs[0]["configuration"] == runs[1]["configuration"]
    assert runs[0]["pair"] == runs[1]["pair"] == runs[2]["pair"]
    assert [run["plain"] for run in runs] == [False, False, True]
