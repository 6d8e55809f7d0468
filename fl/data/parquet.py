"""A data set in parquet files, in the layout of the Hugging Face hub."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fl.data.decoding import BATCH_ROWS, DecodingRequest, RawImages, Table, choose_splits, decode_table, stamps
from fl.data.images import file_of, one_line
from fl.data.layout import Found
from privacy.errors import ConfigError

LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ParquetFolder:
    """A folder of parquet files in the layout of the Hugging Face hub: file names begin with their split."""

    place: str
    found: Found
    request: DecodingRequest
    pixel_max: ClassVar[int] = 255

    def identity(self) -> list[Any]:
        """Return the cache key, made from the files with sizes and times, and the splits and columns to read.

        The files of images that a table names without holding them count, too.
        """
        files = [*itertools.chain(*self.found.splits.values())]
        wanted = (self.request.train_split, self.request.test_split)
        read = itertools.chain.from_iterable(self.found.splits.get(split, []) for split in wanted)
        named = itertools.chain.from_iterable(_named(file, self.request.image_column) for file in read)
        return ["parquet", *self.request.reading(), *stamps(files), *stamps(sorted({*named}))]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Decode both splits; see `Source.read`."""
        train, test = choose_splits(self.request, self.found.splits, self.place)
        self._require_same_classes([split for split in (train, test) if split is not None])
        return self._decode(train, True), (self._decode(test, False) if test else None)

    def _decode(self, split: str, owned: bool) -> RawImages:
        files = self.found.splits[split]
        tables = [opened(file) for file in files]
        self._require_same_types(files, [table.schema_arrow for table in tables])

        def batches(columns: list[str]) -> Iterable[Any]:
            return (batch for table in tables for batch in table.iter_batches(BATCH_ROWS, columns=columns))

        rows = sum(table.metadata.num_rows for table in tables)
        table = Table(self.place, split, tables[0].schema_arrow.names, owned, files[0].parent)
        return decode_table(self.request, table, batches, rows)

    def _require_same_types(self, files: Sequence[Path], schemas: Sequence[Any]) -> None:
        """Refuse shards of a split whose columns have other names or types than those of the first one.

        Raises:
            ConfigError: the message names two files and a column.
        """
        first = _types(schemas[0])
        for file, schema in zip(files, schemas, strict=True):
            types = _types(schema)
            column = next((name for name in (*first, *types) if first.get(name) != types.get(name)), None)
            if column is not None:
                told = f"{files[0].name} has {first.get(column, 'none')}, {file.name} has {types.get(column, 'none')}"
                raise ConfigError(f"{self.place}: shards of one split differ in the column {column}: {told}")

    def _require_same_classes(self, splits: Sequence[str]) -> None:
        """Refuse files that number their classes differently, where they name them as the hub's files do.

        Raises:
            ConfigError: the message names two files.
        """
        column = self.request.label_column
        named = {
            file: names
            for file in itertools.chain.from_iterable(self.found.splits[split] for split in splits)
            if (names := _class_names(opened(file).schema_arrow, column)) is not None
        }
        for file, names in named.items():
            first = next(iter(named))
            if names != named[first]:
                told = f"{self.place} names its classes differently in {first.name} and {file.name}"
                raise ConfigError.of("data.label_column", column, told)


def opened(file: Path) -> Any:
    """Open a parquet file.

    Raises:
        ConfigError: it is none; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        with file.open("rb") as stream:
            pointer = stream.read(len(LFS)) == LFS
        why = "it is a pointer of Git LFS: fetch it with git lfs pull" if pointer else one_line(error)
        raise ConfigError(f"{file}: is no parquet file, {why}") from error


def _named(file: Path, column: str) -> Iterator[Path]:
    """Return the files of images that exist and that a table names without holding them."""
    table = opened(file)
    if column not in table.schema_arrow.names or _holds_all(table, column):
        return
    for batch in table.iter_batches(BATCH_ROWS, columns=[column]):
        for cell in batch.column(column).to_pylist():
            named = file_of(cell, file.parent) if isinstance(cell, str) or _is_pair(cell) else None
            if named is not None and os.path.isfile(named):  # false, too, for a text that is no path
                yield named


def _is_pair(cell: Any) -> bool:
    return isinstance(cell, dict) and {"bytes", "path"} <= cell.keys()


def _holds_all(table: Any, column: str) -> bool:
    """True where the statistics of a file say that each image is in it; without statistics it may hold paths."""
    names = (column, f"{column}.bytes")
    for group in range(table.metadata.num_row_groups):
        chunks = [table.metadata.row_group(group).column(number) for number in range(table.metadata.num_columns)]
        held = [chunk for chunk in chunks if chunk.path_in_schema in names]
        if not held or any(not chunk.is_stats_set or chunk.statistics.null_count for chunk in held):
            return False
    return not str(table.schema_arrow.field(column).type).endswith("string")


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _class_names(schema: Any, column: str) -> list[str] | None:
    """Return the names that the metadata of the hub's own writer give to the numbers of a column."""
    try:
        written = json.loads((schema.metadata or {})[b"huggingface"])
        names = written["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) else None
