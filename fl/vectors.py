"""A model's state as one flat vector and back. Shape: D is the number of floating-point entries of the state.

Every floating-point entry counts (parameters and buffers, in the order of `state_dict`); integer counters stay local.
"""

import hashlib
from weakref import WeakKeyDictionary

import torch

# `state_dict` costs three times what a look at the parameters does; its entries share their storage
_ENTRIES: "WeakKeyDictionary[torch.nn.Module, tuple[list[int], list[torch.Tensor]]]" = WeakKeyDictionary()


def _floating(model: torch.nn.Module) -> list[torch.Tensor]:
    storage = [parameter.data_ptr() for parameter in model.parameters()]
    known, entries = _ENTRIES.get(model, (None, []))
    if known != storage:  # new, moved, converted, or a layer was replaced
        entries = [entry for entry in model.state_dict().values() if entry.is_floating_point()]
        _ENTRIES[model] = storage, entries
    return entries


def length(model: torch.nn.Module) -> int:
    """D, how many values the flat vector holds."""
    return sum(entry.numel() for entry in _floating(model))


def flatten(model: torch.nn.Module) -> torch.Tensor:
    """The state as float32, shape (D,), on the model's device."""
    return torch.cat([entry.reshape(-1).float() for entry in _floating(model)])


@torch.no_grad()
def load(model: torch.nn.Module, vector_D: torch.Tensor) -> None:
    """Write a flat vector of shape (D,) into the model, on the model's device and in its types."""
    entries = _floating(model)
    parts = torch.split(vector_D, [entry.numel() for entry in entries])
    torch._foreach_copy_(entries, [part.view_as(entry) for entry, part in zip(entries, parts, strict=True)])


def sha256(vector_D: torch.Tensor) -> str:
    """SHA-256 of the vector's float32 bytes: two runs agree bit for bit when this does."""
    return hashlib.sha256(vector_D.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
