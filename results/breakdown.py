"""`fedveil table --breakdown`: seconds and bytes of a round by party and by phase, beside the plain twin's."""

from pathlib import Path

import polars as pl

from results.columns import Column
from results.comparison import averaged, latest, with_overheads
from results.rows import SCHEMA, WITNESS
from results.store import RunDirectory

ALL = "all"  # the line with the sum over a party's phases
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
    "Time and bytes are sums over all clients, or all parties, of a round.",
    "Times are medians over rounds, since the first one is slow, so phases add up only approximately; bytes are means.",
    "The server's time is its computing; evaluation, witnesses, and envelopes of messages are not counted.",
)
BATCH = 200  # runs whose rows are in memory at a time
PARTIES = {"server": "server", "client": "clients", "keyholder": "keyholder", "party": "parties"}
# the order in which a client passes them; stages of the protocol follow, in order of appearance
PHASES = ("prepare", "train", "flatten", "transfer", "protect")


def breakdown(runs: pl.DataFrame) -> pl.DataFrame:
    """A row for each configuration, party and phase, from a frame of `results.runs.RUNS`.

    Figures are those of `COLUMNS`, as `results.comparison.averaged` gives them; `configuration` and `plain` beside
    them. A ratio compares with the same phase of the same party in the plain twin, and is null where the twin lacks
    the phase; the line `ALL` has a ratio wherever the twin has the party.
    """
    finished = latest(runs.filter("summarised"))
    identity = finished.select(pl.col("path").alias("run"), "configuration", "pair", "plain")
    phases = pl.concat([by_phase(SCHEMA.to_frame()), *map(_of_runs, finished["path"].to_frame().iter_slices(BATCH))])
    frame = phases.join(identity, on="run", maintain_order="left")
    compared = with_overheads(frame, ["pair", "party", "phase"], [column for column in COLUMNS if column.source])
    keys = ["configuration", "party", "phase"]
    return averaged(compared, keys, COLUMNS, pl.col("plain").first(), pl.len().alias("seeds"))


def by_phase(rows: pl.DataFrame) -> pl.DataFrame:
    """Run, party, phase and the three figures, phases in reading order; from rows of `results.rows.SCHEMA`.

    Bytes between a client and the server count once, at the client. Parties report the bytes that they send and receive
    among themselves (`peers`, `dealer`) as one number, which is halved. Their waiting is part of their `protect`.
    """
    rounds = rows.filter(pl.col("round") >= 1, pl.col("stage") != WITNESS)
    told = rounds.select(
        "run",
        "round",
        pl.col("where").str.extract(r"^(\w+)").replace_strict(PARTIES, default=None).alias("party"),
        pl.col("stage").alias("phase"),
        _figure().alias("figure"),
        pl.when(pl.col("metric") == EXCHANGED).then(pl.col("value") / 2).otherwise("value").alias("value"),
    ).drop_nulls(["party", "figure"])
    received = told.filter(pl.col("figure") == EXCHANGED).with_columns(pl.lit("received_bytes").alias("figure"))
    told = pl.concat([told.with_columns(pl.col("figure").replace(EXCHANGED, "sent_bytes")), received])
    told = pl.concat([told, told.with_columns(pl.lit(ALL).alias("phase"))])
    keys = ["run", "party", "phase"]
    sums = told.group_by(*keys, "figure", "round", maintain_order=True).agg(pl.col("value").sum())
    counts = rounds.group_by("run").agg(pl.col("round").n_unique().alias("rounds"))
    phases = sums.join(counts, on="run", maintain_order="left").group_by(keys, maintain_order=True)
    return _ordered(phases.agg(_of("phase_s").median().alias("phase_s"), _mean("sent_bytes"), _mean("received_bytes")))


def _figure() -> pl.Expr:
    """The figure that a row adds to; null for none. Parts of a phase are included in the phase already."""
    server = pl.col("where") == "server"
    metric = pl.col("metric")
    stage = pl.col("stage")
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


def _mean(figure: str) -> pl.Expr:
    """Mean over all rounds, also those without the figure; null where no round had it."""
    return pl.when(_of(figure).len() > 0).then(_of(figure).sum() / pl.col("rounds").first()).alias(figure)


def _ordered(sums: pl.DataFrame) -> pl.DataFrame:
    parties = list(PARTIES.values())
    phases = list(PHASES)
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


def _of_runs(listed: pl.DataFrame) -> pl.DataFrame:
    """The phases of some runs, named by their paths, since the same run may lie in two folders."""
    rows = [RunDirectory(Path(path)).rows().with_columns(pl.lit(path).alias("run")) for path in listed["path"]]
    return by_phase(pl.concat(rows))
