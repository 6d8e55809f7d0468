"""Questions of a lab: an answer is right or not so, and one that is not gets a hint.

A lab calls `check = questions_of("NAME")`, and then `check(1, answer_1, seen)` in the cell of each question, where
`seen` is the measurement that the answer is about. The right answer is computed from it here, out of the student's
sight.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import EllipsisType
from typing import Any, NamedTuple

NOT_YET = "not answered yet"
RIGHT = "right"
WRONG = "not so"
RECORD = "FEDVEIL_LAB_RECORD"  # environment variable: the file to which verdicts are appended


@dataclass(frozen=True)
class Question:
    """`right` tells whether an answer holds, given what the lab has measured; the hint says where to look."""

    right: Callable[..., bool]
    hint: str

    def verdict(self, answer: object, *seen: object) -> str:
        """RIGHT, WRONG, or NOT_YET for the dots."""
        if isinstance(answer, EllipsisType):
            return NOT_YET
        try:
            return RIGHT if bool(self.right(answer, *seen)) else WRONG
        except (TypeError, ValueError, AttributeError, OverflowError):
            return WRONG  # the answer has the wrong type


class Verdict(NamedTuple):
    """The verdict on one question."""

    question: int
    verdict: str


Check = Callable[..., None]


def questions(name: str) -> dict[int, Question]:
    """The questions of a lab, by their number."""
    found: dict[int, Question] = import_module(f"experiments.labs.keys.{name}").QUESTIONS
    return found


def questions_of(name: str) -> Check:
    """The function that checks answers of this lab: it prints the verdict, with a hint."""
    asked = questions(name)

    def check(number: int, answer: Any, *seen: Any) -> None:
        question = asked[number]
        verdict = question.verdict(answer, *seen)
        print(line(number, verdict, question.hint))
        record(Verdict(number, verdict))

    return check


def line(number: int, verdict: str, hint: str) -> str:
    """A verdict as it is printed, with the hint where the answer is not right."""
    return f"Question {number}: {verdict}." + ("" if verdict == RIGHT else f" {hint}")


def record(verdict: Verdict) -> None:
    """Append a verdict to the file of `fedveil lab check`, where it asks for it."""
    file = os.environ.get(RECORD)
    if file:
        with open(file, "a", encoding="utf-8") as record_file:
            record_file.write(json.dumps(verdict) + "\n")


def near(value: float, within: float) -> Callable[[Any], bool]:
    """A check that an answer is a number at most `within` away from `value`."""
    return lambda answer: abs(float(answer) - value) <= within


def word(right: str) -> Callable[..., bool]:
    """A check that an answer is this word, in any case, with or without spaces around it."""
    return lambda answer, *_: isinstance(answer, str) and answer.strip().lower() == right
