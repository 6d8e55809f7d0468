"""An index of the runs in a folder, so that a table need not open three files of each run.

It is one parquet file in the folder of the runs, and only a cache: a run is taken from it only while the stamp of its
files is unchanged, and is read from its own files otherwise. The index can be deleted without loss. It holds only
ended runs, since no file tells whether another run is still alive.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from results import columns, files, runs
from results.naming import former_names, later_keys
from results.runs import RUNS, Found, collect, find_stamped

NAME = ".fedveil-index.parquet"
LEAST = 1000  # runs; fewer are about as fast to read without an index
CHUNK = 10_000  # runs read at a time, to limit memory
MADE_BY = "fedveil.made_by"
FOUND = pl.Schema({"path": pl.String(), "stamp": pl.Int64(), "leaf": pl.Boolean()})
INDEX = pl.Schema({**RUNS, **FOUND})  # its paths are relative to the folder


def collect_under(roots: Iterable[Path], least: int = LEAST) -> pl.DataFrame:
    """The frame of `results.runs.collect` for every run at or under each root, each once, in the order of their paths.

    A writable root with `least` runs or more gets an index, or its index is brought up to date.

    Raises:
        ConfigError: there is no run under a root.
    """
    found, indexes = _found(roots)
    parts = (_collect(root, runs, indexes[root], least) for root, runs in found.items())
    return pl.concat([RUNS.to_frame(), *parts])


def refresh(root: Path, least: int = LEAST) -> None:
    """Bring the index of a folder up to date where it holds `least` runs or more, for the next table.

    Raises:
        ConfigError: as `collect_under`.
    """
    found, indexes = _found([root])
    if len(found[root]) >= least:
        _collect(root, found[root], indexes[root], least)


def _found(roots: Iterable[Path]) -> tuple[dict[Path, list[Found]], dict[Path, pl.DataFrame]]:
    """The runs under each root, and its index."""
    indexes = {root: _read(root / NAME) for root in dict.fromkeys(roots)}
    return find_stamped(indexes, lambda root: _leaves(root, indexes[root])), indexes


def _leaves(root: Path, index: pl.DataFrame) -> dict[str, int]:
    return dict(index.filter("leaf").select(_above(root), "stamp").iter_rows())


def _above(root: Path) -> pl.Expr:
    """Turn the paths of an index, relative to its folder, into those of `results.runs.find_stamped`."""
    return (pl.lit(f"{root}/") + pl.col("path")).str.strip_suffix("/").alias("path")


def _below(root: Path) -> pl.Expr:
    """Turn the paths of `results.runs.find_stamped` into those of an index."""
    inner = pl.col("path").str.strip_prefix(f"{root}/")
    return pl.when(pl.col("path") == str(root)).then(pl.lit("")).otherwise(inner).alias("path")


def _collect(root: Path, found: Sequence[Found], index: pl.DataFrame, least: int) -> pl.DataFrame:
    if len(found) < least:
        return collect([Path(run.path) for run in found])
    listed = pl.DataFrame(found, schema=FOUND, orient="row").with_columns(_below(root))
    known = listed.join(index, on=FOUND.names(), how="inner", maintain_order="left").select(INDEX.names())
    unknown = listed.join(known, on=FOUND.names(), how="anti", maintain_order="left")
    if len(unknown) >= CHUNK:  # takes about ten seconds
        print(f"fedveil: reading {len(unknown)} runs, once: {root / NAME} will hold them", file=sys.stderr, flush=True)
    fresh = pl.concat([INDEX.to_frame(), *(_fresh(root, part) for part in unknown.iter_slices(CHUNK))])
    whole = pl.concat([known, fresh]).sort("path") if len(fresh) else known
    _keep(root / NAME, index, whole.filter("summarised"), changed=fresh["summarised"].any())
    return whole.select(RUNS.names()).with_columns(_above(root).str.strip_prefix("./"))


def _fresh(root: Path, listed: pl.DataFrame) -> pl.DataFrame:
    """The rows of runs, read from their own files."""
    read = collect([root / path for path in listed["path"]])
    return read.with_columns(*listed)


def _read(path: Path) -> pl.DataFrame:
    """The index; an empty one where it is missing, unreadable or made by another version of this code."""
    try:
        if pl.read_parquet_metadata(path).get(MADE_BY) == _made_by():
            with path.open("rb") as file:
                return pl.read_parquet(file)
    except (OSError, PolarsError):
        pass
    return INDEX.to_frame()


def _keep(path: Path, index: pl.DataFrame, whole: pl.DataFrame, changed: bool) -> None:
    """Write the index where it has changed; without write permission no index is kept."""
    if changed or len(whole) != len(index):
        with suppress(OSError), files.replacing(path) as temporary:
            whole.write_parquet(temporary, compression="zstd", metadata={MADE_BY: _made_by()})


def _made_by() -> str:
    """A digest of the code that fills an index; after a change of this code the runs are read again."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (columns, former_names, later_keys, runs)]
    return hashlib.sha256(b"".join(sources)).hexdigest()
