"""The labs run unchanged, distinguish right answers from wrong ones, and end with the reader's own table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.labs import NOT_YET, RIGHT, WRONG, check, near
from tests.experiments.command import ROOT, environment

LABS = ROOT / "experiments" / "labs"
QUICK = "ckks_sum"
LONG = "epsilon"
# a reader's answers, where they are the same for all readers
RIGHT_ANSWERS = {
    QUICK: {1: "7", 2: "0.5", 3: "2", 4: '"flooded"'},
    LONG: {1: "cost_by_eye", 2: '"less"', 3: "16", 4: '"no"'},
}
WRONG_ANSWERS = {QUICK: {1: "6", 2: "2", 3: "4", 4: '"masked"'}, LONG: {1: "-1", 2: '"more"', 3: "4", 4: '"yes"'}}


def executed(name: str, answers: dict[int, str], folder: Path) -> str:
    """The output of a lab with these answers in place of the dots."""
    text = (LABS / f"{name}.py").read_text()
    for number, answer in answers.items():
        text, replaced = re.subn(rf"^answer_{number} = \.\.\.$", f"answer_{number} = {answer}", text, flags=re.M)
        assert replaced == 1
    file = folder / f"{name}.py"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, file],
        cwd=folder,
        env=environment() | {"POLARS_FMT_MAX_ROWS": "20"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verdicts(printed: str) -> list[str]:
    return re.findall(rf"^Question \d: ({RIGHT}|{WRONG}|{NOT_YET})\.", printed, flags=re.M)


def last_table(printed: str) -> list[list[str]]:
    """The cells of the last table in an output."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    whole = printed[printed.rindex("shape:") :]
    return [[cell.strip() for cell in line.strip("│").split("┆")] for line in lines if line in whole][3:]


def test_the_sum_opens_as_the_lab_says(tmp_path: Path) -> None:
    printed = executed(QUICK, {}, tmp_path)
    assert verdicts(printed) == [NOT_YET] * 4
    found = {name: (float(error), int(count)) for name, error, count in last_table(printed)}
    assert found["as it is"][1] == 4096
    assert found["flooded"][1] == found["masked"][1] == 0
    assert found["masked"][0] < 1e-9 < found["flooded"][0] < 1e-3


@pytest.mark.parametrize(("answers", "verdict"), [(RIGHT_ANSWERS, RIGHT), (WRONG_ANSWERS, WRONG)], ids=["right", "not"])
def test_answers_about_the_sum_are_checked(answers: dict[str, dict[int, str]], verdict: str, tmp_path: Path) -> None:
    assert verdicts(executed(QUICK, answers[QUICK], tmp_path)) == [verdict] * 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_epsilon_is_bought_as_the_lab_says(tmp_path: Path) -> None:
    """The lab runs first unchanged, then with answers and with its runs finished."""
    printed = executed(LONG, {}, tmp_path)
    assert verdicts(printed) == [NOT_YET] * 4
    rows = last_table(printed)
    assert [row[0] for row in rows] == ["10", "40", "160"]
    assert len({row[1] for row in rows}) == 1, "the same epsilon, however many clients"
    assert float(rows[-1][2]) > float(rows[0][2]), "and a better model with more"
    curve = [line.split("┆") for line in printed.splitlines() if "false" in line or "true" in line]
    cost = -float(curve[0][3].strip(" │"))
    answers = RIGHT_ANSWERS[LONG] | {1: f"{cost:.1f}"}
    assert verdicts(executed(LONG, answers, tmp_path)) == [RIGHT] * 4
    assert verdicts(executed(LONG, WRONG_ANSWERS[LONG], tmp_path)) == [WRONG] * 4


def test_an_answer_of_another_kind_is_not_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert not check(1, "seven", near(7, 0.1), "Count.")
    assert not check(2, ..., near(7, 0.1), "Count.")
    assert check(3, 7.05, near(7, 0.1), "Count.")
    said = capsys.readouterr().out.splitlines()
    assert said == ["Question 1: not so. Count.", "Question 2: not answered yet. Count.", "Question 3: right."]
