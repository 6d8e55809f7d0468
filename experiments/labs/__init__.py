"""Labs: notebooks kept as text, in the percent format that Jupytext, VS Code and Spyder open as cells.

Run one with `python -m experiments.labs.NAME`, or cell by cell. A question is answered by putting a value in place of
the dots of its `answer_N = ...`, and checked when its cell runs.
"""

from collections.abc import Callable
from types import EllipsisType
from typing import TypeVar

T = TypeVar("T")
NOT_YET = "not answered yet"
RIGHT = "right"
WRONG = "not so"


def check(number: int, answer: T | EllipsisType, right: Callable[[T], bool], hint: str) -> bool:
    """Tell whether an answer is right; `hint` says where to look, without the answer."""
    if isinstance(answer, EllipsisType):
        print(f"Question {number}: {NOT_YET}. {hint}")
        return False
    try:
        is_right = bool(right(answer))
    except (TypeError, ValueError, AttributeError):
        is_right = False  # the answer has the wrong type
    print(f"Question {number}: {RIGHT}." if is_right else f"Question {number}: {WRONG}. {hint}")
    return is_right


def near(value: float, within: float) -> Callable[[float], bool]:
    """A check that an answer is a number at most `within` away from `value`."""
    return lambda answer: abs(float(answer) - value) <= within
