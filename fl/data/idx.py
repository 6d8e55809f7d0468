"""A data set in IDX files, the format of the MNIST site."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from fl.data.decoding import DecodingRequest, RawImages, stamps
from fl.data.layout import IDX_NAME, Found, listed
from privacy.errors import ConfigError

GZIP = ".gz"


@dataclass(frozen=True)
class IdxFolder:
    """A folder in the format of the MNIST site (LeCun et al. 1998), with gzipped or plain files."""

    place: str
    found: Found
    request: DecodingRequest
    pixel_max: ClassVar[int] = 255

    def identity(self) -> list[Any]:
        """Return the cache key, made from the files with their sizes and times."""
        files = [file for split in self.found.splits.values() for file in split]
        return ["idx", *self.request.reading(), *stamps(files)]

    def read(self) -> tuple[RawImages, RawImages | None]:
        """Read both splits; see `Source.read`."""
        self._require_usual_keys()
        return self._split("train"), (self._split("test") if "test" in self.found.splits else None)

    def _require_usual_keys(self) -> None:
        request = self.request
        if request.natural_column is not None:
            told = f"{self.place} has IDX files, without owners"
            raise ConfigError.of("data.natural_column", request.natural_column, told)
        for key, usual in (("train_split", DataConfig.train_split), ("test_split", DataConfig.test_split)):
            if getattr(request, key) != usual:
                told = f"{self.place} has IDX files, with the splits train and test in their places"
                raise ConfigError.of(f"data.{key}", getattr(request, key), told)

    def _split(self, split: str) -> RawImages:
        files = self.found.splits.get(split, [])
        images_NHW = self._values(split, "images", files)
        labels_N = self._values(split, "labels", files)
        if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
            shapes = f"{images_NHW.shape}, its labels {labels_N.shape}"
            raise ConfigError(f"{self.place}: images of the split {split} have the shape {shapes}")
        return RawImages(images_NHW[:, None], labels_N)

    def _values(self, split: str, role: str, files: Sequence[Path]) -> NDArray[np.uint8]:
        """Return the images or the labels of a split; a file may lie there twice, gzipped and plain.

        Raises:
            ConfigError: there is no such file, or there are several that differ.
        """
        mine = [file for file in files if (match := IDX_NAME.fullmatch(file.name)) and match["role"] == role]
        if not mine:
            has = listed(files) or "none"
            raise ConfigError(f"{self.place}: needs images and labels of the split {split}, has {has}")
        if len({file.parent / file.name.removesuffix(GZIP) for file in mine}) > 1:
            raise ConfigError(f"{self.place}: several files with {role} of the split {split}, {listed(mine)}; keep one")
        values = read_idx(mine[0])
        if any(not np.array_equal(read_idx(other), values) for other in mine[1:]):
            raise ConfigError(f"{self.place}: {listed(mine)} differ; keep one")
        return values


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
