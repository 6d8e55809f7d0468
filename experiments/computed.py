"""Functions that compute or measure rows of published tables, where no run of ours gives their figures.

Each function takes the arguments that the table's YAML gives, and returns figures by name. The modules are loaded on
use: each imports a library that takes seconds to load.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from privacy.errors import ConfigError

MODULES = {
    "ciphertext_words": "experiments.he_figures",
    "ckks_operations": "experiments.he_figures",
    "crypten_model": "experiments.mpc_figures",
    "crypten_processes": "experiments.mpc_figures",
    "dp_sgd_epsilon": "experiments.formulas",
    "flare_round": "experiments.flare_figures",
    "he_system": "experiments.he_figures",
    "link_arithmetic": "experiments.formulas",
    "selective_size": "experiments.he_figures",
    "share_aggregation": "experiments.mpc_figures",
    "share_parties": "experiments.mpc_figures",
    "tenseal_ciphertext": "experiments.tenseal_figures",
    "tenseal_context": "experiments.tenseal_figures",
    "tenseal_precision": "experiments.tenseal_figures",
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
