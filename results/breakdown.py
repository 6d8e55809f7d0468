"""`fedveil table --breakdown`: seconds and bytes of a round by party, phase and step, beside the plain twin's."""

from pathlib import Path

import polars as pl

from results.columns import Column
from results.comparison import Spread, averaged, latest, with_overheads
from results.measurements import COMPILE, EVALUATE, PART, WITNESS
from results.rows import SCHEMA
from results.store import RunDirectory

ALL = "all"  # the line with the sum over a party's phases, or over a phase's steps
OTHER = "other"  # the line with the time of a phase outside its steps
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
STEP = Column("step", "step", "text")
COLUMNS_WITH_STEPS = (*COLUMNS[:2], STEP, *COLUMNS[2:])
PHASE = ["run", "party", "phase"]  # the columns that name a phase
EXCHANGED = "comm_bytes"
NOTES = (
    "Time and bytes are sums over all clients, or all parties, of a round.",
    "Times are medians over rounds, since the first one is slow, so phases add up only approximately; bytes are means.",
    "The server's time is its computing; evaluation, witnesses, and envelopes of messages are not counted.",
)
STEP_NOTES = (
    f"A step is a part of a phase that the protocol names, such as encrypt; {ALL} is the whole phase.",
    "Steps are taken from the round with the phase's median time, or as the mean of the two rounds in the middle; "
    f"{OTHER} is the rest of the phase, so steps and {OTHER} add up to the phase; a step missing there took 0 s.",
)
BATCH = 200  # runs whose rows are in memory at a time
PARTIES = {"server": "server", "client": "clients", "keyholder": "keyholder", "party": "parties"}
# the order in which a client passes them; stages of the protocol follow, in order of appearance
PHASES = ("prepare", "train", "flatten", "transfer", "protect")


def breakdown(runs: pl.DataFrame, steps: bool = False, spread: Spread = "ci") -> pl.DataFrame:
    """A row for each configuration, party and phase, and with `steps` for each step; from `results.runs.RUNS`.

    Figures are those of `COLUMNS`, as `results.comparison.averaged` gives them; `configuration` and `plain` beside
    them. A ratio compares with the same phase of the same party in the plain twin, and is null where the twin lacks
    the phase; the line `ALL` has a ratio wherever the twin has the party.

    With `steps`, the row of a phase has the step `ALL`, and those of its steps follow it, see `by_step`. A step that a
    seed lacks took no time there, so means over seeds add up too. A phase without steps in any seed is one row.
    """
    finished = latest(runs.filter("summarised"))
    identity = finished.select(pl.col("path").alias("run"), "configuration", "pair", "plain")
    divide = by_step if steps else by_phase
    batches = finished["path"].to_frame().iter_slices(BATCH)
    divided = pl.concat([divide(SCHEMA.to_frame()), *(divide(_rows(batch)) for batch in batches)])
    frame = divided.join(identity, on="run", maintain_order="left")
    if steps:
        frame = _of_all_seeds(frame)
    line = ["party", "phase", "step"] if steps else ["party", "phase"]
    compared = with_overheads(frame, ["pair", *line], [column for column in COLUMNS if column.source])
    others = pl.col("plain").first(), pl.len().alias("seeds")
    return averaged(compared, ["configuration", *line], COLUMNS, *others, spread=spread)


def by_phase(rows: pl.DataFrame) -> pl.DataFrame:
    """Run, party, phase and the three figures, phases in reading order; from rows of `results.rows.SCHEMA`.

    Bytes between a client and the server count once, at the client. Parties report the bytes that they send and receive
    among themselves (`peers`, `dealer`) as one number, which is halved. Their waiting is part of their `protect`.
    """
    rounds = _rounds(rows)
    told = rounds.select(
        "run",
        "round",
        _party(),
        pl.col("stage").alias("phase"),
        _figure().alias("figure"),
        pl.when(pl.col("metric") == EXCHANGED).then(pl.col("value") / 2).otherwise("value").alias("value"),
    ).drop_nulls(["party", "figure"])
    received = told.filter(pl.col("figure") == EXCHANGED).with_columns(pl.lit("received_bytes").alias("figure"))
    told = pl.concat([told.with_columns(pl.col("figure").replace(EXCHANGED, "sent_bytes")), received])
    told = pl.concat([told, told.with_columns(pl.lit(ALL).alias("phase"))])
    sums = told.group_by(*PHASE, "figure", "round", maintain_order=True).agg(pl.col("value").sum())
    counts = rounds.group_by("run").agg(pl.col("round").n_unique().alias("rounds"))
    phases = sums.join(counts, on="run", maintain_order="left").group_by(PHASE, maintain_order=True)
    return _ordered(phases.agg(_of("phase_s").median().alias("phase_s"), _mean("sent_bytes"), _mean("received_bytes")))


def by_step(rows: pl.DataFrame) -> pl.DataFrame:
    """The frame of `by_phase` with a column `step`: the phase itself is `ALL`, below it stand its steps and `OTHER`.

    A phase's time is the median over its rounds. The time of a step comes from the same round, or is the mean over the
    two rounds in the middle. `OTHER` is the rest of the phase there, and all of a phase without steps. Hence the lines
    below `ALL` add up to it, which medians of each step would not. A step that the round lacks took no time.
    """
    phases = by_phase(rows).with_row_index("place")
    timed = phases.filter(pl.col("phase_s").is_not_null()).select(*PHASE, "place")
    below = _divided(rows).join(timed, on=PHASE, how="inner", maintain_order="left")
    lines = pl.concat([phases.with_columns(pl.lit(ALL).alias("step")), below], how="diagonal")
    ordered = lines.sort("place", pl.col("step") != ALL, pl.col("step") == OTHER, maintain_order=True)
    return ordered.select(*PHASE, "step", "phase_s", "sent_bytes", "received_bytes")


def _divided(rows: pl.DataFrame) -> pl.DataFrame:
    """Run, party, phase, step and `phase_s` of each step and of `OTHER`, from rows of `results.rows.SCHEMA`."""
    round_ = [*PHASE, "round"]
    whole = _seconds(_rounds(rows).filter(_figure() == "phase_s"), pl.col("stage").alias("phase"))
    steps = _steps(rows)
    explained = steps.group_by(round_).agg(pl.col("value").sum().alias("explained"))
    rest = whole.join(explained, on=round_, how="left", maintain_order="left").select(
        *PHASE, pl.lit(OTHER).alias("step"), "round", pl.col("value") - pl.col("explained").fill_null(0.0)
    )
    weighed = pl.concat([steps, rest]).join(_middle(whole), on=round_, how="left", maintain_order="left")
    time = (pl.col("value") * pl.col("weight").fill_null(0.0)).sum().alias("phase_s")
    return weighed.group_by(*PHASE, "step", maintain_order=True).agg(time)


def _steps(rows: pl.DataFrame) -> pl.DataFrame:
    """Run, party, phase, step, round and seconds of each step, from rows of `results.rows.SCHEMA`."""
    stage = pl.col("stage").str.splitn("/", 2)
    phase = stage.struct.field("field_0").alias("phase")
    step = stage.struct.field("field_1").alias("step")
    return _seconds(_rounds(rows).filter(pl.col("metric") == PART), phase, step)


def _seconds(rows: pl.DataFrame, *names: pl.Expr) -> pl.DataFrame:
    """Run, party, `names`, round and `value`: the sum over the members of the party in the round."""
    told = rows.select("run", _party(), *names, "round", "value").drop_nulls("party")
    keys = [name for name in told.columns if name != "value"]
    return told.group_by(keys, maintain_order=True).agg(pl.col("value").sum())


def _middle(whole: pl.DataFrame) -> pl.DataFrame:
    """Phase, round and weight of the rounds whose mean is the phase's median: one round, or two of weight 1/2."""
    rank = pl.int_range(pl.len()).over(PHASE)
    count = pl.len().over(PHASE)
    ranked = whole.sort("value", "round").with_columns(rank.alias("rank"), count.alias("count"))
    middle = ranked.filter(pl.col("rank").is_between((pl.col("count") - 1) // 2, pl.col("count") // 2))
    return middle.select(*PHASE, "round", (1.0 / pl.len().over(PHASE)).alias("weight"))


def _of_all_seeds(frame: pl.DataFrame) -> pl.DataFrame:
    """The lines of `by_step` with 0 s for steps that only other seeds have, and without phases that have no step."""
    phase = ["configuration", "party", "phase"]
    own = pl.col("step").is_in([ALL, OTHER]).not_()
    placed = frame.with_row_index("place").filter((pl.col("step") == ALL) | own.any().over(phase))
    known = placed.filter(own).unique([*phase, "step"], maintain_order=True).select(*phase, "step")
    every = placed.filter(pl.col("step") == ALL, pl.col("phase_s").is_not_null())
    wanted = every.select("run", "pair", "plain", *phase).join(known, on=phase, maintain_order="left")
    missing = wanted.join(placed, on=["run", *phase, "step"], how="anti").with_columns(pl.lit(0.0).alias("phase_s"))
    lines = pl.concat([placed, missing], how="diagonal")
    first = pl.col("place").min().over(phase)
    return lines.sort(first, pl.col("step") != ALL, pl.col("step") == OTHER, "place", nulls_last=True).drop("place")


def _rounds(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of rounds, without set-up, witnesses and evaluation."""
    return rows.filter(pl.col("round") >= 1, ~pl.col("stage").is_in([WITNESS, EVALUATE, COMPILE]))


def _party() -> pl.Expr:
    """The party that a row belongs to; null for none."""
    return pl.col("where").str.extract(r"^(\w+)").replace_strict(PARTIES, default=None).alias("party")


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


def _rows(listed: pl.DataFrame) -> pl.DataFrame:
    """The rows of some runs, named by their paths, since the same run may lie in two folders."""
    return pl.concat([RunDirectory(Path(path)).rows().with_columns(run=pl.lit(path)) for path in listed["path"]])
