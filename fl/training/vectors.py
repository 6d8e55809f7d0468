"""Conversion of what a model learns to one flat vector and back. D is the number of values of that vector.

The vector holds each parameter that requires a gradient, once, in the order of `parameters`; behind them the buffers
that training moves (`moving`, by name), in that order. A complex value is a pair of real ones. All else is no part of
any vector: `fl.training.kept` puts it back for each client.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch.nn.modules.batchnorm import _NormBase


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters that require a gradient, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def reals(entry: torch.Tensor) -> torch.Tensor:
    """Return a view of real values: a complex entry of shape (...) as pairs, (..., 2)."""
    return torch.view_as_real(entry) if entry.is_complex() else entry


class Layout:
    """The memory layout of a model's trained parameters, and of its buffers with the names `moving`.

    A layout is valid while the model keeps its layers. A mechanism that may have replaced layers needs a new layout.
    """

    def __init__(self, model: torch.nn.Module, moving: Sequence[str] = ()) -> None:
        self._model = model
        self._moving = tuple(moving)
        self.state = _state(model, self._moving)
        self._addresses = [entry.data_ptr() for entry in self.state]
        # views that share storage with the model
        self._entries = [reals(entry.detach()) for entry in self.state]
        self._flat_D = _side_by_side(self._entries)
        self._variances = [entry.detach() for entry in _variances(model, self.state)] if self._moving else []

    @property
    def current(self) -> bool:
        """True while the entries have their first memory addresses.

        Moving or converting the model changes these, and so does a layer that puts another tensor in a buffer's place.
        """
        state = _state(self._model, self._moving) if self._moving else self.state
        return [entry.data_ptr() for entry in state] == self._addresses

    @property
    def length(self) -> int:
        """D, the number of values in the flat vector."""
        return sum(entry.numel() for entry in self._entries)

    @property
    def trained(self) -> int:
        """The number of values of trained parameters, which come first; the rest are those of moving buffers."""
        return sum(entry.numel() for entry in self._entries[: len(self._entries) - len(self._moving)])

    def flatten(self) -> torch.Tensor:
        """Return the state as float32, shape (D,), on the model's device."""
        if self._flat_D is not None:
            return self._flat_D.clone()
        return torch.cat([entry.reshape(-1).float() for entry in self._entries])

    def load(self, vector_D: torch.Tensor) -> None:
        """Write a flat vector of shape (D,) into the model, on the model's device and in its types.

        A sum that rounds may put the variance of a constant below zero, where no variance can be: zero takes its place.
        """
        if self._flat_D is not None:
            self._flat_D.copy_(vector_D.view_as(self._flat_D))
        else:
            parts = torch.split(vector_D, [entry.numel() for entry in self._entries])
            wanted = [part.view_as(entry) for entry, part in zip(self._entries, parts, strict=True)]
            torch._foreach_copy_(self._entries, wanted)
        for variance in self._variances:
            variance.clamp_(min=0)

    def update(self, start_D: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return the state minus `start_D`, shape (D,), written into `out`."""
        return torch.sub(self.flatten() if self._flat_D is None else self._flat_D, start_D, out=out)


def _state(model: torch.nn.Module, moving: Sequence[str]) -> list[torch.Tensor]:
    return [*trained(model), *(model.get_buffer(name) for name in moving)]


def _variances(model: torch.nn.Module, state: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the running variances of torch's normalisations among these entries."""
    normalisations = [module for module in model.modules() if isinstance(module, _NormBase)]
    known = {id(module.running_var) for module in normalisations}
    return [entry for entry in state if id(entry) in known]


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
def pool(model: torch.nn.Module, moving: Sequence[str] = ()) -> None:
    """Move a float32 state into one contiguous block of memory, in place, so that `load` and `flatten` take one pass.

    A model with another precision, or with entries that share memory, is left unchanged.
    """
    state = _state(model, moving)
    shared = len({entry.data_ptr() for entry in state}) < len(state)
    if not state or shared or any(entry.dtype != torch.float32 for entry in state):
        return
    flat_D = torch.cat([entry.reshape(-1) for entry in state])
    for entry, part in zip(state, torch.split(flat_D, [entry.numel() for entry in state]), strict=True):
        entry.data = part.view_as(entry)


def flatten(model: torch.nn.Module) -> torch.Tensor:
    """Return what a model learns as float32, shape (D,), on its device; without buffers."""
    return Layout(model).flatten()


def load(model: torch.nn.Module, vector_D: torch.Tensor) -> None:
    """Write a flat vector of shape (D,) into a model; without buffers."""
    Layout(model).load(vector_D)


def sha256(vector_D: torch.Tensor) -> str:
    """Return the SHA-256 of the vector's float32 bytes: equal hashes show that two runs agree bit for bit."""
    return hashlib.sha256(vector_D.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
