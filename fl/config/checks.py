"""The checks of a configuration by itself: the range of each key, and the conditions between keys.

Both are tables, tried from the top: the first line that does not hold is the error. Refusals that need the secure sum,
the mechanisms, the data or the machine stand elsewhere: CONTRIBUTING.md says where, under "Where a configuration is
refused".
"""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl.config.schema import (
    AUTO,
    FEATURES,
    MLFLOW,
    NOISES,
    NOWHERE,
    ON_INVALID,
    PARTITIONS,
    PINNED,
    PRECISIONS,
    RELAYED,
    RUNTIMES,
    SAMPLERS,
    TENSORBOARD,
    UNSEEN_LABELS,
    WEIGHTINGS,
)
from fl.faults.options import KINDS, LATE, MESSAGES
from privacy.checks import ACCOUNTANTS
from privacy.errors import ConfigError

Check = tuple[str, Callable[[Any], bool], str]  # a key, a test of its value, and the words for what is allowed
# A key, a test of the whole configuration, and the words for what is allowed: {c.clients} in them stands for the value
# of `clients`, {cohort} for the number of clients that a round asks.
Condition = tuple[str, Callable[[DictConfig], bool], str]


def _one_of(key: str, values: tuple[str, ...]) -> Check:
    return key, lambda v: v in values, f"allowed are {', '.join(values)}"


def _at_least(key: str, low: int) -> Check:
    return key, lambda v: v is None or v >= low, f"must be at least {low}"


def _positive(key: str) -> Check:
    return key, lambda v: v is None or (math.isfinite(v) and v > 0), "must be a finite number above 0"


def _share(key: str) -> Check:
    return key, lambda v: 0 <= v <= 1, "must lie between 0 and 1"


def _only_with(key: str, default: Any, other: str, value: str, said: str | None = None) -> Condition:
    """Return the condition that a key keeps its default, under which it has no effect, unless another has a value."""

    def holds(c: DictConfig) -> bool:
        return bool(OmegaConf.select(c, key) == default or OmegaConf.select(c, other) == value)

    return key, holds, f"belongs to {said or other}={value}"


CHECKS: tuple[Check, ...] = (
    _at_least("clients", 1),
    _at_least("cohort", 1),
    _at_least("rounds", 1),
    _at_least("seed", 0),
    _one_of("sampler.name", SAMPLERS),
    _at_least("sampler.min_separation", 1),
    _at_least("sampler.max_participations", 1),
    _one_of("data.features", FEATURES),
    _one_of("data.unseen_labels", UNSEEN_LABELS),
    _one_of("noise", NOISES),
    ("delta", lambda v: 0 < v < 1, "must lie between 0 and 1"),
    _one_of("accountant", ACCOUNTANTS),
    _positive("epsilon_budget"),
    ("retries", lambda v: v >= 0, "must be at least 0"),
    _one_of("data.partition", PARTITIONS),
    _positive("data.alpha"),
    _at_least("data.shards", 1),
    _at_least("training.batch_size", 1),
    _at_least("training.epochs", 1),
    _at_least("training.steps", 1),
    _positive("training.lr"),
    ("training.proximal_mu", lambda v: math.isfinite(v) and v >= 0, "must be a finite number of at least 0"),
    _at_least("training.accumulate", 1),
    (
        "training.class_weights",
        lambda v: v is None or (all(math.isfinite(w) and w >= 0 for w in v) and any(v)),
        "must be finite numbers of at least 0, and not all 0",
    ),
    ("training.label_smoothing", lambda v: 0 <= v < 1, "must be at least 0 and below 1"),
    _one_of("training.precision", PRECISIONS),
    _one_of("training.weighting", WEIGHTINGS),
    _at_least("training.max_weight", 1),
    ("training.sample_rate", lambda v: v is None or 0 < v <= 1, "must lie above 0 and be at most 1"),
    _at_least("training.threads", 1),
    _at_least("server.min_contributors", 1),
    ("server.min_share", lambda v: 0 < v <= 1, "must lie above 0 and be at most 1"),
    _positive("server.deadline_s"),
    _one_of("server.on_invalid", ON_INVALID),
    ("data.public_share", lambda v: 0 <= v < 1, "must be at least 0 and below 1"),
    _at_least("server.patience", 1),
    ("server.least_gain", lambda v: math.isfinite(v) and v >= 0, "must be a finite number of at least 0"),
    _at_least("server.evaluate_every", 0),
    _at_least("server.evaluate_batch", 1),
    _one_of("runtime.name", RUNTIMES),
    _at_least("runtime.workers", 0),
    (
        "runtime.together",
        lambda v: v == AUTO or (type(v) is int and v >= 1),
        "allowed are auto, and whole numbers of at least 1",
    ),
    _positive("runtime.gpus_per_client"),
    _positive("runtime.cpus_per_client"),
    _at_least("runtime.supernodes", 1),
    ("faults.scaled_clients", lambda v: v >= 0, "must be at least 0"),
    ("faults.scale", math.isfinite, "must be a finite number"),
    _share("faults.dropout_rate"),
    ("faults.kind", lambda v: v is None or v in KINDS, f"allowed are {', '.join(KINDS)}"),
    _share("faults.rate"),
    ("faults.delay_s", lambda v: math.isfinite(v) and v > 0, "must be a finite number above 0"),
    _share("faults.claimed_weight"),
    _one_of("runtime.roster", (PINNED, RELAYED)),
    _one_of("tracking.name", (NOWHERE, MLFLOW, TENSORBOARD)),
    _at_least("output.keep_checkpoints", 1),
)

CONDITIONS: tuple[Condition, ...] = (
    ("cohort", lambda c: c.cohort is None or c.cohort <= c.clients, "must be at most clients={c.clients}"),
    ("faults.scaled_clients", lambda c: c.faults.scaled_clients <= c.clients, "must be at most clients={c.clients}"),
    (
        "faults.dropout_stage",
        lambda c: c.faults.dropout_stage is None or c.faults.dropout_rate != 0,
        "belongs to faults.dropout_rate",
    ),
    (
        "faults.killed_round",
        lambda c: (c.faults.killed is None) == (c.faults.killed_round is None),
        "belongs to faults.killed, and that to it",
    ),
    (
        "faults.killed_round",
        lambda c: c.faults.killed_round is None or 1 <= c.faults.killed_round <= c.rounds,
        "must be from 1 to rounds={c.rounds}",
    ),
    (
        "faults.rate",
        lambda c: not c.faults.rate or c.faults.kind is not None,
        f"belongs to faults.kind: {', '.join(KINDS)}",
    ),
    (
        "faults.stage",
        lambda c: c.faults.stage is None or c.faults.kind in MESSAGES,
        f"belongs to a faults.kind of messages: {', '.join(MESSAGES)}",
    ),
    (
        "faults.kind",
        lambda c: c.faults.kind != LATE or c.server.deadline_s is not None,
        "nobody is late without a server.deadline_s: give one",
    ),
    (
        "faults.kind",
        lambda c: c.faults.kind != "lying" or c.training.weighting != "uniform",
        "nobody tells a weight under training.weighting=uniform: use examples",
    ),
    (
        "server.min_contributors",
        lambda c: c.server.min_contributors is None or c.server.min_contributors <= cohort_size(c),
        "must be at most the cohort, {cohort}",
    ),
    (
        "data.public_share",
        lambda c: (c.data.public_share > 0) == (c.server.patience is not None),
        "belongs to server.patience, and that to it",
    ),
    (
        "server.least_gain",
        lambda c: not c.server.least_gain or c.server.patience is not None,
        "belongs to server.patience",
    ),
    (
        "server.evaluate_every",
        lambda c: c.server.evaluate_every > 0 or c.server.patience is None,
        "evaluates nothing that server.patience could wait for: give at least 1",
    ),
    *(
        (
            f"runtime.{key}",
            lambda c, key=key: not c.runtime[key] or c.runtime.client_metrics,
            "is told with the times of clients: set runtime.client_metrics=true, too",
        )
        for key in ("client_evaluation", "client_diagnostics")
    ),
    _only_with("sampler.min_separation", None, "sampler.name", "separated"),
    _only_with("sampler.max_participations", None, "sampler.name", "separated"),
    (
        "training.steps",
        lambda c: (c.training.epochs is None) != (c.training.steps is None),
        "give training.epochs or training.steps, and set the other to null",
    ),
    (
        "runtime.measure_sum_error",
        lambda c: not c.runtime.measure_sum_error or c.runtime.name != "deployment",
        "sends contributions in the clear, to test a sum: it belongs to runtime=inprocess or ray",
    ),
    _only_with("runtime.workers", 0, "runtime.name", "inprocess", "runtime"),
    (
        "runtime.together",
        lambda c: c.runtime.together in (AUTO, 1) or c.runtime.name == "inprocess",
        "runtime={c.runtime.name} trains clients one by one: set auto or 1",
    ),
    (
        "runtime.compile",
        lambda c: not c.runtime.compile or (c.runtime.name == "inprocess" and not c.runtime.workers),
        "belongs to runtime=inprocess with runtime.workers=0: each process compiles, and rounds, in a way of its own",
    ),
    (
        "runtime.compile",
        lambda c: not c.runtime.compile or c.runtime.together != 1,
        "compiles the pass of clients that train together: leave out runtime.together=1",
    ),
    _only_with("runtime.prepare_ahead", False, "runtime.name", "inprocess", "runtime"),
    _only_with("runtime.address", None, "runtime.name", "ray", "runtime"),
    _only_with("runtime.federation", None, "runtime.name", "deployment", "runtime"),
    (
        "runtime.roster",
        lambda c: c.runtime.roster != RELAYED or c.runtime.name == "deployment",
        "belongs to runtime=deployment: a simulation has its keys from set-up",
    ),
    (
        "roster",
        lambda c: c.roster is None or c.runtime.federation is not None,
        "belongs to runtime.federation; elsewhere a run makes its own",
    ),
    (
        "roster",
        lambda c: c.roster is None or c.runtime.roster != RELAYED,
        "belongs to runtime.roster=pinned; relayed takes no file",
    ),
    _only_with("tracking.uri", None, "tracking.name", MLFLOW, "tracking"),
    _only_with("tracking.folder", None, "tracking.name", TENSORBOARD, "tracking"),
    (
        "runtime.supernodes",
        lambda c: not _starts_nodes(c) or c.runtime.supernodes >= c.clients,
        "must be at least clients={c.clients}, one SuperNode a client",
    ),
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
    for key, holds, message in CONDITIONS:
        if not holds(config):
            said = message.format(c=config, cohort=cohort_size(config))
            raise ConfigError.of(key, OmegaConf.select(config, key), said)


def _starts_nodes(config: DictConfig) -> bool:
    """True where a run starts its own SuperNodes, on loopback."""
    return bool(config.runtime.name == "deployment" and config.runtime.federation is None)


def cohort_size(config: DictConfig) -> int:
    """Return the number of clients that a round asks."""
    return int(config.clients if config.cohort is None else config.cohort)
