"""A student's answers: the file is run as it is, each answer is judged, and the verdicts go to a line for the teacher.

The file runs on the student's own machine, so the line is the student's word: a teacher who doubts it checks the file.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from experiments.labs.catalogue import LABS, Lab
from experiments.labs.notebooks import lab_of, script_of, written_line
from experiments.labs.questions import NOT_YET, RECORD, RIGHT, line, questions
from privacy.errors import ConfigError, RuntimeFailure

RESULTS = "lab_results.jsonl"  # in the student's folder, a line for each check
LIMIT_S = 1800.0  # after which a lab that runs on is stopped
FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet would compute a cell that begins so


@dataclass(frozen=True)
class Result:
    """The outcome of one check, as the teacher collects it."""

    student: str
    lab: int
    name: str
    right: int
    questions: int
    wrong: list[int]  # the numbers of the questions whose answers do not hold, or are missing
    checked: str  # time in UTC

    @property
    def score(self) -> str:
        """The right answers, of all questions."""
        return f"{self.right}/{self.questions}"


def check(file: Path, student: str) -> Result:
    """Run a student's file, print the verdict on each question, and append the result to the folder of the file.

    Raises:
        ConfigError: the file is no lab, or the result cannot be written.
        RuntimeFailure: the code of the file fails before its last question.
    """
    script = script_of(file)
    lab = lab_of(file, script)
    asked = questions(lab.name)
    print(f"lab {lab.number}, {lab.title}: running {file.name} ({lab.time})", flush=True)
    verdicts = _verdicts(file, script, last=max(asked))
    for number, question in asked.items():
        print(line(number, verdicts.get(number, NOT_YET), question.hint))
    result = _result(lab, student, {number: verdicts.get(number, NOT_YET) for number in asked})
    _append(file.parent / RESULTS, result)
    print(f"{result.score} right: {file.parent / RESULTS}")
    return result


def _result(lab: Lab, student: str, verdicts: Mapping[int, str]) -> Result:
    wrong = [number for number, verdict in verdicts.items() if verdict != RIGHT]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(student, lab.number, lab.name, len(verdicts) - len(wrong), len(verdicts), wrong, now)


def _verdicts(file: Path, script: str, last: int) -> dict[int, str]:
    """The verdict on each question that the script reaches."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, f"{file.stem}.py")
        program.write_text(script, encoding="utf-8")
        record = Path(folder, "verdicts.jsonl")
        environment = os.environ | {RECORD: str(record), "MPLBACKEND": "Agg"}
        try:
            done = subprocess.run(
                [sys.executable, program],
                cwd=file.parent,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"{file} was stopped: it ran for more than {LIMIT_S / 60:.0f} minutes") from None
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    verdicts = {int(number): str(verdict) for number, verdict in map(json.loads, lines)}
    if done.returncode != 0 and last not in verdicts:
        said = (done.stderr.strip().splitlines() or ["no error line"])[-1]
        raise RuntimeFailure(f"{file} does not run to its last question: {said}")
    return verdicts


def _append(results: Path, result: Result) -> None:
    try:
        with open(results, "a", encoding="utf-8") as opened:
            opened.write(written_line(asdict(result)))
    except OSError as error:
        raise ConfigError.of("lab check", results, f"cannot be written: {error.strerror}") from None


def collect(folder: Path) -> str:
    """The class's table as CSV: a row for each student, with the last result in each lab, and the sum of right answers.

    Raises:
        ConfigError: there is no result under the folder, or one is damaged.
    """
    latest: dict[tuple[str, int], Result] = {}
    for result in sorted(_results(folder), key=lambda result: result.checked):
        latest[result.student, result.lab] = result
    if not latest:
        raise ConfigError.of("lab collect", folder, f"has no {RESULTS}, in itself or in a folder below it")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["student", *(f"lab_{lab.number}" for lab in LABS), "right", "questions"])
    total = sum(len(questions(lab.name)) for lab in LABS)
    for student in sorted({student for student, _ in latest}):
        own = [latest.get((student, lab.number)) for lab in LABS]
        scores = ["" if result is None else result.score for result in own]
        table.writerow([_cell(student), *scores, sum(result.right for result in own if result), total])
    return text.getvalue()


def _results(folder: Path) -> Iterator[Result]:
    for file in sorted(folder.rglob(RESULTS)):
        for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                result = Result(**json.loads(text))
                assert isinstance(result.student, str)
                assert isinstance(result.checked, str)
                assert 0 <= result.right <= result.questions == len(questions(_named(result.lab)))
            except (ValueError, TypeError, AssertionError, KeyError):
                raise ConfigError.of("lab collect", f"{file}:{number}", "is no line of `fedveil lab check`") from None
            yield result


def _named(number: int) -> str:
    return {lab.number: lab.name for lab in LABS}[number]


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
