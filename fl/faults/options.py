"""The kinds of faults, the keys of `faults` in the configuration, and the checks of their values and combinations."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from privacy.errors import ConfigError

LATE = "late"
DUPLICATED = "duplicated"
REPLAYED = "replayed"
WIRE = (LATE, DUPLICATED)  # on a message's way
TAMPERED = ("flipped", "truncated", "oversized", REPLAYED)  # as a message leaves its client
ZERO = "zero"  # to its training, which changes nothing
VECTORS = ("not_finite", "misshapen", "retyped")  # to what a client contributes
WEIGHTS = ("weightless", "lying")  # to what it says of its number of examples
MESSAGES = WIRE + TAMPERED
KINDS = (*MESSAGES, ZERO, *VECTORS, *WEIGHTS)


@dataclass
class FaultsConfig:
    """The faults to inject on purpose. The seed determines the clients that they strike."""

    scaled_clients: int = 0  # clients that send their updates multiplied by `scale`, whatever a mechanism clipped
    scale: float = -100.0
    dropout_rate: float = 0.0  # of the clients that are asked, each by itself, in each round
    dropout_stage: str | None = None  # of the secure sum, where they fall silent; null: from the first
    kind: str | None = None  # what befalls those whom `rate` strikes: one of KINDS
    rate: float = 0.0  # of the clients that are asked, each by itself, in each round
    stage: str | None = None  # of the secure sum, whose messages a fault of messages befalls; null: all
    delay_s: float = 5.0  # by which a late message is held up; within server.deadline_s it still counts
    claimed_weight: float = 1.0  # of a lying client, as a part of the largest allowed
    killed: str | None = None  # the server, keyholder or a party, whose process ends by SIGKILL, once
    killed_round: int | None = None  # in this round, when it is asked


# as those of `fl.config.schema`: key, what is allowed, and the words for it
CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("faults.scaled_clients", lambda v: v >= 0, "must be at least 0"),
    ("faults.scale", math.isfinite, "must be a finite number"),
    ("faults.dropout_rate", lambda v: 0 <= v <= 1, "must lie between 0 and 1"),
    ("faults.kind", lambda v: v is None or v in KINDS, f"allowed are {', '.join(KINDS)}"),
    ("faults.rate", lambda v: 0 <= v <= 1, "must lie between 0 and 1"),
    ("faults.delay_s", lambda v: math.isfinite(v) and v > 0, "must be a finite number above 0"),
    ("faults.claimed_weight", lambda v: 0 <= v <= 1, "must lie between 0 and 1"),
)


def check(config: DictConfig) -> None:
    """Refuse faults that would have no effect, or strike more clients than there are.

    Raises:
        ConfigError: a fault is refused; the message names the key, its value and what is allowed.
    """
    faults = config.faults
    if faults.scaled_clients > config.clients:
        most = f"must be at most clients={config.clients}"
        raise ConfigError.of("faults.scaled_clients", faults.scaled_clients, most)
    if faults.dropout_stage is not None and faults.dropout_rate == 0:
        raise ConfigError.of("faults.dropout_stage", faults.dropout_stage, "belongs to faults.dropout_rate")
    if (faults.killed is None) != (faults.killed_round is None):
        raise ConfigError.of("faults.killed_round", faults.killed_round, "belongs to faults.killed, and that to it")
    if faults.killed_round is not None and not 1 <= faults.killed_round <= config.rounds:
        allowed = f"must be from 1 to rounds={config.rounds}"
        raise ConfigError.of("faults.killed_round", faults.killed_round, allowed)
    if faults.rate and faults.kind is None:
        raise ConfigError.of("faults.rate", faults.rate, f"belongs to faults.kind: {', '.join(KINDS)}")
    if faults.stage is not None and faults.kind not in MESSAGES:
        allowed = f"belongs to a faults.kind of messages: {', '.join(MESSAGES)}"
        raise ConfigError.of("faults.stage", faults.stage, allowed)
    if faults.kind == LATE and config.server.deadline_s is None:
        allowed = "nobody is late without a server.deadline_s: give one"
        raise ConfigError.of("faults.kind", faults.kind, allowed)
    if faults.kind == "lying" and config.training.weighting == "uniform":
        allowed = "nobody tells a weight under training.weighting=uniform: use examples"
        raise ConfigError.of("faults.kind", faults.kind, allowed)
