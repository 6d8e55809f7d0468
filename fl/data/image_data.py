"""Image sets in memory: found once, decoded once, kept on disk, and shared by all processes of a machine.

Features of images are computed once and kept in the same way.

Shape suffixes: N examples, C channels, H height, W width.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from fl.config.schema import DataConfig
from fl.data import features
from fl.data.arrange import Arrays, Kept, arrange
from fl.data.decoding import DecodingRequest
from fl.data.hub import DATA_VARIABLE
from fl.data.images import one_line
from fl.data.sources import find
from privacy.errors import ConfigError
from privacy.randomness import seed_from

CACHE_VARIABLE = "FEDVEIL_CACHE"
CACHE_FORMAT = 4  # version of the cache's content; increase it with every change of the content


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in a fixed order: `images` (N, C, H, W) on the CPU, `labels` int64 (N,) in 0..classes-1.

    Images are uint8, or float16 where they are features of images.
    """

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class Tests:
    """The test examples, divided: those that are scored, and public ones, which no figure of a table is about."""

    scored: Split
    public: Split | None


def divided(test: Split, public_share: float, seed: int) -> Tests:
    """Divide the test examples; which are public follows from the seed.

    Raises:
        ConfigError: one part would be empty.
    """
    count = round(public_share * len(test.labels))
    if not public_share:
        return Tests(test, None)
    if not 0 < count < len(test.labels):
        allowed = f"leaves one part of {len(test.labels)} test examples empty"
        raise ConfigError.of("data.public_share", public_share, allowed)
    order = torch.from_numpy(np.random.default_rng(seed_from(seed, "public examples")).permutation(len(test.labels)))
    public, scored = order[:count].sort().values, order[count:].sort().values
    return Tests(Split(test.images[scored], test.labels[scored]), Split(test.images[public], test.labels[public]))


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image set; equal only to itself, so that it can key a cache.

    Attributes:
        pixel_max: value of a white pixel, 255, or 16 for digits; 1 for features.
        mean_C: per channel over the training pixels, which are scaled to [0, 1]; 0 for features, as a constant.
        std_C: likewise; 1 for a channel that is constant, and for features.
        natural_ids: owner (N,) of each training example, in 0..owners-1, where the set names owners.
        origin: the place it was read from, in one line, with its differences from the original set.
        fingerprint: as JSON values, shape, examples and labels of both splits, and a SHA-256 of all images and labels:
            it is the same wherever the same data are read. Features have that of their images.
    """

    name: str
    train: Split
    test: Split
    classes: int
    pixel_max: int
    mean_C: torch.Tensor
    std_C: torch.Tensor
    natural_ids: NDArray[np.int64] | None
    origin: str
    fingerprint: dict[str, Any] = field(default_factory=dict)
    _affine: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Map pixels uint8 (N, C, H, W) to float32 of mean 0 and deviation 1 over the training set, on their device.

        Features float16 become float32 with the same values: they contain no statistic of the training set.
        """
        if images.device not in self._affine:
            scale_C = 1 / (self.pixel_max * self.std_C)
            shift_C = -self.mean_C / self.std_C
            self._affine[images.device] = (_per_channel(scale_C, images.device), _per_channel(shift_C, images.device))
        scale_C11, shift_C11 = self._affine[images.device]
        return torch.addcmul(shift_C11, images.to(torch.float32), scale_C11)

    def random_examples(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random inputs (N, C, H, W), normalised, and labels (N,), on the CPU; they hold nothing of the set."""
        random = self.random_split(count)
        return self.normalise(random.images), random.labels

    def random_split(self, count: int) -> Split:
        """Return random examples in the form of the set's own, which hold nothing of it.

        The first examples are the same for any count, dark and bright ones in turn.
        """
        generator = np.random.default_rng(0)
        rows = [generator.random(self.shape, np.float32) ** (0.3, 3.0)[number % 2] for number in range(count)]
        pixels = torch.from_numpy(np.stack(rows)) * self.pixel_max
        return Split(pixels.to(self.train.images.dtype), torch.arange(count) % self.classes)


def _per_channel(values_C: torch.Tensor, device: torch.device) -> torch.Tensor:
    return values_C.to(device, torch.float32).reshape(-1, 1, 1)


def load_data(config: DataConfig) -> ImageData:
    """Return the image set that the node `data` names, decoded at most once a machine and opened once a process.

    Sources in order: `data.path`, `$FEDVEIL_DATA/<name>`, installed packages, the Hugging Face hub. With
    `data.features=scattering`, features replace the images; they are computed at most once a machine.

    Raises:
        ConfigError: no source has the set (one line: the places searched, the ways to get it); a path, split or
            column is missing (its key is named); or the images cannot be read, differ in size or are too small for
            the features.
    """
    root = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/fedveil").expanduser()
    data = _load(DecodingRequest.of(config), os.environ.get(DATA_VARIABLE), root)
    return data if config.features == "none" else _scattered(data, root)


@lru_cache(maxsize=8)
def _load(request: DecodingRequest, _data_variable: str | None, root: Path) -> ImageData:
    source = find(request)
    entry = _entry(root, request.name, [CACHE_FORMAT, request.name, request.unseen_labels, source.identity()])
    return _image_data(*_kept(entry, lambda: arrange(source, request)))


@lru_cache(maxsize=8)
def _scattered(data: ImageData, root: Path) -> ImageData:
    """Return the set with features in place of images, and with constants as statistics."""
    features_C = features.shape_of(data.name, data.shape)[0]
    arrays = _features(data, root)
    return replace(
        data,
        train=Split(torch.from_numpy(arrays["train"]), data.train.labels),
        test=Split(torch.from_numpy(arrays["test"]), data.test.labels),
        pixel_max=1,
        mean_C=torch.zeros(features_C),
        std_C=torch.ones(features_C),
        origin=f"{data.origin}; scattering features",
    )


def _features(data: ImageData, root: Path) -> Arrays:
    """Return the scattering features of both splits, kept under a key made from their pixels."""
    pixels = {"train": data.train.images.contiguous(), "test": data.test.images.contiguous()}
    digests = [hashlib.sha256(images.numpy().data).hexdigest() for images in pixels.values()]
    entry = _entry(root, f"{data.name}_features", [CACHE_FORMAT, features.identity(), data.pixel_max, *digests])

    def compute() -> Kept:
        return {}, {split: features.scatter(data.name, images, data.pixel_max) for split, images in pixels.items()}

    return _kept(entry, compute)[1]


def _entry(root: Path, name: str, key: list[Any]) -> Path:
    slug = re.sub(r"[^A-Za-z0-9.]+", "_", name)
    return root / f"{slug}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"


def _kept(entry: Path, make: Callable[[], Kept]) -> Kept:
    """Return the content of an entry of the cache; make the entry first where it is missing or damaged."""
    if found := _open(entry):
        return found
    with _one_at_a_time(entry):
        if found := _open(entry):  # another process made the entry while this one waited
            return found
        facts, arrays = make()
        try:
            _store(entry, facts, arrays)
        except OSError as error:
            warnings.warn(f"{entry.name} is not kept, {one_line(error)}: set {CACHE_VARIABLE}", stacklevel=2)
        return _open(entry) or (facts, arrays)


def _one_at_a_time(entry: Path) -> contextlib.AbstractContextManager[Any]:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{entry}.lock").acquire()
    except OSError:  # a folder that cannot be written needs no lock
        return contextlib.nullcontext()


def _image_data(facts: dict[str, Any], arrays: Arrays) -> ImageData:
    splits = {
        split: Split(_tensor(arrays[f"{split}_images"]), _tensor(arrays[f"{split}_labels"]))
        for split in ("train", "test")
    }
    statistics = {key: torch.tensor(facts[key], dtype=torch.float32) for key in ("mean_C", "std_C")}
    return ImageData(**(facts | statistics | splits), natural_ids=arrays.get("natural_ids"))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Convert without a copy. Read-only arrays are copied, as torch warns of them: IDX images that no cache keeps."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _store(entry: Path, facts: dict[str, Any], arrays: Arrays) -> None:
    """Write an entry under a temporary name, then rename it in one step; the lock keeps other processes out."""
    temporary = entry.with_name(f"{entry.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir()
    sha256 = {}
    for name, array in arrays.items():
        np.save(temporary / f"{name}.npy", array)
        sha256[name] = _sha256(temporary / f"{name}.npy")
    index = json.dumps({"facts": facts, "sha256": sha256})
    (temporary / "index.json").write_text(f"{hashlib.sha256(index.encode()).hexdigest()}\n{index}")
    shutil.rmtree(entry, ignore_errors=True)  # if it was damaged
    temporary.rename(entry)


def _open(entry: Path) -> Kept | None:
    """Return what `_store` wrote; None if it is missing or has changed."""
    try:
        digest, _, body = (entry / "index.json").read_text().partition("\n")
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            return None
        index = json.loads(body)
        if any(_sha256(entry / f"{name}.npy") != expected for name, expected in index["sha256"].items()):
            return None
        # Copy on write: torch requires writable arrays, and processes share the pages that none of them writes.
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in index["sha256"]}
    except (OSError, ValueError):
        return None
    return index["facts"], arrays


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:  # read, not mapped: mapped pages would count as memory of this process
        return hashlib.file_digest(stream, "sha256").hexdigest()
