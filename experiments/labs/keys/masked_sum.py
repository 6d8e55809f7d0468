"""The answers of lab 5."""

from collections.abc import Sequence
from typing import Any

from experiments.labs.questions import Question, near, word
from privacy.secure_sums.secagg.graph import GraphPlan


def _may_be_gone(count: Any, rebuilt: Sequence[dict[str, Any]]) -> bool:
    """The holders beyond the fewest that rebuilt the key."""
    return bool(count == len(rebuilt) - min(row["shares"] for row in rebuilt if row["the key"]))


def _must_collude(count: Any, plan: GraphPlan) -> bool:
    """With k of n holders giving both, n + k shares are given; t of each secret are needed."""
    return bool(count == 2 * plan.threshold - plan.holders)


QUESTIONS = {
    1: Question(near(47, 1e-9), "Add the three as they are, and turn the clock back by 256 as often as you can."),
    2: Question(near(45, 1e-9), "Each of the ten has a seed with each of the others; count no pair twice."),
    3: Question(_may_be_gone, "Look for the first `true` in the table: so many must be left."),
    4: Question(word("seed"), "One of the two opens the masks of each pair. Who needs these taken off for them?"),
    5: Question(_must_collude, "Count the shares that arrive: one from each holder, and one more from each colluder."),
}
