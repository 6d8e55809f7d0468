"""The optimizers of torch without torch's compiler, which the first of them would import, for two seconds.

They import it only to keep it away from their methods (torch 2.9 to 2.13: `torch._compile._disable_dynamo`, and
`_use_grad_for_differentiable` in `torch.optim.optimizer`). While nobody has loaded it there is nothing to keep away;
once it is loaded, the methods are torch's own again.
"""

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch.optim import Optimizer

COMPILER = "torch._dynamo"
KEPT_AWAY = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
CACHE = "__dynamo_disable"  # the attribute in which torch keeps the function that it calls in place of a method
STEP = "_use_grad"  # the function in which torch wraps the step of an optimizer

Method = Callable[..., Any]


@cache
def without_compiler() -> None:
    """Let all optimizers of torch do without the compiler, from now on and in the whole process."""
    for name in KEPT_AWAY:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, CACHE):
            setattr(method, CACHE, _kept_away(method))
    for kind in vars(torch.optim).values():
        if isinstance(kind, type) and issubclass(kind, Optimizer) and _code(vars(kind).get("step")) == STEP:
            kind.step = _step(kind.step)  # type: ignore[method-assign]


def _code(function: object) -> str | None:
    """The name that a function was defined with, which decorators do not change."""
    return getattr(getattr(function, "__code__", None), "co_name", None)


def _kept_away(method: Method) -> Method:
    def call(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules:
            return method(*args, **kwargs)
        disabled = torch._dynamo.disable(method, wrapping=False)  # type: ignore[no-untyped-call]
        setattr(method, CACHE, disabled)
        return disabled(*args, **kwargs)

    return call


def _step(step: Method) -> Method:
    inner: Method = step.__wrapped__  # type: ignore[attr-defined]

    @wraps(inner)
    def stepped(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if COMPILER in sys.modules:
            return step(optimizer, *args, **kwargs)
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return inner(optimizer, *args, **kwargs)

    return stepped
