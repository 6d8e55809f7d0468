"""`fedveil table --network PROFILE`: the modelled time of a run's rounds over other links, from its measured rows.

A modelled round is measured computing plus modelled transfer:

- computing: the server's protocol, step and ledger; the slowest client, since clients work in parallel, unlike in
  a simulation; the keyholder; and the slowest party, without its waiting for the others;
- transfer: each stage of the secure sum is one round trip of the server with the roles that it asks, with the counted
  bytes (envelopes too). Then follows the traffic among parties and their dealer: each of their communication rounds
  takes half a round trip and an equal part of their bytes.

The model excludes the engine's time for messages, lost packets, and waiting for drop-outs. The slowest client is that
of a whole round, since phases do not record their stage.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import polars as pl

from privacy.addresses import is_client, is_party
from results.columns import Column
from results.measurements import COMPILE, EVALUATE, WITNESS
from results.networks.links import Network
from results.store import RunDirectory

PEERS = ("peers", "dealer")  # the stages in which parties report the bytes that passed among them
Sizes = dict[str, float]  # bytes by address


class Replay(NamedTuple):
    """Seconds of a round; medians over rounds. Rounds without times of clients are not modelled."""

    round_s: float | None
    transfer_s: float | None


def columns(network: Network) -> tuple[Column, ...]:
    """The columns of a table for one network."""
    name = network.name
    round_s = f"modelled_round_s_{name}"
    return (
        Column(round_s, f"modelled round, {name} (s)"),
        Column(f"modelled_transfer_s_{name}", f"of it transfer, {name} (s)"),
        Column(f"modelled_ratio_{name}", f"modelled round / plain, {name}", "ratio", source=round_s),
    )


def with_modelled(runs: pl.DataFrame, networks: Sequence[Network]) -> pl.DataFrame:
    """A frame of `results.runs.RUNS` with the first two of `columns` of each network, for runs that have figures."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for path, summarised in runs.select("path", "summarised").iter_rows() if networks else ():
        rows = RunDirectory(Path(path)).rows() if summarised else None
        for network in networks:
            replayed = Replay(None, None) if rows is None else replay(rows, network)
            for column, value in zip(columns(network), replayed, strict=False):
                found[column.key].append(value)
    return runs.with_columns(pl.Series(key, values, pl.Float64()) for key, values in found.items())


def note(network: Network) -> str:
    """The note under a table that explains the modelled columns."""
    profile = network.profile
    return f"Modelled over {network.name}, {profile.title} (source: {profile.source})."


NOTE = (
    "A modelled round is not measured: it adds the measured computing of the server, the slowest client, the "
    "keyholder and the slowest party to the time that the measured bytes, stages and communication rounds would take."
)


def replay(rows: pl.DataFrame, network: Network) -> Replay:
    """The rounds of a run, from rows of `results.rows.SCHEMA`, over a network."""
    rounds = _rounds(rows)
    transfers = [transfer_s(told, network) for told in rounds]
    computed = [computing_s(told) for told in rounds]
    whole = [spent + moved for spent, moved in zip(computed, transfers, strict=True) if spent is not None]
    return Replay(median(whole) if whole else None, median(transfers) if transfers else None)


Told = Mapping[tuple[str, str, str], float]  # the measurements of one round, by address, stage and metric


def _rounds(rows: pl.DataFrame) -> list[Told]:
    told: dict[int, dict[tuple[str, str, str], float]] = defaultdict(dict)
    for number, where, stage, metric, value in rows.select("round", "where", "stage", "metric", "value").iter_rows():
        if number >= 1:
            told[number][where, stage, metric] = value
    return [told[number] for number in sorted(told)]


def computing_s(told: Told) -> float | None:
    """Measured computing of a round, over the roles that wait for one another; None without times of clients."""
    spent: dict[str, float] = defaultdict(float)
    for (where, stage, metric), value in told.items():
        if where == "server":
            computes = metric == "compute" or (metric == "wall" and stage in ("step", "ledger"))
            spent[where] += value if computes else 0.0
        elif where != "transport" and stage not in (WITNESS, EVALUATE, COMPILE):
            spent[where] += value if metric == "wall" else -value if metric == "comm_wall" else 0.0
    clients = [seconds for where, seconds in spent.items() if is_client(where)]
    parties = [seconds for where, seconds in spent.items() if is_party(where)]
    if not any(clients):
        return None
    return spent["server"] + max(clients) + spent["keyholder"] + max(parties, default=0.0)


def transfer_s(told: Told, network: Network) -> float:
    """Modelled transfer of a round."""
    down: dict[str, Sizes] = defaultdict(lambda: defaultdict(float))
    up: dict[str, Sizes] = defaultdict(dict)
    for (where, stage, metric), value in told.items():
        if metric in ("down_bytes", "envelope_bytes"):
            down[stage][where] += value
        elif metric == "up_bytes":
            up[stage][where] = value
    stages = sum(network.exchange_s(sizes, up[stage]) for stage, sizes in down.items())
    return stages + _among_parties_s(told, network)


def _among_parties_s(told: Told, network: Network) -> float:
    """Transfer of the slowest party over both stages; its bytes to all others pass through its own link."""
    parties = sorted({where for where, stage, _ in told if stage in PEERS})
    spent = [sum(_party_s(told, network, party, parties, stage) for stage in PEERS) for party in parties]
    return max(spent, default=0.0)


def _party_s(told: Told, network: Network, party: str, parties: Sequence[str], stage: str) -> float:
    waits = told.get((party, stage, "comm_rounds"), 0.0)
    others = ["dealer"] if stage == "dealer" else [other for other in parties if other != party]
    if not waits or not others:
        return 0.0
    sent_bytes = told.get((party, stage, "comm_bytes"), 0.0) / 2  # the count includes sent and received bytes
    return waits * max(network.transfer_s(sent_bytes / waits, party, other) for other in others)
