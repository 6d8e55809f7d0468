"""Hydra 1.3 without the work that it does twice: copies of its store, files of a sweep, and the composition of a cell.

The results are the same; `tests/experiments/hydra/test_once.py` compares them with Hydra's own.
"""

import pickle
import zlib
from functools import cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

MOST_KEPT = 10_000  # cells, at some 5 kB each

_compose = ConfigLoaderImpl.load_sweep_config
_parse = ConfigRepository.load_config
_kept: dict[tuple[str, ...], bytes] = {}  # composed and not yet launched, by their overrides
_parsed: dict[tuple[str, ...], bytes] = {}  # files and registered configurations, by the search path and their own
_in_sweep: list[bool] = []  # not empty while a cell is composed


@cache
def work_once() -> None:
    """Let Hydra do its work once, from now on and in the whole process.

    It copies its repository, and so the store of all registered configurations, for each composition and for each group
    that `--help` lists. Nothing writes to these copies, and the store copies each configuration that it gives.

    Before a sweep it composes each cell, to find mistakes early, and then once more to run it. The second time takes
    the result of the first. For each cell it reads all files again; here they are parsed once a sweep.
    """
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_sweep_config = _load_sweep_config  # type: ignore[assignment, method-assign]
    ConfigRepository.load_config = _load_config  # type: ignore[assignment, method-assign]


def forget() -> None:
    """Forget the files, and the cells that were never launched: the files of the next sweep may have changed."""
    _kept.clear()
    _parsed.clear()


def _load_sweep_config(loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
    whole = master_config.hydra
    key = (str(whole.job.config_name), *map(str, whole.overrides.hydra), "", *sweep_overrides)
    if (kept := _kept.pop(key, None)) is not None:
        return cast(DictConfig, pickle.loads(zlib.decompress(kept)))
    _in_sweep.append(True)
    try:
        composed: Any = _compose(loader, master_config, sweep_overrides)
    finally:
        _in_sweep.pop()
    if len(_kept) < MOST_KEPT:
        _kept[key] = zlib.compress(pickle.dumps(composed), level=1)
    return cast(DictConfig, composed)


def _load_config(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    if not _in_sweep:
        return _parse(repository, config_path)
    key = (*(f"{source.provider} {source.path}" for source in repository.get_sources()), config_path)
    if key not in _parsed:
        _parsed[key] = pickle.dumps(_parse(repository, config_path))
    return cast(ConfigResult | None, pickle.loads(_parsed[key]))
