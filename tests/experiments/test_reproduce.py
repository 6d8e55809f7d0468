from pathlib import Path

import pytest

from results import registry
from tests.experiments.command import Here, refused

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
      - {figure: accuracy, published: 50.0, scale: 100, at_least: 30.0}
      - {figure: upload_bytes_per_parameter, published: 4.0, relative: 0.01}
      - {figure: rounds, published: 3, absolute: 0.5}
  - name: price
    compute: {function: dp_sgd_epsilon, noise_multiplier: 1.1, sample_rate: 0.004, steps: 15000, delta: 1.0e-5}
    figures:
      - {figure: epsilon_pre_2020, published: 2.91, relative: 0.01}
      - {figure: epsilon_prv}
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one small table."""
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "ours.yaml").write_text(TABLE)
    monkeypatch.setattr(registry.names, "__defaults__", (folder,))
    monkeypatch.setattr(registry.load, "__defaults__", (folder,))
    return folder


def cells(out: str, row: str, figure: str) -> list[str]:
    """The cells of one line of a Markdown table."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    (line,) = [cells for cells in found if cells[:2] == [row, figure]]
    return line[2:]


@pytest.mark.usefixtures("tables")
def test_rows_are_run_and_judged(here: Here) -> None:
    ended = here("reproduce", "ours", "--format", "markdown")
    assert ended.status == 0, ended
    published, _, runs, kind, band, verdict = cells(ended.out, "two rounds", "accuracy")
    assert (published, runs, kind, band, verdict) == ("50", "2", "measured", "at least 30", "reproduced")
    assert cells(ended.out, "two rounds", "upload_bytes_per_parameter")[1:3] == ["4.212", "2"]
    assert cells(ended.out, "two rounds", "rounds")[-1] == "not reproduced"
    assert cells(ended.out, "price", "epsilon_pre_2020")[1:] == ["2.905", "", "computed", "within 1 %", "reproduced"]
    assert cells(ended.out, "price", "epsilon_prv")[-1] == ""
    assert "only for the tests" in ended.out


@pytest.mark.usefixtures("tables")
def test_what_has_run_is_not_run_again_and_can_be_tabled(here: Here, tmp_path: Path) -> None:
    here("reproduce", "all", "--only", "two rounds", "--seeds", "3")
    runs = list((tmp_path / "results" / "runs" / "ours").iterdir())
    assert len(runs) == 1
    before = (runs[0] / "status.json").stat().st_mtime_ns
    here("reproduce", "ours", "--only", "two rounds", "--seeds", "3")
    assert (runs[0] / "status.json").stat().st_mtime_ns == before
    assert here("table", "results/runs/ours").status == 0


@pytest.mark.usefixtures("tables")
def test_a_dry_run_prints_the_commands_and_runs_nothing(here: Here, tmp_path: Path) -> None:
    ended = here("reproduce", "ours", "--dry-run")
    assert ended.out == "fedveil sweep model=logistic clients=4 device=cpu rounds=2 seed=1,2 out=results/runs/ours\n"
    assert not (tmp_path / "results").exists()


def test_a_row_that_cannot_run_says_why_and_the_others_go_on(here: Here, tables: Path) -> None:
    (tables / "ours.yaml").write_text(TABLE.replace("rounds=2", "rounds=0"))
    ended = here("reproduce", "ours", "--format", "markdown")
    assert ended.status == 1
    assert cells(ended.out, "two rounds", "accuracy")[-1] == "not run: rounds=0: must be at least 1"
    assert cells(ended.out, "price", "epsilon_pre_2020")[-1] == "reproduced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "NAME=nothing: allowed are all, ours"),
        (("ours", "--only", "zzz"), "--only=zzz: no row is called so; there are two rounds, price"),
        (("ours", "--seeds", "1,x"), "--seeds=1,x: must be whole numbers, with commas between them"),
        ((), "fedveil reproduce: the following arguments are required: NAME"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_wrong_words_are_refused_in_one_line(here: Here, arguments: tuple[str, ...], message: str) -> None:
    assert refused(here("reproduce", *arguments)) == message


def test_the_epsilons_of_opacus_are_reproduced(here: Here) -> None:
    ended = here("reproduce", "opacus_mnist", "--only", "epochs", "--format", "markdown")
    assert ended.status == 0
    for row, published in (("sigma 0.7, 45", 6.86), ("sigma 1.1, 60", 2.91), ("sigma 1.3, 15", 1.16)):
        line = cells(ended.out, f"{row} epochs", "epsilon_pre_2020")
        assert line[0] == f"{published:g}"
        assert line[-1] == "reproduced"
