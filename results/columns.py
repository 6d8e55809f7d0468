"""Columns of a table: their names, their headings with units, and the combination of their figures over seeds."""

from typing import Literal, NamedTuple

Kind = Literal["text", "count", "mean", "largest", "ratio", "difference"]


class Column(NamedTuple):
    """A column; `key` is its name on the command line and in CSV, where figures are raw.

    Over the seeds of a configuration, `mean` and `difference` (to the plain twin) combine to the arithmetic mean,
    `ratio` (to the plain twin) to the geometric one, and `largest` to the maximum, since a bound is no average.
    """

    key: str
    heading: str
    kind: Kind = "mean"
    scale: float = 1.0  # factor from the raw figure to the unit of the heading
    decimals: int = 9  # the maximum number of decimals
    source: str = ""  # the compared figure, for ratios and differences


CONFIGURATION = Column("configuration", "configuration", "text")
ASSUMPTION = Column("assumption", "trust assumption", "text")

COLUMNS = (
    Column("backend", "backend", "text"),
    Column("seeds", "seeds", "count"),
    Column("rounds", "rounds", decimals=0),
    Column("parameters", "parameters", decimals=0),
    Column("accuracy", "accuracy (%)", scale=100, decimals=2),
    Column("accuracy_points", "Δ accuracy (points)", "difference", decimals=2, source="accuracy"),
    Column("client_accuracy", "clients' own accuracy (%)", scale=100, decimals=2),
    Column("client_accuracy_deviation", "std over clients (%)", scale=100, decimals=2),
    Column("client_accuracy_lowest", "lowest client (%)", scale=100, decimals=2),
    Column("macro_f1", "macro-F1 (%)", scale=100, decimals=2),
    Column("loss", "loss (nats)"),
    Column("first_round_s", "first round (s)"),
    Column("round_s", "round (s)"),
    Column("round_ratio", "round / plain", "ratio", source="round_s"),
    Column("witness_s", "witness (s/round)"),
    Column("train_s", "train (s/round)"),
    Column("train_ratio", "train / plain", "ratio", source="train_s"),
    Column("client_s", "clients (s/round)"),
    Column("client_ratio", "clients / plain", "ratio", source="client_s"),
    Column("upload_bytes_per_parameter", "upload (B/param)"),
    Column("upload_ratio", "upload / plain", "ratio", source="upload_bytes_per_parameter"),
    Column("download_bytes_per_parameter", "download (B/param)"),
    Column("download_ratio", "download / plain", "ratio", source="download_bytes_per_parameter"),
    Column("envelope_bytes", "envelope (B)", decimals=0),
    Column("parties_bytes", "between parties (MiB/round)", scale=2**-20, decimals=2),
    Column("parties_rounds", "waits between parties (/round)", decimals=0),
    Column("epsilon", "ε", "largest"),
    Column("holds_against", "ε holds against", "text"),
    Column("dropped", "dropped", decimals=1),
    Column("rejected", "rejected", decimals=1),
    Column("faults", "faults on purpose", decimals=1),
    Column("sum_error", "error of the sum (1e-9)", "largest", scale=1e9),
    Column("cut_share", "values cut (%)", "largest", scale=100, decimals=3),
    Column("peak_rss_bytes", "peak RSS (MiB)", scale=2**-20, decimals=0),
    Column("peak_cuda_bytes", "peak CUDA (MiB)", scale=2**-20, decimals=0),
)
# The default columns, as far as they were measured; `--columns` overrides them.
DEFAULT = (
    *("seeds", "accuracy", "accuracy_points", "client_accuracy", "client_accuracy_deviation", "client_accuracy_lowest"),
    *("round_s", "round_ratio", "train_ratio"),
    *(
        "upload_bytes_per_parameter",
        "upload_ratio",
        "download_bytes_per_parameter",
        "download_ratio",
        "parties_bytes",
        "parties_rounds",
        "epsilon",
        "holds_against",
    ),
)
TEXTS = ("backend", "assumption", "holds_against")  # texts of a summary
SUMMARISED = tuple(column.key for column in COLUMNS if column.kind in ("mean", "largest"))
BY_KEY = {column.key: column for column in (*COLUMNS, CONFIGURATION, ASSUMPTION)}
