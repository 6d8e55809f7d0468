"""How many clients train together: what was asked for, what a model and an optimizer allow, and what memory holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fl.config.schema import AUTO
from fl.training.vectors import trained
from privacy.errors import FAULTS, one_line
from privacy.mechanisms.contract import Batch, Loss

ONE = "trained one by one"
BUDGET_BYTES = 256 * 2**20  # on a CPU: beyond it larger groups are not faster
GPU_SHARE = 4  # a group takes at most one of so many parts of a GPU's memory
COPIES = 4  # of the parameters: themselves, their gradients, and two states of an optimizer
ROUNDING = 1e-2  # largest distance of a client's update from that of training alone, relative to its norm
# optimizers whose step of a value depends on the gradients of that value alone, so that clients' values can be stacked
ELEMENTWISE: tuple[type[torch.optim.Optimizer], ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.ASGD,
)


@dataclass(frozen=True)
class Choice:
    """The number of clients in a group, 1 where they train one by one, and the reason for that in a clause."""

    size: int
    reason: str | None = None

    @property
    def told(self) -> str:
        """A clause for the run's output."""
        if self.size > 1:
            return f"up to {self.size} trained together"
        return ONE if self.reason is None else f"{ONE} ({self.reason})"

    def idle(self, cohort: int, workers: int) -> str:
        """Return a clause about workers without a group, and how each gets one; the empty string where there are none.

        The size of a group must not depend on the number of workers, since it changes the last bits of weights.
        """
        if self.size == 1 or cohort > self.size * (workers - 1):
            return ""
        return f", in fewer groups than workers: runtime.together={max(1, cohort // workers)} gives each one"


def unstackable(optimizer: torch.optim.Optimizer, moving: tuple[str, ...]) -> str | None:
    """Return why clients cannot be stacked under any model of this kind; None where nothing is known against it."""
    if moving:
        return f"training moves {moving[0]}, by the statistics of whole batches"
    if type(optimizer) not in ELEMENTWISE:
        return f"steps of {type(optimizer).__name__} depend on more than one value at a time"
    return None


def fitting(wanted: str | int, cohort: int, bytes_of: Callable[[], int], device: torch.device) -> int:
    """Return the size of a group: what is wanted, or as many clients as fit into the budget, at most the cohort."""
    if wanted != AUTO:
        return min(int(wanted), cohort)
    budget = BUDGET_BYTES
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
    return max(1, min(cohort, budget // max(1, bytes_of())))


def bytes_of_client(model: torch.nn.Module, loss: Loss, examples: Batch, batch_size: int) -> int:
    """Return the bytes that a client of a group takes in a step: what its way back keeps, and its parameters.

    They are measured in a pass over a few examples; `batch_size` is the largest batch of a client.
    """
    inputs, labels = examples
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(model(inputs), labels)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in trained(model))
    return sum(kept.values()) * batch_size // len(labels) + COPIES * parameters


def fault(together: Callable[[], torch.Tensor], alone: Callable[[], torch.Tensor], start_D: torch.Tensor) -> str | None:
    """Return why a group does not train as its clients do alone, from rows (N, D) of both; None where it does."""
    try:
        with _no_loops():
            rows_ND = together()
    except FAULTS as error:
        return f"the model cannot be mapped over clients: {one_line(error)}"
    wanted_ND = alone()
    gaps_N = torch.linalg.vector_norm(rows_ND - wanted_ND, dim=1)
    moved_N = torch.linalg.vector_norm(wanted_ND - start_D, dim=1)
    if bool((gaps_N <= ROUNDING * moved_N).all()):
        return None
    return "the model trains otherwise when it is mapped over clients"


@contextmanager
def _no_loops() -> Iterator[None]:
    """Let an operation fail that torch can only map over clients by a loop, which is slower than one by one."""
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(True)
