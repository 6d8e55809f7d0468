"""The identity of a configuration: its canonical text, and the hash of it."""

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fl.config.checks import check
from fl.config.schema import FedveilConfig
from results.naming.later_keys import LATER, later_of_mechanism, with_later_keys

# Output folders and console options change no result, so they are not part of a configuration's identity.
# The public keys of a roster are not part of it either: each node that approves a configuration has its own roster.
UNHASHED = ("out", "force", "output", "tracking", "roster")


def to_json(config: DictConfig) -> str:
    """Return the resolved configuration without the keys of `UNHASHED` and `LATER`, as canonical JSON.

    Keys are sorted, except for the mechanisms, which are applied in the given order.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    own = identified(values)
    identity = {key: _sorted(value) for key, value in sorted(own.items())}
    identity["mechanism"] = {name: _sorted(value) for name, value in own["mechanism"].items()}
    return json.dumps(identity, separators=(",", ":"))


def identified(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a resolved configuration that are part of its identity."""
    found = {key: _before(LATER.get(key, {}), value) for key, value in values.items() if key not in UNHASHED}
    mechanisms = found.get("mechanism") or {}
    return found | {"mechanism": {name: _mechanism(options) for name, options in mechanisms.items()}}


def _mechanism(value: Any) -> Any:
    """Return a mechanism's options without those of `later_of_mechanism` that have the values of before."""
    return _before(later_of_mechanism(value), value) if isinstance(value, dict) else value


def _before(later: Mapping[str, Any], value: Any) -> Any:
    """Return a group without the keys of `LATER` that have the values of before."""
    return {key: held for key, held in value.items() if later.get(key, ...) != held} if later else value


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


@lru_cache(maxsize=8)  # every message brings its configuration
def hash_of(canonical: str) -> str:
    """Return the SHA-256 of a canonical configuration, in hexadecimal: its identity everywhere."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(canonical: str) -> FedveilConfig:
    """Parse and check the output of `to_json`; keys of `UNHASHED` take their defaults, those of `LATER` their values.

    Raises:
        ConfigError: as `check`.
    """
    return copy.deepcopy(_parsed(canonical))


@lru_cache(maxsize=2)  # a run parses its configuration for the data, and for the plan
def _parsed(canonical: str) -> FedveilConfig:
    values = with_later_keys(json.loads(canonical))
    config = cast(DictConfig, OmegaConf.merge(_schema(), values))
    check(config)
    return cast(FedveilConfig, OmegaConf.to_object(config))


@cache
def _schema() -> DictConfig:
    """Return the schema with its defaults, to merge into and never to change."""
    return cast(DictConfig, OmegaConf.structured(FedveilConfig))
