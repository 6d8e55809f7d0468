"""Configurations composed by Hydra as on the command line, for code that runs without it."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.hydra.error_lines import CONFIGS
from experiments.hydra.once import work_once
from fl.config.schema import register_schema


def composed(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The configuration that `fedveil run OVERRIDES` would run; `with_hydra` adds Hydra's own part.

    Raises:
        HydraException, OmegaConfBaseException: an override that does not compose;
            `experiments.hydra.error_lines.one_line` shortens the error to one line.
    """
    register_schema()
    work_once()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
