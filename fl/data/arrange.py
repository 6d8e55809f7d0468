"""One image set as the arrays that are kept: read from its source, its labels numbered, its pixels summed up.

Shape suffixes: N examples, C channels, H height, W width.
"""

import hashlib
import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.data.decoding import DecodingRequest, RawImages
from fl.data.images import one_line
from fl.data.labels import Indexed, indexed
from fl.data.published import require_published
from fl.data.sources import Source
from privacy.errors import ConfigError

HELD_OUT = 0.1  # share of the examples that becomes the test split, where a set has none
LOSSLESS_ORIGINALS = ("mnist", "fashion_mnist", "cifar10", "femnist")  # published results used their exact pixels
STATISTICS_ROWS = 4096
TOLD_COPIES = 0.01  # share of the test images: a note tells of copies; Fashion-MNIST has a tenth of that

Arrays = dict[str, NDArray[Any]]
Kept = tuple[dict[str, Any], Arrays]  # a few facts, as JSON values, and a few arrays


def arrange(source: Source, request: DecodingRequest) -> Kept:
    """Read a source and convert it to the form that the cache keeps.

    Raises:
        ConfigError: the source cannot be read, its splits do not fit together, or it is another set than its name says.
    """
    train, test = _read(source, request)
    notes = [source.place]
    if test is None:
        train, test = _hold_out(train)
        if not len(test.labels_N):
            told = f"{source.place} has no label twice, so there is no example to hold out as a test"
            raise ConfigError.of("data.label_column", request.label_column, told)
        notes.append(f"no test split, so {HELD_OUT:.0%} of the examples were held out")
    _require_fit(source, train, test)
    copied = _copied(source, request, train, test, held_out=len(notes) > 1)
    labels = indexed(request, source.place, train.labels_N, test.labels_N)
    test = _take(test, np.flatnonzero(labels.kept_N))
    mean_C, std_C = _statistics(train.images_NCHW, source.pixel_max)
    facts = {"name": request.name, "pixel_max": source.pixel_max, "mean_C": mean_C, "std_C": std_C}
    facts["classes"] = len(labels.classes_K)
    facts["origin"] = "; ".join(filter(None, (*notes, copied, labels.note, _jpeg_note(request, train))))
    arrays = _arrays(train, test, labels)
    facts["fingerprint"] = _fingerprint(source, labels, arrays)
    require_published(request.name, " (".join(notes) + ")" * (len(notes) - 1), facts, arrays)
    return facts, arrays


def _read(source: Source, request: DecodingRequest) -> tuple[RawImages, RawImages | None]:
    try:
        return source.read()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError.of("data.name", request.name, f"{source.place} cannot be read, {one_line(error)}") from error


def _require_fit(source: Source, train: RawImages, test: RawImages) -> None:
    """Refuse splits without examples, or of other shapes."""
    shapes = train.images_NCHW.shape, test.images_NCHW.shape
    if not shapes[0][0] or not shapes[1][0] or shapes[0][1:] != shapes[1][1:]:
        raise ConfigError(f"{source.place}: training images have the shape {shapes[0]} and test images {shapes[1]}")


def _copied(source: Source, request: DecodingRequest, train: RawImages, test: RawImages, held_out: bool) -> str:
    """Return a note on test images that training holds, too; empty where they are few, as in published sets.

    Raises:
        ConfigError: all of them are, in whatever order, and they are a split of their own: it would test nothing.
    """
    trained = set(map(_hash, train.images_NCHW))
    copies = sum(_hash(image) in trained for image in test.images_NCHW)
    examples = len(test.images_NCHW)
    if copies == examples and not held_out:
        told = f"{source.place} has the same images in training and in the test split, all {copies} of it"
        raise ConfigError.of("data.test_split", request.test_split, f"{told}: give it another test split")
    return f"{copies} of {examples} test images are in training, too" if copies >= TOLD_COPIES * examples else ""


def _hash(image: NDArray[np.uint8]) -> int:
    return hash(image.tobytes())


def _jpeg_note(request: DecodingRequest, train: RawImages) -> str:
    if not train.jpeg:
        return ""
    return "JPEG re-encoding, not the original pixels" if request.name in LOSSLESS_ORIGINALS else "JPEG images"


def _hold_out(raw: RawImages) -> tuple[RawImages, RawImages]:
    """Split by examples in a fixed way: the seed of a run moves no example between training and test.

    Examples whose label no other example of the training split has stay in the training split.
    """
    rows = np.random.default_rng(0).permutation(len(raw.labels_N))
    cut = max(1, round(HELD_OUT * len(rows)))
    held = np.sort(rows[:cut])
    held = held[np.isin(raw.labels_N[held], raw.labels_N[rows[cut:]])]
    return _take(raw, np.setdiff1d(rows, held)), _take(raw, held)


def _take(raw: RawImages, rows: NDArray[np.int64]) -> RawImages:
    if len(rows) == len(raw.labels_N):
        return raw
    owners_N = None if raw.owners_N is None else raw.owners_N[rows]
    return RawImages(raw.images_NCHW[rows], raw.labels_N[rows], owners_N, raw.jpeg)


def _arrays(train: RawImages, test: RawImages, labels: Indexed) -> Arrays:
    arrays: Arrays = {"train_images": train.images_NCHW, "test_images": test.images_NCHW}
    arrays |= {"train_labels": labels.train_N, "test_labels": labels.test_N}
    if train.owners_N is not None:
        arrays["natural_ids"] = np.unique(train.owners_N, return_inverse=True)[1].astype(np.int64)
    return arrays


def _fingerprint(source: Source, labels: Indexed, arrays: Arrays) -> dict[str, Any]:
    """Return what tells this data from other data, as JSON values: a digest, and what people can compare."""
    told: dict[str, Any] = {"shape": list(arrays["train_images"].shape[1:])}
    names = [str(label) for label in labels.classes_K]
    for split in ("train", "test"):
        counts = np.bincount(arrays[f"{split}_labels"], minlength=len(names)).tolist()
        told[split] = {"examples": sum(counts), "labels": dict(zip(names, counts, strict=True))}
    digest = hashlib.sha256(json.dumps([told, source.pixel_max]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return {**told, "sha256": digest.hexdigest()}


def _statistics(images_NCHW: NDArray[np.uint8], pixel_max: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, from exact counts of each value."""
    counts_CV = np.zeros((images_NCHW.shape[1], 256), np.int64)
    for start in range(0, len(images_NCHW), STATISTICS_ROWS):  # bincount takes eight times the memory of its bytes
        for channel, counts_V in enumerate(counts_CV):
            counts_V += np.bincount(images_NCHW[start : start + STATISTICS_ROWS, channel].ravel(), minlength=256)
    values_V = np.arange(256) / pixel_max
    share_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = share_CV @ values_V
    std_C = np.sqrt((share_CV * (values_V - mean_C[:, None]) ** 2).sum(axis=1))
    return mean_C.tolist(), np.where(std_C > 0, std_C, 1.0).tolist()
