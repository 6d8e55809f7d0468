"""The index of runs that a sweep of many cells writes at its end, so that even the first table need not read them all.

It is a Hydra callback, named in `configs/config.yaml`.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.sweeps.cores_and_gpus import PRINT
from privacy.errors import ConfigError


class Index(Callback):
    """The callback that Hydra calls after a sweep."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Bring the index up to date where the folder holds enough runs to have one."""
        from results.index import refresh  # imports polars, which `--help` does not need

        if PRINT not in os.environ:
            with suppress(ConfigError):  # no cell made its folder
                refresh(Path(str(config.hydra.sweep.dir)))
