"""The plain twins of a sweep's cells: overheads are told against them, so those that are missing are run first.

A twin has the cell's configuration without protection: the same seed, partition, initial weights and cohorts. It is
what `results.comparison` looks for. It is run where its cell is, whatever launcher and sweeper there is, since times
of another machine would tell nothing.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config.schema import FedveilConfig
from results.runs import PLAIN_SUM, PROTECTION, is_plain

COMMON = "FEDVEIL_COMMON"  # JSON: what all cells of a sweep say of what only protection reads


def common(config: DictConfig) -> str:
    """For `COMMON`: a plain cell of the grid has these values, so a twin takes them, and is that cell.

    Args:
        config: of the whole sweep, without what it varies.
    """
    read = [key for key in PROTECTION if key not in ("secure_sum", "mechanism")]
    return json.dumps({key: OmegaConf.select(config, key) for key in read}, separators=(",", ":"))


def twin_of(cell: DictConfig) -> DictConfig:
    """A cell without protection: itself where it has none."""
    resolved = cast(dict[str, Any], OmegaConf.to_container(cell, resolve=True, throw_on_missing=True))
    if is_plain(resolved):
        return cell
    usual = cast(Mapping[str, Any], OmegaConf.to_container(OmegaConf.structured(FedveilConfig)))
    bare = {**{key: usual[key] for key in PROTECTION}, **json.loads(os.environ.get(COMMON, "{}"))}
    plain = {**resolved, **bare, "secure_sum": {"_target_": PLAIN_SUM}, "mechanism": {}}
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), plain))
