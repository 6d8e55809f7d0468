"""The identity of a configuration: its canonical text, and the hash of it."""

import hashlib
import json
from functools import lru_cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config.checks import check
from fl.config.schema import FedveilConfig

# Where a run writes and how it talks changes no result, so it is no part of a configuration's identity.
# Nor do the public keys of a roster: who approves a configuration has one, too.
UNHASHED = ("out", "force", "output", "tracking", "roster")


def to_json(config: DictConfig) -> str:
    """The resolved configuration less what is no part of its identity, as canonical JSON.

    Keys are sorted, but for the mechanisms, which apply in the order that they were given.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    identity = {key: _sorted(value) for key, value in sorted(values.items()) if key not in UNHASHED}
    identity["mechanism"] = {name: _sorted(value) for name, value in values["mechanism"].items()}
    return json.dumps(identity, separators=(",", ":"))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


@lru_cache(maxsize=8)  # every message brings its configuration
def hash_of(canonical: str) -> str:
    """SHA-256 of a canonical configuration, in hexadecimal: its identity everywhere."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(canonical: str) -> FedveilConfig:
    """The typed configuration that `to_json` wrote, checked; unhashed parts take their defaults.

    Raises:
        ConfigError: as `check`.
    """
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), json.loads(canonical)))
    check(config)
    return cast(FedveilConfig, OmegaConf.to_object(config))
