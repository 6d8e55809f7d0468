"""Each lab runs to its end, takes the right answers, and refuses wrong ones; a notebook runs in Jupyter, unchanged."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

from experiments.labs.catalogue import GLOSSARY, LABS
from experiments.labs.notebooks import write
from experiments.labs.questions import NOT_YET, WRONG, Question, line, near, questions, word
from tests.experiments.command import environment
from tests.experiments.labs import answers

QUICK = ["masked_sum"]
LONG = [pytest.mark.slow, pytest.mark.timeout(1500)]
SLOW = [lab.name for lab in LABS if lab.name not in QUICK]


def last_table(printed: str) -> list[list[str]]:
    """The cells of the last table in an output."""
    whole = printed[printed.rindex("shape:") :]
    lines = [line for line in whole.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("┆")] for line in lines][3:]


def unanswered(name: str, folder: Path) -> str:
    """The output of a lab as it is, run as a module."""
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.labs.{name}"],
        cwd=folder,
        env=environment() | {"POLARS_FMT_MAX_ROWS": "20", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^Question (\d+): not answered yet\.", done.stdout, re.M) == [str(n) for n in questions(name)]
    return done.stdout


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=LONG) for name in SLOW)])
def test_right_answers_are_taken_and_wrong_ones_get_hints(name, tmp_path, here):
    """The second check finds the runs of the first."""
    asked = questions(name)
    ended = here("lab", "check", str(answers.script(name, answers.RIGHT[name], tmp_path)))
    assert ended.status == 0, ended
    assert re.findall(r"^Question (\d+): right\.$", ended.out, re.M) == [str(number) for number in asked]
    ended = here("lab", "check", str(answers.script(name, answers.WRONG[name], tmp_path)))
    assert ended.status == 1, ended
    said = [told for told in ended.out.splitlines() if told.startswith("Question")]
    assert said == [f"Question {number}: not so. {question.hint}" for number, question in asked.items()]


def test_the_sum_opens_and_the_liar_is_refused(tmp_path):
    rows = {story: (told, refused) for story, told, _, refused in last_table(unanswered("masked_sum", tmp_path))}
    assert [told for told, _ in rows.values()] == ["true", "true", "true", "false", "false"]
    assert rows["the server lies"][1] == "5 neighbours of client/0 signed the same survivors as it did, 7 must"
    assert (tmp_path / "lab_5.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_encrypted_sum_opens_as_the_lab_says(tmp_path):
    found = {name: (float(error), int(n)) for name, error, n in last_table(unanswered("ckks_sum", tmp_path))}
    assert found["as it is"][1] == 4096
    assert found["flooded"][1] == found["masked"][1] == 0
    assert found["masked"][0] < 1e-9 < found["flooded"][0] < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_epsilon_is_bought_as_the_lab_says(tmp_path):
    rows = last_table(unanswered("epsilon", tmp_path))
    assert [row[0] for row in rows] == ["10", "40", "160"]
    assert len({row[1] for row in rows}) == 1, "the same epsilon, however many clients"
    assert float(rows[-1][2]) > float(rows[0][2]), "and a better model with more"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_median_costs_and_withstands_what_the_lab_says(tmp_path):
    rows = {(row[0], row[1]): row for row in last_table(unanswered("shared_median", tmp_path))}
    accuracy = {key: float(row[2]) for key, row in rows.items()}
    assert accuracy["sum", "1"] < 0.3 < 0.7 < accuracy["median", "1"]
    assert float(rows["median", "0"][4]) > 100 * float(rows["sum", "0"][4])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_notebook_runs_in_jupyter_and_shows_what_it_made(lab, tmp_path):
    notebook = nbformat.read(write(lab, tmp_path), as_version=4)
    ExecutePreprocessor(timeout=800, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    nbformat.validate(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count(NOT_YET) == len(questions(lab.name))
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert pictures or "shape: (" in page


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_links_to_words_that_the_glossary_has(lab):
    words = {
        heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", GLOSSARY.read_text(), re.M)
    }
    links = re.findall(r"\(glossary\.md#([^)]*)\)", lab.text)
    assert set(links) <= words
    assert links


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_students_file_has_the_dots_and_no_check_of_its_own(lab):
    """Each question is asked once, in order, and judged by nothing but the package."""
    assert [int(n) for n in re.findall(r"^answer_(\d+) = \.\.\.$", lab.text, re.M)] == list(questions(lab.name))
    assert [int(n) for n in re.findall(r"^check\((\d+), answer_\1(?:, \w+)*\)$", lab.text, re.M)] == list(
        questions(lab.name)
    )
    for number, question in questions(lab.name).items():
        right = answers.RIGHT[lab.name][number].strip("\"' ").lower()
        assert not re.search(rf"(?<!\w){re.escape(right)}(?!\w)", question.hint.lower()), "a hint is not the answer"


def test_an_answer_of_another_kind_is_not_right():
    seven = Question(near(7, 0.1), "Count.")
    assert [seven.verdict(answer) for answer in ("seven", None, [7], 6.8)] == [WRONG] * 4
    assert Question(word("less"), "").verdict(3) == WRONG
    assert seven.verdict(...) == NOT_YET
    assert line(2, NOT_YET, "Count.") == "Question 2: not answered yet. Count."
