"""Decoding of columns of images to arrays of bytes, showing progress.

Shape suffixes: N examples, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from fl.data.images import pixels_of
from privacy.errors import ConfigError
from results.progress import SELDOM_S, progress

BATCH_ROWS = 1000
NO_DEEP = -1  # no image has 16 bits
LEAST_DEEP = 17  # of 255: 12 bits in a file of 16 would leave the 17 levels from 0 to 16
LARGEST = 2**63 - 1  # of the labels and owners that are kept as int64


@dataclass(frozen=True)
class DecodingRequest:
    """The keys of `data` that select the images; the keys of the partition are left out."""

    name: str
    path: str | None
    hub: str | None
    image_column: str
    label_column: str
    train_split: str
    test_split: str
    natural_column: str | None
    config: str | None
    unseen_labels: str

    @classmethod
    def of(cls, config: DataConfig) -> "DecodingRequest":
        """Read the keys from the node `data` of a configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def reading(self) -> list[str | None]:
        """Return the names of the configuration, the splits and the columns that are read from a table."""
        columns = [self.image_column, self.label_column, self.natural_column]
        return [self.config, self.train_split, self.test_split, *columns]


@dataclass(frozen=True)
class RawImages:
    """One split as read: labels and owners are integers or strings, in any range."""

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[Any]
    owners_N: NDArray[Any] | None = None
    jpeg: bool = False


@dataclass(frozen=True)
class Table:
    """One split as a table.

    Attributes:
        place: its source, in messages.
        split: its name, in messages.
        names: of its columns.
        owned: true where owners are to be read.
        folder: the place from which paths of images start; None where there is none.
    """

    place: str
    split: str
    names: Sequence[str]
    owned: bool
    folder: Path | None = None


def stamps(files: Iterable[Path]) -> list[Any]:
    """Return the paths, sizes and times of files, which change when the files do."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def missing(key: str, value: str, place: str, kind: str, names: Iterable[str]) -> ConfigError:
    """Return the error for a split or a column that a place does not have."""
    return ConfigError.of(f"data.{key}", value, f"{place} has the {kind} {', '.join(names)}")


def choose_splits(request: DecodingRequest, splits: Iterable[str], place: str) -> tuple[str, str | None]:
    """Return the names of the training and of the test split; a set of a single split has no test split.

    Raises:
        ConfigError: a split is missing, and the message names its key and the splits that exist; or both are the same.
    """
    names = list(splits)
    if request.train_split not in names:
        raise missing("train_split", request.train_split, place, "splits", names)
    if request.test_split in names and request.test_split != request.train_split:
        return request.train_split, request.test_split
    if len(names) == 1 and request.test_split in (DataConfig.test_split, request.train_split):
        return request.train_split, None
    if request.test_split == request.train_split:
        allowed = f"must be another split than data.train_split; {place} has the splits {', '.join(names)}"
        raise ConfigError.of("data.test_split", request.test_split, allowed)
    raise missing("test_split", request.test_split, place, "splits", names)


def decode_table(
    request: DecodingRequest, table: Table, batches: Callable[[list[str]], Iterable[Any]], rows: int
) -> RawImages:
    """Decode a split from batches of an Arrow table.

    Args:
        request: names the columns.
        table: describes the split.
        batches: returns the batches of the columns in its argument, with `rows` rows in all.
        rows: length N of the result.

    Raises:
        ConfigError: a column is missing or holds another type (its key is named), an image cannot be decoded (its row
            is named), or the images differ in size or channels.
    """
    columns = _columns(request, table)
    read: dict[str, list[NDArray[Any]]] = {key: [] for key in columns if key != "image_column"}

    def cells() -> Iterator[Any]:
        for batch in batches(list(columns.values())):
            for key, before in read.items():
                before.append(_values(batch.column(columns[key]), request, key, table, sum(map(len, before))))
            images = batch.column(columns["image_column"])
            _require_images(images.type, request, table.place)
            yield from images.to_pylist()

    images_NCHW, jpeg = _decode_images(cells(), rows, request, table)
    values = {key: np.concatenate(parts) for key, parts in read.items()}
    return RawImages(images_NCHW, values["label_column"], values.get("natural_column"), jpeg)


def _columns(request: DecodingRequest, table: Table) -> dict[str, str]:
    wanted = {"image_column": request.image_column, "label_column": request.label_column}
    if table.owned and request.natural_column is not None:
        wanted["natural_column"] = request.natural_column
    for key, column in wanted.items():
        if column not in table.names:
            raise missing(key, column, table.place, "columns", table.names)
    return wanted


def _require_images(kind: Any, request: DecodingRequest, place: str) -> None:
    """Refuse a column of another type than bytes, paths, or the hub's pairs of both."""
    fields = {field.name for field in kind} if str(kind).startswith("struct") else set()
    if {"bytes", "path"} <= fields or str(kind) in ("binary", "large_binary", "string", "large_string"):
        return
    told = f"{place} has {kind} there, no encoded images and no paths of files"
    raise ConfigError.of("data.image_column", request.image_column, told)


def _values(column: Any, request: DecodingRequest, key: str, table: Table, start: int) -> NDArray[Any]:
    """Return a batch's integers as int64, or its strings as strings; its first row is number `start` of the split."""
    cells = column.to_pylist()
    name = getattr(request, key)
    for row, cell in enumerate(cells, start):
        if cell is None:
            told = f"{table.place} has no value in row {row} of {table.split}: leave the row out, or fill it in"
            raise ConfigError.of(f"data.{key}", name, told)
        if not isinstance(cell, int | str):  # a truth value is an integer
            kind = f"{table.place} has {column.type} there, not integers or strings"
            raise ConfigError.of(f"data.{key}", name, f"{kind}: write one of either for each example")
        if isinstance(cell, int) and cell > LARGEST:
            told = f"{table.place} has {cell} in row {row} of {table.split}, above 2^63 - 1"
            raise ConfigError.of(f"data.{key}", name, f"{told}: write such numbers as strings")
    values = np.asarray(cells)
    return values if values.dtype.kind == "U" else values.astype(np.int64)


def _decode_images(
    cells: Iterator[Any], rows: int, request: DecodingRequest, table: Table
) -> tuple[NDArray[np.uint8], bool]:
    images_NHWC: NDArray[np.uint8] | None = None
    jpeg = False
    deepest = NO_DEEP
    with progress(f"decoding {request.name}, image", rows, every_s=SELDOM_S, passing=True) as images:
        for row, cell in enumerate(cells):
            try:
                pixels_HWC, encoding, is_deep = pixels_of(cell, table.folder)
            except ConfigError as error:
                raise ConfigError(f"{table.place}: the image in row {row} of {table.split} {error}") from error
            jpeg = jpeg or encoding == "JPEG"
            deepest = max(deepest, int(pixels_HWC.max(initial=0))) if is_deep else deepest
            if images_NHWC is None:
                images_NHWC = np.empty((rows, *pixels_HWC.shape), np.uint8)
            if pixels_HWC.shape != images_NHWC.shape[1:]:
                difference = _difference(images_NHWC.shape[1:], pixels_HWC.shape, row)
                raise ConfigError(f"{table.place}: images of {table.split} differ in {difference}")
            images_NHWC[row] = pixels_HWC
            images.advance()
    if images_NHWC is None:
        key = "train_split" if table.split == request.train_split else "test_split"
        raise ConfigError.of(f"data.{key}", table.split, f"{table.place} has no examples there: choose another split")
    if NO_DEEP < deepest < LEAST_DEEP:
        allowed = (
            f"images of {table.split} have 16 bits, and use less than a sixteenth of their range: scale them to it"
        )
        raise ConfigError(f"{table.place}: {allowed}, or to 8 bits")
    return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)), jpeg


def _difference(first_HWC: tuple[int, ...], other_HWC: tuple[int, ...], row: int) -> str:
    if first_HWC[:2] == other_HWC[:2]:
        kinds = ["grey" if shape[2] == 1 else "colour" for shape in (first_HWC, other_HWC)]
        return f"channels, {kinds[0]} in row 0 and {kinds[1]} in row {row}: make all grey or all colour"
    sizes = ["x".join(map(str, shape)) for shape in (first_HWC, other_HWC)]
    return f"size, {sizes[0]} in row 0 and {sizes[1]} in row {row}: resize them"
