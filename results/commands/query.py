"""`fedveil query "SQL"`: the runs and their measurements as two tables for Polars' SQL."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from privacy.errors import ConfigError, nearest, shown
from results import store
from results.columns import Column
from results.commands.output import Parser, add_output, add_runs, deliver
from results.index import collect_under
from results.render import Sheet
from results.rows import MEASURED
from results.runs import RUNS

RUNS_TABLE = "runs"
ROWS_TABLE = "rows"
ROWS = pl.Schema({"path": pl.String(), **MEASURED})
METRIC = re.compile(r"\bmetric\"?\s*=\s*'([^']*)'", re.IGNORECASE)  # in a query, the metric that it asks for
MOST = 300  # most characters kept of a message of Polars
TABLES = f"""tables:
  {RUNS_TABLE}  one row a run: {", ".join(RUNS)}
  {ROWS_TABLE}  one row a measurement: {", ".join(ROWS)}

path, the run's folder, joins them. A run has figures where summarised is true; their names and units are those of
`fedveil table --columns`: seconds end in _s, other figures are raw, and accuracy is a share. The column configuration
is the canonical JSON without the seed; a run and its plain twin have the same pair. Round 0 is set-up. WHERE is an SQL
keyword, so put the column in quotes.

  fedveil query 'SELECT "where", stage, SUM(value) AS s FROM rows WHERE metric = '"'wall'"' GROUP BY "where", stage'
  fedveil query 'SELECT backend, AVG(accuracy) AS accuracy, COUNT(*) AS runs FROM runs GROUP BY backend' mysweep
"""


def main(argv: Sequence[str]) -> int:
    """Print the answer, or write it to a file; returns the exit status.

    Raises:
        ConfigError: SQL that Polars does not understand, or an unknown table or column; and as `fedveil table`.
    """
    options = _parser().parse_args(argv)
    answer = query(options.sql, collect_under(options.runs))
    deliver(sheet(answer), options.format, options.out, exact=answer)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fedveil query",
        description=f"{__doc__}",
        epilog=TABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("sql", metavar="SQL", help="one SELECT, over the tables below")
    add_runs(parser)
    add_output(parser)
    return parser


def query(sql: str, runs: pl.DataFrame) -> pl.DataFrame:
    """The answer to a query over a frame of `results.runs.RUNS`, and the rows of these runs.

    Raises:
        ConfigError: the query has no answer.
    """
    texts = runs.lazy().with_columns(pl.col(pl.Categorical()).cast(pl.String()))  # LIKE and JSON functions need strings
    context = pl.SQLContext({RUNS_TABLE: texts, ROWS_TABLE: _rows(runs["path"])})
    try:
        answer = context.execute(sql, eager=True)
    except (PolarsError, OSError) as error:
        raise _refused((str(error).splitlines() or [type(error).__name__])[0]) from error
    if not answer.width:
        raise _refused("the query returns no columns")
    if answer.is_empty():
        _require_metrics(sql, runs["path"])
    return answer


def _require_metrics(sql: str, paths: Iterable[str]) -> None:
    """Refuse a query that asks for a metric of which there is no row: its answer is empty for no other reason."""
    known = sorted(_rows(paths).select(pl.col("metric").unique().cast(pl.String())).collect()["metric"])
    for metric in METRIC.findall(sql):
        if known and metric not in known:
            found = nearest(metric, known) or f"; there are {', '.join(known)}"
            raise _refused(f"no row has the metric {shown(metric)}{found}")


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"SQL: {shown(reason, MOST)}; tables are {RUNS_TABLE} and {ROWS_TABLE}: fedveil query --help")


def _rows(paths: Iterable[str]) -> pl.LazyFrame:
    """All measurements; files are read lazily, and only as far as a query needs them."""
    files = [file for path in paths if (file := Path(path, store.ROWS)).exists()]
    if not files:
        return ROWS.to_frame().lazy()
    frame = pl.scan_parquet(files, include_file_paths="path", glob=False)
    return frame.select(pl.col("path").str.strip_suffix(f"/{store.ROWS}"), *MEASURED)


def sheet(answer: pl.DataFrame) -> Sheet:
    """An answer as a table to print: numbers with six digits; CSV keeps full precision."""
    columns = tuple(
        Column(name, name, "count" if kind.is_numeric() else "text") for name, kind in answer.schema.items()
    )
    return Sheet(columns, [{key: _shown(value) for key, value in row.items()} for row in answer.to_dicts()])


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
