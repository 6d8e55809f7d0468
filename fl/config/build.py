"""Objects made from the nodes of a configuration that name a class (`_target_`)."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from privacy import PUBLIC
from privacy.errors import ConfigError, FedveilError
from results.naming.former_names import FORMER

Built = TypeVar("Built")


def build(kind: type[Built], key: str, node: Any, **arguments: Any) -> Built:
    """Instantiate the object of type `kind` that a configuration node describes.

    Raises:
        ConfigError: the node's target cannot be built with its values, or is of another type.
    """
    if not isinstance(node, Mapping):
        raise ConfigError.of(key, node, "must be a group of keys, with a _target_ among them")
    described = ", ".join(f"{name}={value}" for name, value in node.items())
    if "_target_" not in node:
        raise ConfigError(f"{key} ({described}): needs a _target_, the dotted name of a class")
    if node["_target_"] in FORMER:
        allowed = f"is called {FORMER[node['_target_']]} now: name it so"
        raise ConfigError.of(f"{key}._target_", node["_target_"], allowed)
    try:
        built = instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, FedveilError):
            raise cause from None
        raise ConfigError(f"{key} ({described}): {' '.join(str(cause or error).split())}") from error
    if not isinstance(built, kind):
        raise ConfigError(f"{key} ({described}): must be a {_public_name(kind)}")
    return built


def _public_name(kind: type) -> str:
    """The name under which a configuration would know a class."""
    package = "privacy" if kind.__name__ in PUBLIC else kind.__module__
    return f"{package}.{kind.__qualname__}"
