"""`fedveil table --breakdown`: seconds and bytes of a round by party and by phase, beside the plain twin's."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from results.columns import Column
from results.comparison import averaged, latest, with_overheads
from results.rows import SCHEMA
from results.runs import RUNS
from results.store import RunDirectory

ALL = "all"  # the line of a party that adds its phases up
COLUMNS = (
    Column("party", "party", "text"),
    Column("phase", "phase", "text"),
    Column("seeds", "seeds", "count"),
    Column("phase_s", "time (ms/round)", scale=1e3),
    Column("phase_ratio", "time / plain", "ratio", source="phase_s"),
    Column("sent_bytes", "sent (KiB/round)", scale=2**-10),
    Column("sent_ratio", "sent / plain", "ratio", source="sent_bytes"),
    Column("received_bytes", "received (KiB/round)", scale=2**-10),
    Column("received_ratio", "received / plain", "ratio", source="received_bytes"),
)
EXCHANGED = "comm_bytes"
NOTES = (
    "Time and bytes are those of all clients, or all parties, of a round together.",
    "Times are medians over rounds, since the first one is slow, so that phases add up about; bytes are means.",
    "The server's time is what it computes; evaluation, and envelopes of messages, are not counted.",
)
IDENTITY = ("configuration", "pair", "plain")
PARTIES = {"server": "server", "client": "clients", "keyholder": "keyholder", "party": "parties"}
# as a client goes through them; stages of the protocol follow, in the order in which they came
PHASES = ("prepare", "train", "flatten", "transfer", "protect")


def breakdown(runs: pl.DataFrame) -> pl.DataFrame:
    """A row for each configuration, party and phase, from a frame of `results.runs.RUNS`.

    Figures are those of `COLUMNS`, as `results.comparison.averaged` gives them; `configuration` and `plain` beside
    them. A ratio is to the same phase of the same party in the plain twin, and so is there only where that has one;
    the line `ALL` of each party has one wherever the party is there.
    """
    finished = latest(runs.filter("summarised"))
    runs_found = finished.select("path", *IDENTITY).to_dicts()
    empty = by_phase(SCHEMA.to_frame()).with_columns(pl.lit(None, RUNS[key]).alias(key) for key in IDENTITY)
    frame = pl.concat([empty, *map(_of_run, runs_found)])
    compared = with_overheads(frame, ["pair", "party", "phase"], [column for column in COLUMNS if column.source])
    keys = ["configuration", "party", "phase"]
    return averaged(compared, keys, COLUMNS, pl.col("plain").first(), pl.len().alias("seeds"))


def by_phase(rows: pl.DataFrame) -> pl.DataFrame:
    """Party, phase and the three figures of one run, in reading order; from rows of `results.rows.SCHEMA`.

    What a client sends, the server receives: the bytes stand at the client. Parties tell what they send and receive
    among themselves (`peers`, `dealer`) in one number, which is halved. Their waiting is within their `protect`.
    """
    rounds = rows.filter(pl.col("round") >= 1)
    told = rounds.select(
        "round",
        pl.col("where").str.extract(r"^(\w+)").replace_strict(PARTIES, default=None).alias("party"),
        pl.col("stage").alias("phase"),
        _figure().alias("figure"),
        pl.when(pl.col("metric") == EXCHANGED).then(pl.col("value") / 2).otherwise("value").alias("value"),
    ).drop_nulls(["party", "figure"])
    received = told.filter(pl.col("figure") == EXCHANGED).with_columns(pl.lit("received_bytes").alias("figure"))
    told = pl.concat([told.with_columns(pl.col("figure").replace(EXCHANGED, "sent_bytes")), received])
    told = pl.concat([told, told.with_columns(pl.lit(ALL).alias("phase"))])
    sums = told.group_by("party", "phase", "figure", "round", maintain_order=True).agg(pl.col("value").sum())
    count = rounds["round"].n_unique()
    phases = sums.group_by("party", "phase", maintain_order=True).agg(
        _of("phase_s").median().alias("phase_s"), *(_mean(figure, count) for figure in ("sent_bytes", "received_bytes"))
    )
    return _ordered(phases)


def _figure() -> pl.Expr:
    """Which figure a row adds to; null for none. Parts of a phase are in it already."""
    server, metric, stage = pl.col("where") == "server", pl.col("metric"), pl.col("stage")
    computing = (server & (metric == "compute")) | (server & (metric == "wall") & stage.is_in(["step", "ledger"]))
    working = ~server & (metric == "wall")
    return (
        pl.when(computing | working)
        .then(pl.lit("phase_s"))
        .when(metric == "up_bytes")
        .then(pl.lit("sent_bytes"))
        .when(metric == "down_bytes")
        .then(pl.lit("received_bytes"))
        .when(metric == EXCHANGED)
        .then(pl.lit(EXCHANGED))
    )


def _of(figure: str) -> pl.Expr:
    return pl.col("value").filter(pl.col("figure") == figure)


def _mean(figure: str, rounds: int) -> pl.Expr:
    """Over all rounds, also those without it; null where no round had it."""
    return pl.when(_of(figure).len() > 0).then(_of(figure).sum() / rounds).alias(figure)


def _ordered(sums: pl.DataFrame) -> pl.DataFrame:
    parties, phases = list(PARTIES.values()), list(PHASES)
    place = pl.col("phase").replace_strict({phase: i for i, phase in enumerate(phases)}, default=len(phases))
    return (
        sums.with_row_index("came")
        .sort(
            pl.col("party").replace_strict({party: i for i, party in enumerate(parties)}),
            pl.col("phase") == ALL,
            place,
            "came",
        )
        .drop("came")
    )


def _of_run(run: Mapping[str, object]) -> pl.DataFrame:
    """The phases of a run, with what says which run it is."""
    phases = by_phase(RunDirectory(Path(str(run["path"]))).rows())
    return phases.with_columns(pl.lit(run[key], RUNS[key]).alias(key) for key in IDENTITY)
