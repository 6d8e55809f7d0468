"""Decoding of columns of encoded images to arrays of bytes, with a progress bar on a terminal.

Shape suffixes: N examples, C channels, H height, W width.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from privacy.errors import ConfigError

BATCH_ROWS = 1000
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")


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
    request: DecodingRequest, batches: Callable[[list[str]], Iterable[Any]], rows: int, **table: Any
) -> RawImages:
    """Decode a split from batches of an Arrow table.

    Args:
        request: names the columns.
        batches: returns the batches of the columns in its argument, with `rows` rows in all.
        rows: length N of the result.
        **table: `place`, `names` of the table's columns, and `owned`, true where owners are to be read.

    Raises:
        ConfigError: a column is missing or holds another type (its key is named), or the images differ in size.
    """
    columns = _columns(request, **table)
    place = table["place"]
    labels: list[NDArray[Any]] = []
    owners: list[NDArray[Any]] = []

    def cells() -> Iterator[Any]:
        for batch in batches(list(columns.values())):
            labels.append(_values(batch.column(columns["label_column"]), request, "label_column", place))
            if "natural_column" in columns:
                owners.append(_values(batch.column(columns["natural_column"]), request, "natural_column", place))
            yield from batch.column(columns["image_column"]).to_pylist()

    images_NCHW, jpeg = _decode_images(cells(), rows, request, place)
    return RawImages(images_NCHW, np.concatenate(labels), np.concatenate(owners) if owners else None, jpeg)


def _columns(request: DecodingRequest, place: str, names: list[str], owned: bool) -> dict[str, str]:
    wanted = {"image_column": request.image_column, "label_column": request.label_column}
    if owned and request.natural_column is not None:
        wanted["natural_column"] = request.natural_column
    for key, column in wanted.items():
        if column not in names:
            raise missing(key, column, place, "columns", names)
    return wanted


def _values(column: Any, request: DecodingRequest, key: str, place: str) -> NDArray[Any]:
    """Return a column's integers as int64, or its strings as strings."""
    values = np.asarray(column.to_pylist())
    if column.null_count or values.ndim != 1 or values.dtype.kind not in "biuU":
        raise ConfigError.of(
            f"data.{key}", getattr(request, key), f"{place} has {column.type} there, not integers or strings"
        )
    return values if values.dtype.kind == "U" else values.astype(np.int64)


def _decode_images(
    cells: Iterator[Any], rows: int, request: DecodingRequest, place: str
) -> tuple[NDArray[np.uint8], bool]:
    images_NHWC: NDArray[np.uint8] | None = None
    jpeg = False
    with progress(rows, f"decoding {request.name}") as advance:
        for row, cell in enumerate(cells):
            pixels_HWC, encoding = _decode(cell, request, place)
            jpeg = jpeg or encoding == "JPEG"
            if images_NHWC is None:
                images_NHWC = np.empty((rows, *pixels_HWC.shape), np.uint8)
            if pixels_HWC.shape != images_NHWC.shape[1:]:
                sizes = f"{_size(images_NHWC.shape[1:])} and {_size(pixels_HWC.shape)}"
                raise ConfigError(f"{place}: images differ in size, {sizes}; resize them")
            images_NHWC[row] = pixels_HWC
            advance()
    if images_NHWC is None:
        raise ConfigError(f"{place}: holds no examples")
    return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)), jpeg


def _decode(cell: Any, request: DecodingRequest, place: str) -> tuple[NDArray[np.uint8], str | None]:
    """Return one image as (H, W, C) and its encoding, from bytes or from the hub's {bytes, path}."""
    from PIL import Image

    if isinstance(cell, dict) and {"bytes", "path"} <= cell.keys():
        cell = cell["bytes"] or Path(cell["path"]).read_bytes()
    if not isinstance(cell, bytes):
        raise ConfigError.of("data.image_column", request.image_column, f"{place} has no encoded images there")
    with Image.open(io.BytesIO(cell)) as image:
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise ConfigError(f"{place}: needs images of 8 bits a channel, not of mode {image.mode}")
        mode = "L" if image.mode in GREY_MODES else "RGB"
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        return pixels.reshape(image.height, image.width, -1), image.format


def _size(shape_HWC: tuple[int, ...]) -> str:
    return "x".join(map(str, shape_HWC))


@contextlib.contextmanager
def progress(total: int, text: str) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error, where that is a terminal; elsewhere show nothing."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
