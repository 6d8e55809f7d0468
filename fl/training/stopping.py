"""Early stopping, by the loss of the global model on public examples of the server."""

import math
from collections.abc import Iterable

import polars as pl

PUBLIC_LOSS = "public_loss"  # the metric of the server's rows


def public_losses(rows: pl.DataFrame) -> list[float]:
    """Return the losses on the public examples that the rows of a run tell, in the order of its rounds."""
    told = (pl.col("where") == "server") & (pl.col("metric") == PUBLIC_LOSS)
    losses: list[float] = rows.filter(told).sort("round")["value"].to_list()
    return losses


def stops(losses: Iterable[float], patience: int | None, least_gain: float) -> bool:
    """Tell whether training ends after these losses, which are in the order of their evaluations.

    It ends when the lowest loss has not fallen by more than `least_gain` for `patience` evaluations in a row; None:
    never. A loss that is not a number is no gain.
    """
    if patience is None:
        return False
    best = math.inf
    waited = 0
    for loss in losses:
        gained = loss < best - least_gain if math.isfinite(best) else math.isfinite(loss)
        waited = 0 if gained else waited + 1
        best = loss if gained else best
        if waited >= patience:
            return True
    return False
