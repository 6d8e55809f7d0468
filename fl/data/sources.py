"""Sources of images: folders of parquet or IDX files, scikit-learn, Debian, and the hub at last.

A source finds one data set and reads it once, as plain arrays; `fl/data/image_data.py` keeps them. The
libraries that read the files are slow to import, so they are imported where they are used.
"""

import os
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from fl.data.decoding import DecodingRequest, RawImages
from fl.data.hub import DATA_VARIABLE, Hub, not_found
from fl.data.idx import IdxFolder
from fl.data.layout import choose, visible
from fl.data.parquet import ParquetFolder
from privacy.errors import ConfigError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # folder of the package dataset-fashion-mnist

PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
ENDINGS = 3  # kinds of files that a message lists


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
        if request.config is not None:
            raise ConfigError.of("data.config", request.config, "the embedded digits are one set: leave it out")
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
    raise ConfigError.of("data.path", path, f"holds {_instead(folder)}; expected are files like {expected}")


def _instead(folder: Path) -> str:
    """Return what a folder holds in place of a data set, by the endings of its files."""
    endings = Counter(file.suffix.lower() or "no ending" for file in visible(folder))
    if not endings:
        return "no files"
    told = ", ".join(f"{count} with {ending}" for ending, count in endings.most_common(ENDINGS))
    if endings.keys() & PICTURES:
        return f"files of single images ({told}), which are not read: write them into a parquet file, or their paths"
    return f"files of other kinds ({told})"


def _open(folder: Path, request: DecodingRequest) -> Source | None:
    found = choose(folder, request)
    if found is None:
        return None
    place = str(folder) if request.config is None else f"{folder}, configuration {found.name}"
    return (ParquetFolder if found.kind == "parquet" else IdxFolder)(place, found, request)


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
