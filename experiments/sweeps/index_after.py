"""A sweep of many cells leaves the index of its folder behind, so that not even the first table has to read them all.

A Hydra callback, which `configs/config.yaml` names.
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
    """What Hydra calls after a sweep."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Bring the index up to date, where the folder holds so many runs that it has one."""
        from results.index import refresh  # with it polars: `--help` does without

        if PRINT not in os.environ:
            with suppress(ConfigError):  # no cell got as far as a folder of its own
                refresh(Path(str(config.hydra.sweep.dir)))
