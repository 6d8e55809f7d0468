from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest

from privacy.errors import RunRefused
from results.measurements import Row
from results.rows import SCHEMA, read_rows, to_frame, write_rows

ROWS = [
    Row(0, "keyholder", "setup", "wall", 0.25, "s"),
    Row(1, "client/3", "collect", "up_bytes", 104_040, "bytes"),
    Row(1, "server", "evaluate", "accuracy", 0.1 + 0.2, "1"),
]


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, to_frame("abc", ROWS))
    frame = read_rows(path)
    assert frame.rows() == [("abc", *row) for row in ROWS]
    assert frame.schema == SCHEMA


def test_the_file_is_zstd_parquet_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, to_frame("abc", ROWS))
    metadata = pyarrow.parquet.read_metadata(path)
    assert {metadata.row_group(0).column(index).compression for index in range(7)} == {"ZSTD"}
    assert pyarrow.parquet.read_table(path).column("value").to_pylist() == [0.25, 104_040.0, 0.1 + 0.2]


def test_no_rows_are_a_frame_too(tmp_path: Path) -> None:
    empty = to_frame("abc", [])
    assert empty.schema == SCHEMA
    assert len(empty) == 0
    assert pl.concat([empty, to_frame("abc", ROWS)]).height == 3


def test_a_written_frame_survives_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, to_frame("first", ROWS))
    read = read_rows(path)
    write_rows(path, to_frame("second", ROWS[:1]))
    assert read["run"].to_list() == ["first"] * 3
    assert read_rows(path)["run"].to_list() == ["second"]


def test_damaged_or_foreign_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, to_frame("abc", ROWS))
    path.write_bytes(path.read_bytes()[:-20])
    for _ in ("truncated", "foreign"):
        with pytest.raises(RunRefused) as refusal:
            read_rows(path)
        assert "\n" not in str(refusal.value)
        assert str(path) in str(refusal.value)
        pl.DataFrame({"other": [1]}).write_parquet(path)
    with pytest.raises(RunRefused, match=r"missing\.parquet"):
        read_rows(tmp_path / "missing.parquet")
