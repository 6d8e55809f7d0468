"""Conversion of a model's state to one flat vector and back. D is the number of floating-point values of the state.

The vector holds every floating-point entry (parameters and buffers, in the order of `state_dict`). Integer counters
stay local.
"""

import hashlib

import torch


class Layout:
    """The memory layout of the floating-point entries of a model's state, in the order of `state_dict`.

    A layout is valid while the model keeps its layers. A mechanism that may have replaced layers needs a new layout.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._state = _floating(model)
        self._addresses = [entry.data_ptr() for entry in self._state]
        self._entries = [entry.detach() for entry in self._state]  # views that share storage with the model
        self._flat_D = _side_by_side(self._entries)

    @property
    def current(self) -> bool:
        """True while the entries have their first memory addresses; moving or converting the model changes these."""
        return [entry.data_ptr() for entry in self._state] == self._addresses

    @property
    def length(self) -> int:
        """D, the number of values in the flat vector."""
        return sum(entry.numel() for entry in self._entries)

    def flatten(self) -> torch.Tensor:
        """Return the state as float32, shape (D,), on the model's device."""
        if self._flat_D is not None:
            return self._flat_D.clone()
        return torch.cat([entry.reshape(-1).float() for entry in self._entries])

    def load(self, vector_D: torch.Tensor) -> None:
        """Write a flat vector of shape (D,) into the model, on the model's device and in its types."""
        if self._flat_D is not None:
            self._flat_D.copy_(vector_D.view_as(self._flat_D))
            return
        parts = torch.split(vector_D, [entry.numel() for entry in self._entries])
        wanted = [part.view_as(entry) for entry, part in zip(self._entries, parts, strict=True)]
        torch._foreach_copy_(self._entries, wanted)

    def update(self, start_D: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return the state minus `start_D`, shape (D,), written into `out`."""
        return torch.sub(self.flatten() if self._flat_D is None else self._flat_D, start_D, out=out)


def _floating(model: torch.nn.Module) -> list[torch.Tensor]:
    return [entry for entry in model.state_dict(keep_vars=True).values() if entry.is_floating_point()]


def counters(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the entries of the state that are no floating-point values, and so in no vector."""
    return [entry for entry in model.state_dict(keep_vars=True).values() if not entry.is_floating_point()]


def _side_by_side(entries: list[torch.Tensor]) -> torch.Tensor | None:
    """Return one view of all entries, where they are float32 and contiguous in one storage; else None."""
    end = entries[0].data_ptr() if entries else 0
    for entry in entries:
        shares = entry.untyped_storage().data_ptr() == entries[0].untyped_storage().data_ptr()
        if entry.dtype != torch.float32 or not entry.is_contiguous() or not shares or entry.data_ptr() != end:
            return None
        end += entry.nbytes
    return entries[0].as_strided((sum(entry.numel() for entry in entries),), (1,)) if entries else None


@torch.no_grad()
def pool(model: torch.nn.Module) -> None:
    """Move a float32 state into one contiguous block of memory, in place, so that `load` and `flatten` take one pass.

    A model with another precision, or with tied weights, is left unchanged.
    """
    state = _floating(model)
    tied = len({entry.data_ptr() for entry in state}) < len(state)
    if not state or tied or any(entry.dtype != torch.float32 for entry in state):
        return
    flat_D = torch.cat([entry.reshape(-1) for entry in state])
    for entry, part in zip(state, torch.split(flat_D, [entry.numel() for entry in state]), strict=True):
        entry.data = part.view_as(entry)


def flatten(model: torch.nn.Module) -> torch.Tensor:
    """Return a model's state as float32, shape (D,), on its device."""
    return Layout(model).flatten()


def load(model: torch.nn.Module, vector_D: torch.Tensor) -> None:
    """Write a flat vector of shape (D,) into a model."""
    Layout(model).load(vector_D)


def sha256(vector_D: torch.Tensor) -> str:
    """Return the SHA-256 of the vector's float32 bytes: equal hashes show that two runs agree bit for bit."""
    return hashlib.sha256(vector_D.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
