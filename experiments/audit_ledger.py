"""`fedveil audit-ledger`: epsilon of a finished run, computed again from its ledger, beside what its rows say.

A reader's own check. Epsilon is computed from the charges of each client, by the run's accountant and by privacy loss
distributions (PLD of dp-accounting), which are tight. A row holds if it tells at least as much as both; PLD rounds up,
so it may exceed a row by a hundredth. Each client that answered in a round, as the rows show it, must be charged there.
The exit status is 1 where a row tells less than the ledger, or an answer is not charged.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)

from fl.checkpoint import last_ledger
from fl.ledger import LedgerFile
from privacy.accounting.charges import kind_of
from privacy.accounting.ledger import Cost, epsilon_of
from privacy.addresses import SERVER, client_address, client_index, is_client
from privacy.checks import UNITS
from privacy.errors import ConfigError
from results.columns import Column
from results.commands.output import Parser, add_output, deliver
from results.render import Sheet
from results.store import CONFIG, ENDED, RunDirectory

ROUNDING = 1e-9  # of a row's number, relative
PLD_EXCESS = 0.01  # by which PLD, which rounds up, may exceed a row
HOLDS = "holds"
COLUMNS = (
    Column("configuration", "clients", "text"),
    Column("count", "number", "count"),
    Column("charges", "charges", "text"),
    Column("accountant", "ε by the run's accountant", "text"),
    Column("pld", "ε by PLD", "text"),
    Column("row", "ε in the rows", "text"),
    Column("verdict", "verdict", "text"),
)
NAMED = 3  # most clients of a line that are named


@dataclass(frozen=True)
class Finding:
    """The clients of one unit with the same charges, for which the rows tell the same epsilon; None: they tell none."""

    clients: tuple[int, ...]
    unit: str
    cost: Cost
    by_run: float
    by_pld: float | None  # None where PLD does not account such events
    told: float | None

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.told is None:
            return "the rows tell none"
        if self.told < self.by_run * (1 - ROUNDING):
            return "the rows tell less than the ledger"
        if self.by_pld is not None and self.told < self.by_pld - PLD_EXCESS * (1 + self.by_pld):
            return "the rows tell less than PLD"
        return HOLDS


def main(argv: Sequence[str]) -> int:
    """Print the audit of the run named in `argv`; returns the exit status.

    Raises:
        ConfigError: an unknown option, or no finished run.
        RunRefused: a file of the run is damaged, or the ledger has lost charges.
    """
    options = _parser().parse_args(argv)
    run = _finished(options.run)
    ledger = LedgerFile(run.checkpoints, last_ledger(run.checkpoints))
    rows = run.rows()
    found = list(findings(ledger, rows, run.configuration() or {}))
    wrong = [*_untold(found, _largest(rows, run.summary() or {})), *uncharged(ledger, rows)]
    deliver(_sheet(found, wrong), options.format, options.out)
    return int(bool(wrong) or any(finding.verdict != HOLDS for finding in found))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fedveil audit-ledger", description=f"{__doc__}", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    add_output(parser)
    return parser


def _finished(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    if not (path / CONFIG).exists():
        raise ConfigError.of("RUN", path, "holds no run")
    status = (run.status() or {}).get("status")
    if status not in ENDED:
        raise ConfigError.of("RUN", path, f"is {status}: allowed are runs that have ended ({', '.join(ENDED)})")
    return run


# ---- epsilon


def findings(ledger: LedgerFile, rows: pl.DataFrame, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the ledger and the rows tell, by unit, charges and told epsilon; the largest epsilon comes first.

    Raises:
        ConfigError: the run's accountant cannot compose the charges of the ledger.
    """
    delta = float(config["delta"])
    accountant = str(config["accountant"])
    for unit in UNITS:
        told = _told(rows, unit)
        costs = ledger.ledger.costs(unit)
        alike: dict[tuple[Cost, float | None], list[int]] = defaultdict(list)
        for client in sorted(costs.keys() | told.keys()):
            alike[costs.get(client, frozenset()), told.get(client)].append(client)
        found = [
            Finding(tuple(clients), unit, cost, epsilon_of(cost, delta, accountant), _pld(cost, delta), row)
            for (cost, row), clients in alike.items()
        ]
        yield from sorted(found, key=lambda finding: (-finding.by_run, finding.clients))


def _told(rows: pl.DataFrame, unit: str) -> dict[int, float]:
    """Return the last epsilon of each client in the rows."""
    chosen = rows.filter(metric=f"epsilon_{unit}").sort("round").select("where", "value")
    return {client_index(where): value for where, value in chosen.iter_rows() if is_client(where)}


def _pld(cost: Cost, delta: float) -> float | None:
    try:
        return epsilon_of(cost, delta, "pld")
    except ConfigError:  # of the kind of event, or of too wide a support
        return None


def _largest(rows: pl.DataFrame, summary: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """Yield the largest epsilon of any client by unit, as the summary and the server's last row tell it."""
    for unit in UNITS:
        yield "summary", unit, summary.get(f"epsilon_{unit}")
        last = rows.filter(metric=f"epsilon_{unit}", where=SERVER).sort("round")["value"].to_list()[-1:]
        yield "server's last row", unit, last[0] if last else None


def _untold(found: Sequence[Finding], largest: Iterable[tuple[str, str, float | None]]) -> Iterator[str]:
    """Yield a line for each place that tells a lower epsilon than the largest one of the ledger."""
    for place, unit, told in largest:
        most = max((finding.by_run for finding in found if finding.unit == unit), default=None)
        if most is None or (told is None and math.isinf(most)):  # JSON has no infinity
            continue
        if told is None or told < most * (1 - ROUNDING):
            yield f"The {place} tells epsilon_{unit}={told}, and the ledger {most:.6g}."


# ---- participation


def uncharged(ledger: LedgerFile, rows: pl.DataFrame) -> Iterator[str]:
    """Yield a line for each round in which clients answered that were not charged; none where nobody ever is."""
    if not ledger.rounds:
        return
    answered = rows.filter((pl.col("metric") == "up_bytes") & (pl.col("round") > 0)).select("round", "where").unique()
    by_round: dict[int, list[int]] = defaultdict(list)
    for number, where in answered.iter_rows():
        if is_client(where) and client_index(where) not in ledger.rounds.get(number, set()):
            by_round[number].append(client_index(where))
    for number, clients in sorted(by_round.items()):
        yield f"Round {number}: {_names(sorted(clients))} answered, and the ledger holds no charge for it."


# ---- words


def _sheet(found: Sequence[Finding], wrong: Sequence[str]) -> Sheet:
    return Sheet(COLUMNS, [_line(finding) for finding in found], notes=tuple(wrong) or _none(found))


def _none(found: Sequence[Finding]) -> tuple[str, ...]:
    return () if found else ("No client was charged: this run promises no epsilon.",)


def _line(finding: Finding) -> dict[str, Any]:
    told = {"accountant": finding.by_run, "pld": finding.by_pld, "row": finding.told}
    return {
        "configuration": _names(finding.clients),
        "count": len(finding.clients),
        "charges": charges_in_words(finding.cost),
        **{key: None if value is None else f"{value:.6g}" for key, value in told.items()},
        "verdict": finding.verdict,
    }


def _names(clients: Sequence[int]) -> str:
    named = ", ".join(map(client_address, clients[:NAMED]))
    return named if len(clients) <= NAMED else f"{named} and {len(clients) - NAMED} more"


def charges_in_words(cost: Cost) -> str:
    """Return charges in words, each with its multiplicity."""
    lines = sorted(f"{times} x {charge.mechanism}: {_in_words(charge.event)}" for charge, times in cost)
    return "; ".join(lines) or "none"


def _in_words(event: DpEvent) -> str:
    match event:
        case GaussianDpEvent() | LaplaceDpEvent():
            return f"{kind_of(event)} noise of {event.noise_multiplier:.6g}"
        case ZCDpEvent():
            return f"zCDP of rho {event.rho:.6g}, xi {event.xi:.6g}"
        case PoissonSampledDpEvent():
            return f"{_in_words(event.event)} on samples at rate {event.sampling_probability:.6g}"
        case SelfComposedDpEvent():
            return f"{event.count} times {_in_words(event.event)}"
        case ComposedDpEvent():
            return " and ".join(map(_in_words, event.events))
    return kind_of(event)
