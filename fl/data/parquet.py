"""A data set in parquet files, in the layout of the Hugging Face hub."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fl.data.decoding import BATCH_ROWS, DecodingRequest, RawImages, choose_splits, decode_table, stamps
from fl.data.layout import Found
from privacy.errors import ConfigError


@dataclass(frozen=True)
class ParquetFolder:
    """A folder of parquet files in the layout of the Hugging Face hub: file names begin with their split."""

    place: str
    found: Found
    request: DecodingRequest
    pixel_max: ClassVar[int] = 255

    def identity(self) -> list[Any]:
        """Return the cache key, made from the files with sizes and times, and the splits and columns to read."""
        return ["parquet", *self.request.reading(), *stamps(itertools.chain(*self.found.splits.values()))]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Decode both splits; see `Source.read`."""
        train, test = choose_splits(self.request, self.found.splits, self.place)
        self._require_same_classes([split for split in (train, test) if split is not None])
        return self._decode(train, True), (self._decode(test, False) if test else None)

    def _decode(self, split: str, owned: bool) -> RawImages:
        import pyarrow.parquet as pq

        files = self.found.splits[split]
        tables = [pq.ParquetFile(file) for file in files]
        self._require_same_types(files, [table.schema_arrow for table in tables])

        def batches(columns: list[str]) -> Iterable[Any]:
            return (batch for table in tables for batch in table.iter_batches(BATCH_ROWS, columns=columns))

        rows = sum(table.metadata.num_rows for table in tables)
        names = tables[0].schema_arrow.names
        return decode_table(self.request, batches, rows, place=self.place, names=names, owned=owned)

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
        import pyarrow.parquet as pq

        column = self.request.label_column
        named = {
            file: names
            for file in itertools.chain.from_iterable(self.found.splits[split] for split in splits)
            if (names := _class_names(pq.read_schema(file), column)) is not None
        }
        for file, names in named.items():
            first = next(iter(named))
            if names != named[first]:
                told = f"{self.place} names its classes differently in {first.name} and {file.name}"
                raise ConfigError.of("data.label_column", column, told)


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
