"""The answers of lab 6."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from experiments.labs.questions import Question, near, word

FEW = 3
MANY = 9


def _of(between: pl.DataFrame, aggregate: str, clients: int, column: str) -> float:
    row = between.filter(pl.col("aggregate") == aggregate, pl.col("clients") == clients)
    return float(row[column].item())


def _waits_a_layer(answer: Any, between: pl.DataFrame, layers: Mapping[int, int]) -> bool:
    waits = _of(between, "median", MANY, "waits") - _of(between, "median", FEW, "waits")
    return near(waits / (layers[MANY] - layers[FEW]), 0.5)(answer)


def _bytes_ratio(answer: Any, between: pl.DataFrame) -> bool:
    ratio = _of(between, "median", MANY, "kilobytes") / _of(between, "sum", MANY, "kilobytes")
    return near(ratio, 0.1 * ratio)(answer)


QUESTIONS = {
    1: Question(near(222, 1e-9), "The three add up to 10, or to 10 + 256, or to 10 + 512."),
    2: Question(lambda answer: [float(one) for one in answer] == [3.0, 2.0], "Subtract: d from x, e from y."),
    3: Question(near(7, 1e-9), "Subtract the two numbers that were opened: a drops out."),
    4: Question(_waits_a_layer, "Two rows of the median, and two of the layers: divide the differences."),
    5: Question(_bytes_ratio, "The last column, in the rows with 9 clients."),
    6: Question(word("median"), "Compare the accuracies in the rows with one liar."),
}
