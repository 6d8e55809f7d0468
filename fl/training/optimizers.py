"""The options of a client's optimizer: those that its class takes, and that its parameters allow."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from privacy.errors import ConfigError

# what `training/optimizer=sgd` sets, which stays behind where `_target_` alone is replaced
OF_SGD: Mapping[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False, "fused": True}
# torch 2.13 on the CPU: fused SGD leaves bfloat16 and float16 values, in groups of 16, as they are
FUSED = (torch.float32, torch.float64)


def client_options(key: str, node: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> dict[str, Any]:
    """Return the node of a client's optimizer with the options that its class takes, for these parameters.

    Options of SGD that the class does not take are left out, where they have the values of `OF_SGD`. `fused` is False
    unless all parameters are float32 or float64. A node that names no optimizer of torch.optim stays as it is.

    Raises:
        ConfigError: the class does not take an option that has another value.
    """
    options = dict(node)
    kind = getattr(torch.optim, str(node.get("_target_")).removeprefix("torch.optim."), None)
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
        taken = {"_target_", *inspect.signature(kind).parameters}
        for name in sorted(options.keys() - taken):
            if name not in OF_SGD or options[name] != OF_SGD[name]:
                allowed = f"{node['_target_']} takes no {name}: leave it out"
                raise ConfigError.of(f"{key}.{name}", options[name], allowed)
            del options[name]
    if options.get("fused") and any(parameter.dtype not in FUSED for parameter in parameters):
        options["fused"] = False
    return options
