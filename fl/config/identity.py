"""The identity of a configuration: its canonical text, and the hash of it."""

import hashlib
import json
from functools import lru_cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config.checks import check
from fl.config.schema import FedveilConfig

# Output folders and console options change no result, so they are not part of a configuration's identity.
# The public keys of a roster are not part of it either: each node that approves a configuration has its own roster.
UNHASHED = ("out", "force", "output", "tracking", "roster")


def to_json(config: DictConfig) -> str:
    """Return the resolved configuration without the keys of `UNHASHED`, as canonical JSON.

    Keys are sorted, except for the mechanisms, which are applied in the given order.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    identity = {key: _sorted(value) for key, value in sorted(values.items()) if key not in UNHASHED}
    identity["mechanism"] = {name: _sorted(value) for name, value in values["mechanism"].items()}
    return json.dumps(identity, separators=(",", ":"))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


@lru_cache(maxsize=8)  # every message brings its configuration
def hash_of(canonical: str) -> str:
    """Return the SHA-256 of a canonical configuration, in hexadecimal: its identity everywhere."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(canonical: str) -> FedveilConfig:
    """Parse and check the output of `to_json`; keys of `UNHASHED` take their defaults.

    Raises:
        ConfigError: as `check`.
    """
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), json.loads(canonical)))
    check(config)
    return cast(FedveilConfig, OmegaConf.to_object(config))
