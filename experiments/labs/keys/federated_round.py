"""The answers of lab 1."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch

from experiments.labs.questions import Question, near, word

SKEWED = 0.1
BYTES = 4  # of a parameter, as float32


def _held(count: Any, held: Mapping[float, Sequence[torch.Tensor]]) -> bool:
    return bool(count == int((held[SKEWED][0] > 0).sum()))


def _grows(answer: Any, drift: pl.DataFrame) -> bool:
    skewed = drift.filter(pl.col("alpha") == SKEWED).sort("epochs")["distance"]
    factor = float(skewed[-1]) / float(skewed[0])
    return near(factor, 0.1 * factor)(answer)


def _factor(answer: Any, table: pl.DataFrame) -> bool:
    sent = table.sort("training.epochs")["upload_bytes_per_parameter"]
    return near(float(sent[-1]) / float(sent[0]), 0.02)(answer)


def _worst(alpha: Any, table: pl.DataFrame) -> bool:
    once = table.filter(pl.col("training.epochs") == 1).sort("accuracy")
    return bool(float(alpha) == once["data.alpha"][0])


QUESTIONS = {
    1: Question(_held, "Count the rows of its column that are not zero."),
    2: Question(lambda count, updates: count == BYTES * updates.shape[1], "The line above tells the parameters."),
    3: Question(_grows, "Divide the third row of the column `distance` by the first."),
    4: Question(word("apart"), "Compare two rows with one epoch in the last column: which is nearer to 1?"),
    5: Question(_factor, "Compare two rows with the same alpha in the column of uploads."),
    6: Question(_worst, "Of the rows with one epoch, take the one with the lowest accuracy."),
}
