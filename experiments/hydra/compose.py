"""Configurations as Hydra composes them for the command line, for what runs without it."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.hydra.error_lines import CONFIGS
from fl.config.schema import register_schema


def composed(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """What `fedveil run OVERRIDES` would run; with Hydra's own part where that is asked for.

    Raises:
        HydraException, OmegaConfBaseException: an override that does not compose;
            `experiments.hydra.error_lines.one_line` says it on a line.
    """
    register_schema()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
