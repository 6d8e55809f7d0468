"""Sources of images: folders of parquet or IDX files, scikit-learn, Debian, and the hub at last.

A source finds one data set and reads it once, as plain arrays; `fl/data/image_data.py` keeps them. The
libraries that read the files are slow to import, so they are imported where they are used.
"""

import gzip
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fl.data.decoding import BATCH_ROWS, DecodingRequest, RawImages, choose_splits, decode_table
from fl.data.hub import DATA_VARIABLE, Hub, not_found
from privacy.errors import ConfigError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # folder of the package dataset-fashion-mnist

IDX_NAME = re.compile(r"(train|t10k|test)[-._](images|labels)[-._]idx\d[-._]ubyte(\.gz)?")
PARQUET_NAME = re.compile(r"(.+?)(-\d{5}-of-\d{5})?(-[0-9a-f]{16})?\.parquet")  # as the hub's own writer names them


class Source(Protocol):
    """One place that holds one data set."""

    pixel_max: ClassVar[int]

    @property
    def place(self) -> str:
        """The name of the place in messages."""

    def identity(self) -> list[Any]:
        """Return the cache key of these images, as JSON values: it changes when the images may have changed."""

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Read the training split, and the test split where there is one.

        Raises:
            ConfigError: a split or a column is missing, or the images differ in size.
        """


def find(request: DecodingRequest) -> Source:
    """Return the first source that has the set: data.path, $FEDVEIL_DATA, installed packages, then the hub.

    Raises:
        ConfigError: data.path holds no such files, or only the hub is left and data.hub is not set.
    """
    if request.path is not None:
        return _given(request.path, request)
    for folder in _known_folders(request.name):
        if source := _open(folder, request):
            return source
    if request.name == "digits":
        return Digits()
    looked = ["data.path (not set)"] + ([] if os.environ.get(DATA_VARIABLE) else [f"{DATA_VARIABLE} (not set)"])
    looked += [f"{folder} (no parquet or IDX files)" for folder in _known_folders(request.name)]
    if request.hub is None:
        raise not_found(request, [*looked, "data.hub (not set)"])
    return Hub(request, looked)


def _known_folders(name: str) -> list[Path]:
    root = os.environ.get(DATA_VARIABLE)
    folders = [Path(root).expanduser() / name] if root else []
    return folders + ([DEBIAN_FASHION_MNIST] if name == "fashion_mnist" else [])


def _given(path: str, request: DecodingRequest) -> Source:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError.of("data.path", path, "there is no such folder")
    if source := _open(folder, request):
        return source
    expected = "train.parquet (or the hub's train-00000-of-00001.parquet) or train-images-idx3-ubyte[.gz]"
    raise ConfigError.of("data.path", path, f"holds no images; expected are files like {expected}")


def _open(folder: Path, request: DecodingRequest) -> Source | None:
    # Three levels hold the layouts of the hub (data/train-*.parquet) and of torchvision (MNIST/raw/...).
    files = sorted(itertools.chain.from_iterable(folder.glob(f"{above}*") for above in ("", "*/", "*/*/")))
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        return ParquetFolder(str(folder), _by_split(parquet), request)
    if idx := [file for file in files if IDX_NAME.fullmatch(file.name)]:
        return IdxFolder(str(folder), idx, request)
    return None


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in files:
        match = PARQUET_NAME.fullmatch(file.name)
        split = match[1] if match else file.stem
        # The hub's automatic conversion writes train/0000.parquet.
        splits.setdefault(file.parent.name if split.isdigit() else split, []).append(file)
    return splits


def _stat(files: Iterable[Path]) -> list[Any]:
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@dataclass(frozen=True)
class Digits:
    """The 1,797 digits of 8x8 pixels with values 0..16 that scikit-learn ships (UCI, Alpaydin and Kaynak 1998)."""

    place: str = "scikit-learn's load_digits (fixed stratified 80/20 split)"
    pixel_max: ClassVar[int] = 16

    def identity(self) -> list[Any]:
        """Return the cache key, made from the release of scikit-learn that ships the digits."""
        return ["digits", version("scikit-learn")]

    def read(self) -> tuple[RawImages, RawImages]:
        """Read both splits. The split is fixed: the seed of a run moves no example between training and test."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)
        train, test, train_y, test_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
        return RawImages(train, train_y), RawImages(test, test_y)


@dataclass(frozen=True)
class IdxFolder:
    """A folder in the format of the MNIST site (LeCun et al. 1998), with gzipped or plain files."""

    place: str
    files: list[Path]
    request: DecodingRequest
    pixel_max: ClassVar[int] = 255

    def identity(self) -> list[Any]:
        """Return the cache key, made from the files with their sizes and times."""
        return ["idx", self.request.natural_column, *_stat(self.files)]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Read both splits; see `Source.read`."""
        if self.request.natural_column is not None:
            raise ConfigError.of(
                "data.natural_column", self.request.natural_column, f"{self.place} has IDX files, without owners"
            )
        return self._split("train"), (self._split("test") if self._file("test", "images") else None)

    def _split(self, split: str) -> RawImages:
        images, labels = (self._file(split, role) for role in ("images", "labels"))
        if images is None or labels is None:
            names = ", ".join(file.name for file in self.files)
            raise ConfigError(f"{self.place}: needs images and labels of the split {split}, has {names}")
        images_NHW = read_idx(images)
        labels_N = read_idx(labels)
        if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
            raise ConfigError(f"{images}: has the shape {images_NHW.shape}, its labels {labels_N.shape}")
        return RawImages(images_NHW[:, None], labels_N)

    def _file(self, split: str, role: str) -> Path | None:
        """Return the first file with images or labels of a split; the MNIST site calls its test split t10k."""
        names = ("train",) if split == "train" else ("t10k", "test")
        matches = ((IDX_NAME.fullmatch(file.name), file) for file in self.files)
        return next((file for match, file in matches if match and match[1] in names and match[2] == role), None)


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: two zeros, the type 8, the number of axes, big-endian sizes, then the values.

    Raises:
        ConfigError: the file has another format or type, or is cut short.
    """
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if data[:3] != b"\0\0\x08":
        raise ConfigError(f"{file}: is not an IDX file of bytes")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != shape.prod():
        raise ConfigError(f"{file}: holds {values.size} values where its header says {shape.prod()}")
    return values.reshape(shape)


@dataclass(frozen=True)
class ParquetFolder:
    """A folder of parquet files in the layout of the Hugging Face hub: file names begin with their split."""

    place: str
    files: dict[str, list[Path]]
    request: DecodingRequest
    pixel_max: ClassVar[int] = 255

    def identity(self) -> list[Any]:
        """Return the cache key, made from the files with sizes and times, and the splits and columns to read."""
        return ["parquet", *self.request.reading(), *_stat(itertools.chain(*self.files.values()))]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Decode both splits; see `Source.read`."""
        train, test = choose_splits(self.request, self.files, self.place)
        return self._decode(train, True), (self._decode(test, False) if test else None)

    def _decode(self, split: str, owned: bool) -> RawImages:
        import pyarrow.parquet as pq

        tables = [pq.ParquetFile(file) for file in self.files[split]]

        def batches(columns: list[str]) -> Iterable[Any]:
            return (batch for table in tables for batch in table.iter_batches(BATCH_ROWS, columns=columns))

        rows = sum(table.metadata.num_rows for table in tables)
        names = tables[0].schema_arrow.names
        return decode_table(self.request, batches, rows, place=self.place, names=names, owned=owned)
