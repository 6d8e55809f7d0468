"""Functions that compute or measure rows of published tables, where no run of ours gives their figures.

Each function takes the arguments that the table's YAML gives, and returns figures by name. The modules are loaded on
use: each imports a library that takes seconds to load.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from privacy.errors import ConfigError

MODULES = {
    "ciphertext_words": "experiments.published.he",
    "ckks_operations": "experiments.published.he",
    "crypten_model": "experiments.published.mpc",
    "crypten_processes": "experiments.published.mpc",
    "dp_sgd_epsilon": "experiments.published.formulas",
    "flare_round": "experiments.published.nvidia_flare",
    "he_system": "experiments.published.he",
    "link_arithmetic": "experiments.published.formulas",
    "selective_size": "experiments.published.he",
    "share_aggregation": "experiments.published.mpc",
    "share_parties": "experiments.published.mpc",
    "tenseal_ciphertext": "experiments.published.tenseal",
    "tenseal_context": "experiments.published.tenseal",
    "tenseal_precision": "experiments.published.tenseal",
}


def function(name: str) -> Callable[..., dict[str, float]]:
    """Load the function of this name.

    Raises:
        ConfigError: there is no function of this name.
    """
    if name not in MODULES:
        raise ConfigError.of("compute.function", name, f"allowed are {', '.join(MODULES)}")
    found: Callable[..., dict[str, float]] = getattr(import_module(MODULES[name]), name)
    return found


def compute(arguments: dict[str, Any]) -> dict[str, float]:
    """The figures of a row's `compute`.

    Raises:
        ConfigError: there is no such function.
        FedveilError: raised by the function itself.
    """
    rest = dict(arguments)
    return function(rest.pop("function"))(**rest)
