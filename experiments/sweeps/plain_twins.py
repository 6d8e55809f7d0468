"""The plain twins of a sweep's cells: overheads are ratios to them, so missing twins are run first.

A twin has the cell's configuration without protection: the same seed, partition, initial weights and cohorts.
`results.comparison` pairs the two. A twin runs on the machine of its cell with any launcher and sweeper, since times
of different machines do not compare.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config.schema import FedveilConfig
from results.naming.protection import PLAIN_SUM, PROTECTION, is_plain

COMMON = "FEDVEIL_COMMON"  # JSON: the values, common to all cells of a sweep, of the keys that only protection reads


def common(config: DictConfig) -> str:
    """The text of `COMMON`; a twin takes these values, so that it is the same run as a plain cell of the grid.

    Args:
        config: the configuration of the whole sweep, without the varied keys.
    """
    read = [key for key in PROTECTION if key not in ("secure_sum", "mechanism")]
    return json.dumps({key: OmegaConf.select(config, key) for key in read}, separators=(",", ":"))


def twin_of(cell: DictConfig) -> DictConfig:
    """The plain twin of a cell; the cell itself where it has no protection."""
    resolved = cast(dict[str, Any], OmegaConf.to_container(cell, resolve=True, throw_on_missing=True))
    if is_plain(resolved):
        return cell
    usual = cast(Mapping[str, Any], OmegaConf.to_container(OmegaConf.structured(FedveilConfig)))
    bare = {**{key: usual[key] for key in PROTECTION}, **json.loads(os.environ.get(COMMON, "{}"))}
    plain = {**resolved, **bare, "secure_sum": {"_target_": PLAIN_SUM}, "mechanism": {}}
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), plain))
