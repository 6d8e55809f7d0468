"""Published tables from the command line, on a small registry made for the tests."""

import io
import shlex
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from privacy.mechanisms.contract import Mechanism, ServerJob
from results.published import registry
from results.render import DASH
from tests.experiments.command import Here, read, refused
from tests.experiments.published.tables import RUNS, cells, verdict
from tests.scenery.paths import some

TABLE = """
title: Ours
source: https://example.org
hardware: two cores
note: only for the tests
seeds: [1, 2]
overrides: [model=logistic, clients=4, device=cpu]
rows:
  - name: two rounds
    overrides: [rounds=2]
    figures:
      - {figure: accuracy, published: 50.0, at_least: 30.0}
      - {figure: upload_bytes_per_parameter, published: 4.2, relative: 0.01}
      - {figure: rounds, published: 3, absolute: 0.5}
  - name: price
    kind: modelled
    compute: {function: dp_sgd_epsilon, noise_multiplier: 1.1, sample_rate: 0.004, steps: 15000, delta: 1.0e-5}
    figures:
      - {figure: epsilon_pre_2020, published: 2.91, relative: 0.01}
      - {figure: epsilon_prv}
  - name: speed
    kind: cited
    figures:
      - {figure: "private / plain", published: 1.58}
"""


class Stopping(Mechanism):
    """A mechanism that raises Ctrl-C once, in the third round."""

    name = "stopping"
    rounds: ClassVar[list[int]] = []

    def on_total(self, job: ServerJob, total_D: NDArray[np.float64]) -> NDArray[np.float64]:
        self.rounds.append(job.round)
        if self.rounds == [1, 2, 3]:
            raise KeyboardInterrupt
        return total_D


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one small table."""
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "ours.yaml").write_text(TABLE)
    monkeypatch.setattr(registry, "FOLDER", folder)
    return folder


def overrides(tables: Path, text: str) -> None:
    """Replace the overrides of the row that runs."""
    (tables / "ours.yaml").write_text(TABLE.replace("[rounds=2]", text))


def written() -> dict[Path, int]:
    """The time at which each run last wrote its status."""
    return {path: path.stat().st_mtime_ns for path in some(RUNS.glob("*/status.json"))}


@pytest.mark.usefixtures("tables")
def test_rows_are_run_and_judged(here: Here) -> None:
    ended = here("reproduce", "ours")
    assert ended.status == 0, ended
    published, ours, seeds, difference, ratio, *told = cells(ended.out, "two rounds", "accuracy (%)")
    assert (published, seeds, ratio) == ("50", "2", DASH)
    assert told == ["measured", "full", "at least 30", "reproduced"]
    accuracies = [100 * read(path.parent, "summary")["accuracy"] for path in RUNS.glob("*/summary.json")]
    mean = sum(accuracies) / 2
    assert ours.partition(" ")[0] == f"{mean:.4g}"
    assert float(difference) == pytest.approx(mean - 50, abs=0.1)
    assert cells(ended.out, "two rounds", "upload (B/param)")[1:4] == ["4.212", "2", "+0.29 %"]
    assert cells(ended.out, "two rounds", "rounds")[3:] == [
        *("-1", DASH, "measured", "full", "within 0.5", "not reproduced")
    ]
    price = ["2.905", DASH, "-0.17 %", DASH, "modelled", "full", "within 1 %", "reproduced"]
    assert cells(ended.out, "price", "epsilon_pre_2020")[1:] == price
    assert verdict(ended.out, "price", "epsilon_prv") == DASH
    speed = cells(ended.out, "speed", "private / plain")
    assert (speed[0], speed[-1]) == ("1.58", "cited")
    assert "only for the tests" in ended.out


@pytest.mark.usefixtures("tables")
def test_what_has_run_is_not_run_again_and_can_be_tabled(here: Here) -> None:
    here("reproduce", "all", "--only", "two rounds", "--seeds", "3")
    (before,) = written().items()
    assert here("reproduce", "ours", "--only", "two", "--seeds", "3,4").status == 0
    assert len(written()) == 2
    assert before in written().items()
    tabled = here("table", str(RUNS))
    assert (tabled.status, tabled.err) == (0, "")


@pytest.mark.usefixtures("tables")
def test_a_dry_run_prints_commands_whose_results_are_taken(here: Here, tmp_path: Path) -> None:
    dry = here("reproduce", "ours", "--dry-run")
    *commands, price, speed = dry.out.splitlines()
    assert not (tmp_path / "results").exists()
    assert [line.partition(":")[0] for line in (price, speed)] == ["# price", "# speed"]
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "fedveil"
        assert here(*arguments).status == 0
    before = written()
    assert len(before) == len(commands) == 2
    assert verdict(here("reproduce", "ours").out, "two rounds", "accuracy (%)") == "reproduced"
    assert written() == before


def test_an_interrupted_run_goes_on(here: Here, tables: Path) -> None:
    overrides(tables, f"[rounds=4, +mechanism.stopping._target_={__name__}.Stopping]")
    Stopping.rounds.clear()
    arguments = ("reproduce", "ours", "--only", "two", "--seeds", "1")
    stopped = here(*arguments)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err.splitlines()[-1] == ("fedveil: interrupted; the same command goes on from the last checkpoint")
    ended = here(*arguments)
    assert ended.status == 0
    assert Stopping.rounds == [1, 2, 3, 3, 4]
    assert verdict(ended.out, "two rounds", "rounds") == "not reproduced"  # 4 are not 3


def test_a_row_whose_data_are_not_here_says_so_and_is_no_failure(
    here: Here, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)
    overrides(tables, "[data=cifar10, model=lenet]")
    ended = here("reproduce", "ours")
    assert ended.status == 0
    assert verdict(ended.out, "two rounds", "accuracy (%)").startswith("not run: data.name=cifar10: ")
    assert verdict(ended.out, "price", "epsilon_pre_2020") == "reproduced"
    assert not RUNS.exists()


def test_a_run_that_fails_is_a_failure_and_the_other_rows_go_on(here: Here, tables: Path) -> None:
    overrides(tables, "[+mechanism.x._target_=tests.outside.probe.Defect]")
    ended = here("reproduce", "ours")
    assert ended.status == 1
    said = verdict(ended.out, "two rounds", "accuracy (%)")
    assert said == "not run: ZeroDivisionError: a defect on purpose"
    assert "Traceback" in ended.err
    assert verdict(ended.out, "price", "epsilon_pre_2020") == "reproduced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "NAME=nothing: allowed are all, ours"),
        ((), "NAME: give one of all, ours"),
        (("ours", "--only", "zzz"), "--only=zzz: no such row; allowed are two rounds, price, speed"),
        (("ours", "--seeds", "1,x"), "--seeds=1,x: must be whole numbers, with commas between them"),
        (("ours", "--seeds=-1"), "ours, two rounds: seed=-1: must be at least 0"),
        (("ours", "--fromat"), "fedveil reproduce: unrecognized arguments: --fromat"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_wrong_words_are_refused_in_one_line(here: Here, arguments: tuple[str, ...], message: str) -> None:
    assert refused(here("reproduce", *arguments)) == message


def test_a_row_that_does_not_compose_is_refused_before_anything_runs(here: Here, tables: Path) -> None:
    overrides(tables, "[rounds=2]\n    figures: []\n  - name: bad\n    overrides: [model=nope]")
    assert refused(here("reproduce", "ours")).startswith("ours, bad: model=nope: allowed are ")
    assert not RUNS.exists()


@pytest.mark.usefixtures("tables")
def test_tables_are_listed(here: Here) -> None:
    assert here("reproduce", "--list").out == "  ours            Ours\n"
    assert "ours            Ours" in here("reproduce", "--help").out


@pytest.mark.usefixtures("tables")
def test_formats(here: Here) -> None:
    arguments = ("reproduce", "all", "--only", "price", "--format")
    frame = pl.read_csv(io.StringIO(here(*arguments, "csv").out))
    assert frame["ours"][0] == pytest.approx(2.905, abs=1e-3)
    assert "2.905" in here(*arguments, "terminal").out
    assert r"\toprule" in here(*arguments, "latex").out


def test_the_epsilons_of_opacus_are_reproduced(here: Here) -> None:
    ended = here("reproduce", "opacus_mnist", "--only", "epochs")
    assert ended.status == 0
    for row, published in (("sigma 0.7, 45", 6.86), ("sigma 1.1, 60", 2.91), ("sigma 1.3, 15", 1.16)):
        line = cells(ended.out, f"{row} epochs", "epsilon_pre_2020")
        assert line[0] == f"{published:g}"
        assert line[-1] == "reproduced"
