"""Which files of a folder are one data set: the layouts of the Hugging Face hub, of torchvision and of EMNIST.

A folder may hold several sets, or several configurations of one. A configuration is named by the folder of its files,
relative to the given one, and by what stands before the split in the names of IDX files: `.`, `cropped_digits`,
`MNIST`, `emnist-letters`.
"""

import filecmp
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fl.data.decoding import DecodingRequest, missing
from privacy.errors import ConfigError

IDX_NAME = re.compile(
    r"((?P<set>.+?)[-_])?(?P<split>train|t10k|test)[-._](?P<role>images|labels)[-._]idx\d[-._]ubyte(\.gz)?"
)
# as the hub's own writer names them; its automatic conversion writes train/0000.parquet
PARQUET_NAME = re.compile(r"(?P<split>.+?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(-[0-9a-f]{16})?\.parquet")
LEVELS = ("", "*/", "*/*/")  # data/train-*.parquet of the hub, MNIST/raw/... of torchvision
JUNK = "__MACOSX"  # resource forks, in archives that macOS packed
RAW = "raw"  # torchvision's folder for the files as published
IDX_SPLITS = {"train": "train", "t10k": "test", "test": "test"}  # the MNIST site calls its test split t10k
LISTED = 6  # files that a message lists

Kind = Literal["parquet", "IDX"]


@dataclass(frozen=True)
class Found:
    """One configuration: its name, its kind, and the files of each split."""

    name: str
    kind: Kind
    splits: Mapping[str, list[Path]]

    def __str__(self) -> str:
        """Return the name, with the names of the files."""
        return f"{self.name} ({listed(itertools.chain(*self.splits.values()))})"


def choose(folder: Path, request: DecodingRequest) -> Found | None:
    """Return the one configuration of a folder that the request means; None where the folder holds no files to read.

    Hidden files and folders are ignored.

    Raises:
        ConfigError: several configurations hold the splits that are asked for, `data.config` names none of them, or
            the files of a split are not one set of shards; the message lists them.
    """
    found = sorted([*_parquet(folder), *_idx(folder)], key=lambda one: one.name)
    if not found:
        return None
    wanted = {request.train_split, request.test_split}
    named = _named(folder, request, found)
    fitting = [one for one in named if one.kind == "IDX" or wanted & one.splits.keys()]
    if len(fitting) > 1:
        raise _several(folder, request, fitting)
    if not fitting and len(named) > 1:
        splits = dict.fromkeys(split for one in named for split in one.splits)
        raise missing("train_split", request.train_split, str(folder), "splits", splits)
    chosen = (fitting or named)[0]
    if chosen.kind == "parquet":
        for split in wanted & chosen.splits.keys():
            _require_whole(folder, split, chosen.splits[split])
    return chosen


def _several(folder: Path, request: DecodingRequest, fitting: Sequence[Found]) -> ConfigError:
    told = "; ".join(map(str, fitting))
    if len({one.name for one in fitting}) < len(fitting):  # no name tells them apart
        return ConfigError(f"{folder}: parquet and IDX files side by side, {told}; keep those of one kind")
    return ConfigError.of("data.config", request.config, f"{folder} holds several sets, choose one of {told}")


def listed(files: Iterable[Path]) -> str:
    """Return the names of files for a message, not too many of them."""
    names = [file.name for file in files]
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _named(folder: Path, request: DecodingRequest, found: Sequence[Found]) -> Sequence[Found]:
    if request.config is None:
        return found
    named = [one for one in found if one.name == request.config.strip("/")]
    if not named:
        there = ", ".join(dict.fromkeys(one.name for one in found))
        raise ConfigError.of("data.config", request.config, f"{folder} holds {there}")
    return named


def visible(folder: Path) -> Iterator[Path]:
    """Return the files that are not hidden, in the order of their paths."""
    for file in sorted(itertools.chain.from_iterable(folder.glob(f"{above}*") for above in LEVELS)):
        parts = file.relative_to(folder).parts
        if JUNK not in parts and not any(part.startswith(".") for part in parts) and not file.is_dir():
            yield file


def _parquet(folder: Path) -> Iterator[Found]:
    sets: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in visible(folder):
        match = PARQUET_NAME.fullmatch(file.name)
        if match is None:
            continue
        split = file.parent.name if match["split"].isdigit() else match["split"]
        above = file.parent.parent if file.parent.name == split and file.parent != folder else file.parent
        sets[above.relative_to(folder).as_posix()][split].append(file)
    return (Found(name, "parquet", dict(splits)) for name, splits in sets.items())


def _idx(folder: Path) -> Iterator[Found]:
    sets: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in visible(folder):
        match = IDX_NAME.fullmatch(file.name)
        if match is None:
            continue
        above = file.parent.parent if file.parent.name == RAW and file.parent != folder else file.parent
        name = (above.relative_to(folder) / (match["set"] or "")).as_posix()
        sets[name][IDX_SPLITS[match["split"]]].append(file)
    return (Found(name, "IDX", dict(splits)) for name, splits in sets.items())


def _require_whole(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Refuse files that are not all shards of a split, each once.

    Raises:
        ConfigError: shards are missing, there are several copies, or two shards are the same.
    """
    numbers, shards = _numbered(files)
    folders = {file.parent for file in files}
    if len(set(numbers)) < len(files) or len(folders) > 1:
        raise ConfigError(f"{folder}: several copies of the split {split}: {listed(files)}; keep one")
    absent = sorted(set(range(shards)) - set(numbers))
    if absent:
        told = ", ".join(map(str, absent[:LISTED]))
        raise ConfigError(f"{folder}: the split {split} lacks shard {told} of {shards} (from 0): {listed(files)}")
    for one, other in itertools.combinations(files, 2):
        if one.stat().st_size == other.stat().st_size and filecmp.cmp(one, other, shallow=False):
            raise ConfigError(f"{folder}: {one.name} and {other.name} of the split {split} hold the same; keep one")


def _numbered(files: Sequence[Path]) -> tuple[list[int], int]:
    """Return the numbers of shards, and how many there should be; no numbers where they are named in several ways."""
    matches = [match for match in (PARQUET_NAME.fullmatch(file.name) for file in files) if match]
    totals = {match["shards"] for match in matches}
    if all(match["split"].isdigit() for match in matches):
        numbers = [int(match["split"]) for match in matches]
        return numbers, 1 + max(numbers)
    if len(totals) == 1 and None not in totals:
        return [int(match["shard"]) for match in matches], int(totals.pop())
    return ([0], 1) if len(files) == 1 else ([], 0)
