"""`fedveil lab`: the list, notebooks for students, the check of a file, and the table of a class."""

import csv
import io
import json
import sys

import nbformat
import pytest

from experiments.labs import marking
from experiments.labs.catalogue import LABS
from experiments.labs.marking import RESULTS
from tests.experiments.labs import answers

NAME = "masked_sum"


def test_each_lab_has_a_numbered_line(here):
    ended = here("lab")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert (
        [int(line.split()[0]) for line in lines] == [lab.number for lab in LABS] == sorted(lab.number for lab in LABS)
    )
    assert [line.split()[1] for line in lines] == [lab.name for lab in LABS]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_notebook_is_written_once_and_holds_no_answer(lab, here, tmp_path):
    ended = here("lab", "open", str(lab.number), "--folder", "mine")
    assert ended.out.strip() == f"mine/{lab.stem}.ipynb"
    file = tmp_path / ended.out.strip()
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert (tmp_path / "mine" / "glossary.md").exists()
    assert notebook.cells[0].cell_type == "markdown"
    assert "experiments.labs.keys" not in file.read_text()
    file.write_text("a student's work")
    again = here("lab", "open", str(lab.number), "--folder", "mine")
    assert again.status == 2
    assert "is there already" in again.err
    assert file.read_text() == "a student's work"


def test_without_jupytext_the_remedy_is_printed(here, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    ended = here("lab", "open", "1", "--folder", "mine")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.strip().endswith('Jupytext is not installed: python -m pip install "fedveil[labs]"')
    assert not (tmp_path / "mine").exists()


def test_a_notebook_is_checked_and_the_teacher_gets_a_line(here, tmp_path):
    mixed = answers.RIGHT[NAME] | {2: answers.WRONG[NAME][2]}
    del mixed[4]
    file = answers.notebook(NAME, mixed, tmp_path)
    ended = here("lab", "check", str(file), "--student", "Ada")
    assert ended.status == 1
    verdicts = [line.split(". ")[0] for line in ended.out.splitlines() if line.startswith("Question")]
    assert verdicts == [
        "Question 1: right.",
        "Question 2: not so",
        "Question 3: right.",
        "Question 4: not answered yet",
        "Question 5: right.",
    ]
    result = json.loads((tmp_path / RESULTS).read_text())
    assert (result["student"], result["lab"], result["right"], result["questions"]) == ("Ada", 5, 3, 5)
    assert result["wrong"] == [2, 4]


def result(student: str, lab: int, right: int, asked: int, checked: str) -> str:
    name = next(one.name for one in LABS if one.number == lab)
    one = marking.Result(student, lab, name, right, asked, [*range(right + 1, asked + 1)], checked)
    return json.dumps(vars(one)) + "\n"


def test_a_class_has_a_row_for_each_student_with_the_last_results(here, tmp_path):
    ada = tmp_path / "class" / "ada"
    ada.mkdir(parents=True)
    (ada / RESULTS).write_text(
        result("Ada", 5, 5, 5, "2026-01-02T00:00:00+00:00")
        + result("Ada", 5, 1, 5, "2026-01-01T00:00:00+00:00")
        + result("Ada", 4, 2, 4, "2026-01-01T00:00:00+00:00")
    )
    (tmp_path / "class" / RESULTS).write_text(result("=cmd()", 1, 0, 6, "2026-01-01T00:00:00+00:00"))
    ended = here("lab", "collect", "class")
    assert ended.status == 0
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [row["student"] for row in rows] == ["'=cmd()", "Ada"], "a spreadsheet must not compute a name"
    assert rows[1]["lab_5"] == "5/5"
    assert rows[1]["lab_4"] == "2/4"
    assert (rows[1]["lab_1"], rows[0]["lab_1"]) == ("", "0/6")
    assert rows[1]["right"] == "7"
    here("lab", "collect", "class", "--out", "class.csv")
    assert (tmp_path / "class.csv").read_text() == ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["open", "9"], "lab=9: allowed are 1,"),
        (["open"], "the following arguments are required: N"),
        (["open", "1", "--folder", "lab.txt"], "there already"),
        (["nosuch"], "invalid choice: 'nosuch'"),
        (["check", "nosuch.ipynb"], "there is no such file"),
        (["check", "lab.txt"], "must end with .ipynb or .py"),
        (["check", "empty.ipynb"], "is not a notebook"),
        (["check", "other.py"], "is none of the labs"),
        (["check", "other.py", "--student", "a\nb"], "must be a name on one line"),
        (["collect", "nosuch"], "there is no such folder"),
        (["collect", "."], f"has no {RESULTS}"),
        (["collect", "bad"], f"bad/{RESULTS}:1: is no line of"),
        (["collect", "too_many"], f"too_many/{RESULTS}:1: is no line of"),
    ],
)
def test_a_mistake_is_one_line(words, said, here, tmp_path):
    for name in ("lab.txt", "empty.ipynb", "other.py"):
        (tmp_path / name).write_text("1\n")
    if words[0] == "collect" and words[1] in ("bad", "too_many"):
        (tmp_path / words[1]).mkdir()
        text = "[]" if words[1] == "bad" else result("Ada", 5, 6, 5, "2026")
        (tmp_path / words[1] / RESULTS).write_text(text)
    ended = here("lab", *words)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_code_that_fails_is_told_in_one_line(here, tmp_path):
    file = answers.script(NAME, {}, tmp_path)
    file.write_text(file.read_text().replace("answer_1 = ...", "answer_1 = forty"))
    ended = here("lab", "check", str(file))
    assert ended.status == 2
    assert ended.err.splitlines()[-1].endswith(
        "does not run to its last question: NameError: name 'forty' is not defined"
    )
    assert not (tmp_path / RESULTS).exists()
