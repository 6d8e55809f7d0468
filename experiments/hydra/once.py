"""Hydra 1.3 without the work that it does twice: copies of its store, and the composition of each cell of a sweep.

The results are the same; `tests/experiments/hydra/test_once.py` compares them with Hydra's own.
"""

import pickle
import zlib
from functools import cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

MOST_KEPT = 10_000  # cells, at some 5 kB each

_compose = ConfigLoaderImpl.load_sweep_config
_kept: dict[tuple[str, ...], bytes] = {}  # composed and not yet launched, by their overrides


@cache
def work_once() -> None:
    """Let Hydra do its work once, from now on and in the whole process.

    It copies its repository, and so the store of all registered configurations, for each composition and for each group
    that `--help` lists. Nothing writes to these copies, and the store copies each configuration that it gives.

    Before a sweep it composes each cell, to find mistakes early, and then once more to run it. The second time takes
    the result of the first.
    """
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_sweep_config = _load_sweep_config  # type: ignore[method-assign]


def forget() -> None:
    """Forget the cells that were composed and never launched: another sweep may have other files."""
    _kept.clear()


def _load_sweep_config(loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
    whole = master_config.hydra
    key = (str(whole.job.config_name), *map(str, whole.overrides.hydra), "", *sweep_overrides)
    if (kept := _kept.pop(key, None)) is not None:
        return cast(DictConfig, pickle.loads(zlib.decompress(kept)))
    composed: Any = _compose(loader, master_config, sweep_overrides)
    if len(_kept) < MOST_KEPT:
        _kept[key] = zlib.compress(pickle.dumps(composed), level=1)
    return cast(DictConfig, composed)
