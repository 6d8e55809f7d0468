"""The plain twins of a sweep's cells: overheads are told against them, so those that the grid lacks are run before it.

A twin has the cell's configuration, less all that only protection reads: the same seed, partition, initial weights and
cohorts. It is what `results.comparison` looks for.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config import FedveilConfig, to_json
from results.runs import PLAIN_SUM, PROTECTION, is_plain

Configuration = Mapping[str, Any]  # resolved, unhashed keys included


def missing(cells: Iterable[Configuration]) -> list[DictConfig]:
    """The twins that are none of the cells, each once, in the order of the cells that want them."""
    wanted, there = dict[str, DictConfig](), set[str]()
    for cell in cells:
        twin = twin_of(cell)
        identity = to_json(twin)  # a plain cell is its own twin, whatever it says of noise that it does not draw
        if is_plain(cell):
            there.add(identity)
        else:
            wanted.setdefault(identity, twin)
    return [twin for identity, twin in wanted.items() if identity not in there]


def twin_of(cell: Configuration) -> DictConfig:
    """A cell without protection."""
    defaults = OmegaConf.to_container(OmegaConf.structured(FedveilConfig))
    assert isinstance(defaults, dict)
    plain = {**{key: defaults[key] for key in PROTECTION}, "secure_sum": {"_target_": PLAIN_SUM}, "mechanism": {}}
    return _typed({**cell, **plain})


def _typed(cell: Configuration) -> DictConfig:
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), dict(cell)))


def planned(lines: Iterable[str]) -> Iterator[Configuration]:
    """The cells that `as_line` wrote."""
    return map(json.loads, lines)


def as_line(config: DictConfig) -> str:
    """A cell's configuration, for `planned`."""
    return json.dumps(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
