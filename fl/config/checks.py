"""The ranges of the keys, and the conditions that hold between them."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl.config.schema import (
    FEATURES,
    MLFLOW,
    NOISES,
    NOWHERE,
    ON_INVALID,
    PARTITIONS,
    PINNED,
    RELAYED,
    RUNTIMES,
    SAMPLERS,
    TENSORBOARD,
    WEIGHTINGS,
)
from fl.faults import options as fault_options
from privacy.checks import ACCOUNTANTS
from privacy.errors import ConfigError

Check = tuple[str, Callable[[Any], bool], str]


def _one_of(key: str, values: tuple[str, ...]) -> Check:
    return key, lambda v: v in values, f"allowed are {', '.join(values)}"


def _at_least(key: str, low: int) -> Check:
    return key, lambda v: v is None or v >= low, f"must be at least {low}"


def _positive(key: str) -> Check:
    return key, lambda v: v is None or (math.isfinite(v) and v > 0), "must be a finite number above 0"


CHECKS: tuple[Check, ...] = (
    _at_least("clients", 1),
    _at_least("cohort", 1),
    _at_least("rounds", 1),
    _at_least("seed", 0),
    _one_of("sampler.name", SAMPLERS),
    _at_least("sampler.min_separation", 1),
    _at_least("sampler.max_participations", 1),
    _one_of("data.features", FEATURES),
    _one_of("noise", NOISES),
    ("delta", lambda v: 0 < v < 1, "must lie between 0 and 1"),
    _one_of("accountant", ACCOUNTANTS),
    _positive("epsilon_budget"),
    _one_of("data.partition", PARTITIONS),
    _positive("data.alpha"),
    _at_least("data.shards", 1),
    _at_least("training.batch_size", 1),
    _at_least("training.epochs", 1),
    _at_least("training.steps", 1),
    _positive("training.lr"),
    ("training.proximal_mu", lambda v: math.isfinite(v) and v >= 0, "must be a finite number of at least 0"),
    _one_of("training.weighting", WEIGHTINGS),
    _at_least("training.max_weight", 1),
    ("training.sample_rate", lambda v: v is None or 0 < v <= 1, "must lie above 0 and be at most 1"),
    _at_least("training.threads", 1),
    _at_least("server.min_contributors", 1),
    _positive("server.deadline_s"),
    _one_of("server.on_invalid", ON_INVALID),
    _at_least("server.evaluate_every", 0),
    _at_least("server.evaluate_batch", 1),
    _one_of("runtime.name", RUNTIMES),
    _at_least("runtime.workers", 0),
    _positive("runtime.gpus_per_client"),
    _positive("runtime.cpus_per_client"),
    _at_least("runtime.supernodes", 1),
    *fault_options.CHECKS,
    _one_of("runtime.roster", (PINNED, RELAYED)),
    _one_of("tracking.name", (NOWHERE, MLFLOW, TENSORBOARD)),
    _at_least("output.keep_checkpoints", 1),
)


# Keys of one runtime only. In another runtime they would have no effect, so they are refused there.
OWNED = (
    ("runtime.workers", 0, "inprocess"),
    ("runtime.address", None, "ray"),
    ("runtime.federation", None, "deployment"),
)


def check(config: DictConfig) -> None:
    """Refuse values out of range and keys that contradict one another.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    for key, allowed, message in CHECKS:
        value = OmegaConf.select(config, key)
        if not allowed(value):
            raise ConfigError.of(key, value, message)
    if config.cohort is not None and config.cohort > config.clients:
        raise ConfigError.of("cohort", config.cohort, f"must be at most clients={config.clients}")
    fault_options.check(config)
    minimum = config.server.min_contributors
    if minimum is not None and minimum > cohort_size(config):
        raise ConfigError.of(
            "server.min_contributors",
            minimum,
            f"must be at most the cohort, {cohort_size(config)}",
        )
    for key in ("min_separation", "max_participations"):
        if config.sampler[key] is not None and config.sampler.name != "separated":
            raise ConfigError.of(f"sampler.{key}", config.sampler[key], "belongs to sampler.name=separated")
    if (config.training.epochs is None) == (config.training.steps is None):
        raise ConfigError.of(
            "training.steps", config.training.steps, "give training.epochs or training.steps, and set the other to null"
        )
    if config.runtime.measure_sum_error and config.runtime.name == "deployment":
        why = "sends contributions in the clear, to test a sum: it belongs to runtime=inprocess or ray"
        raise ConfigError.of("runtime.measure_sum_error", config.runtime.measure_sum_error, why)
    for key, default, owner in OWNED:
        if OmegaConf.select(config, key) != default and config.runtime.name != owner:
            raise ConfigError.of(key, OmegaConf.select(config, key), f"belongs to runtime={owner}")
    _check_roster(config)
    for key, owner in (("uri", MLFLOW), ("folder", TENSORBOARD)):
        if config.tracking[key] is not None and config.tracking.name != owner:
            raise ConfigError.of(f"tracking.{key}", config.tracking[key], f"belongs to tracking={owner}")
    starts_nodes = config.runtime.name == "deployment" and config.runtime.federation is None
    if starts_nodes and config.runtime.supernodes < config.clients:
        raise ConfigError.of(
            "runtime.supernodes",
            config.runtime.supernodes,
            f"must be at least clients={config.clients}, one SuperNode a client",
        )


def _check_roster(config: DictConfig) -> None:
    if config.runtime.roster == RELAYED and config.runtime.name != "deployment":
        allowed = "belongs to runtime=deployment: a simulation has its keys from set-up"
        raise ConfigError.of("runtime.roster", RELAYED, allowed)
    if config.roster is not None and config.runtime.federation is None:
        raise ConfigError.of("roster", config.roster, "belongs to runtime.federation; elsewhere a run makes its own")
    if config.roster is not None and config.runtime.roster == RELAYED:
        raise ConfigError.of("roster", config.roster, "belongs to runtime.roster=pinned; relayed takes no file")


def cohort_size(config: DictConfig) -> int:
    """Return the number of clients that a round asks."""
    return int(config.clients if config.cohort is None else config.cohort)
