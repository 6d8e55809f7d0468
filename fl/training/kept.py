"""What a model holds beside the vector that is summed: it is the same for each client, whoever trained before.

Buffers that training leaves alone, integer ones, those that are no part of `state_dict`, and plain attributes of the
modules are put back before each client trains. Frozen parameters stay as they are, or the client refuses.
"""

from collections.abc import Collection, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

COUNTER = "num_batches_tracked"  # of torch's normalisations: it weighs the batches of one client
OF_TORCH = vars(torch.nn.Module()).keys() - {"training"}
_FIXED = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Kept:
    """The state of a model that no vector carries, as it is now. `moving` names the buffers that a vector carries."""

    def __init__(self, model: torch.nn.Module, moving: Collection[str] = ()) -> None:
        self._moving = frozenset(moving)
        self._frozen = [
            (name, parameter, parameter._version)
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad
        ]
        modules = [(name, module) for name, module in model.named_modules() if _is_plain(module)]
        self._buffers = [(name, module, _copies(module)) for name, module in modules if vars(module)["_buffers"]]
        shared = [*model.modules(), *model.parameters(), *model.buffers()]
        self._memo = {id(one): one for one in shared}  # copies of attributes refer to these themselves
        memo = dict(self._memo)
        self._attributes = [(module, _own(vars(module), memo)) for _, module in modules]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back all that is held, except for frozen parameters, whose change `changed` tells."""
        for _, module, held in self._buffers:
            own = vars(module)["_buffers"]
            for name in own.keys() - held.keys():
                del own[name]
            for name, (tensor, start) in held.items():
                own[name] = tensor
                if tensor is not None and not torch.equal(tensor, start):
                    tensor.copy_(start)
        memo = dict(self._memo)
        for module, attributes in self._attributes:
            own = vars(module)
            for name in own.keys() - attributes.keys() - OF_TORCH:
                del own[name]
            own.update({name: _back(value, start, memo) for name, (value, start) in attributes.items()})

    def changed(self) -> str | None:
        """Return the name of a held parameter or buffer that has changed; None where there is none.

        The counters of torch's normalisations may change: they matter within one client's training alone. Attributes
        are put back without a word.
        """
        frozen = (name for name, parameter, version in self._frozen if parameter._version != version)
        return next(frozen, None) or next(self._changed_buffers(), None)

    def _changed_buffers(self) -> Iterator[str]:
        for path, module, held in self._buffers:
            own = vars(module)["_buffers"]
            for key, (_, start) in held.items():
                name = f"{path}.{key}" if path else key
                counts = key == COUNTER and isinstance(module, _NormBase)
                if name not in self._moving and not counts and not _same(own.get(key), start):
                    yield name


def _is_plain(module: torch.nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)


def _own(attributes: dict[str, Any], memo: dict[int, Any]) -> dict[str, tuple[Any, Any]]:
    """Return a module's own attributes, each with a copy where it can change."""
    return {name: (value, _copied(value, memo)) for name, value in attributes.items() if name not in OF_TORCH}


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _FIXED):
        return value
    try:
        return deepcopy(value, memo)
    except Exception:  # such as a tensor inside a graph, or a lock: what cannot be copied stays as it is
        return value


def _back(value: Any, start: Any, memo: dict[int, Any]) -> Any:
    """Return the value with the content that it had at the start: itself where that is possible, else a copy."""
    if value is start:
        return value
    fresh = _copied(start, memo)
    if isinstance(value, dict | set):
        value.clear()
        value.update(fresh)
        return value
    if isinstance(value, list):
        value[:] = fresh
        return value
    return fresh


def _copies(module: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    own = vars(module)["_buffers"]
    return {name: (tensor, None if tensor is None else tensor.detach().clone()) for name, tensor in own.items()}


def _same(now: torch.Tensor | None, start: torch.Tensor | None) -> bool:
    if now is None or start is None:
        return now is start
    if now.shape != start.shape or now.dtype != start.dtype:
        return False
    return torch.equal(torch.nan_to_num(now), torch.nan_to_num(start))
