"""Runs that pay for privacy: their overrides, and their ledgers as another process reads them."""

import json
from pathlib import Path
from typing import Any

from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant

from fl.ledger import NAME

DELTA = 1e-3
CLIENT_DP = ("mechanism=client_dp", "noise=seeded", f"delta={DELTA}", "accountant=rdp")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def charged(folder: Path) -> list[tuple[int, list[int]]]:
    """Round and clients of each line of a ledger."""
    return [(line["round"], sorted(line["charges"][0]["clients"])) for line in lines(folder)]


def epsilon_of(times: int, sigma: float = 1.0) -> float:
    """Epsilon computed by direct calls of dp-accounting."""
    return float(RdpAccountant().compose(GaussianDpEvent(sigma), times).get_epsilon(DELTA)) if times else 0.0


BUDGET = (epsilon_of(3) + epsilon_of(4)) / 2
SPENDING = (*CLIENT_DP, "rounds=9", "server.evaluate_every=0", f"epsilon_budget={BUDGET}")
