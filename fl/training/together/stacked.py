"""The local training of several clients as one computation: their parameters are stacked, and so are their batches.

`torch.vmap` maps the model over the clients' parameters. The losses of all clients are added before the way back:
a client's parameters get the gradient of its own loss alone. The padding of a short batch repeats an example of the
same client with a weight of zero, so it adds exactly nothing. A client that has made its last step leaves the stack.

Shapes: N clients, B examples of the largest of their batches, D values of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.func import functional_call, vmap

from fl.training.local import Batches, Passes, clear_gradients
from fl.training.together.compiled import Mapped
from fl.training.together.kernels import OfClients
from fl.training.vectors import reals
from privacy.mechanisms.contract import Loss, StackedSteps

OptimizerOf = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
Stack = list[torch.nn.Parameter]  # parameters of the clients, each (N, ...)
# of each step: the number of clients that make it, which come first, and what writes the gradients of their stack
Steps = Iterator[tuple[int, Callable[[Stack], None]]]


class Stacked:
    """The clients of a group, in the order in which they end: those with most steps come first."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer_of: OptimizerOf,
        loss: Loss,
        passes: Passes,
        compiled: Mapped | None = None,
    ) -> None:
        self._model = model
        self._compiled = compiled
        self._optimizer_of = optimizer_of
        self._loss = loss
        self._passes = passes
        self._mapped = compiled or mapped(model)
        self._start = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]

    def train(self, clients: Sequence[Batches]) -> torch.Tensor:
        """Return what each client trains from the model's weights as they are now, float32, shape (N, D).

        The model's own parameters stay as they are.
        """
        order = _last_first([len(client) for client in clients])
        return self._trained(order, self._plain([clients[place] for place in order]))

    def train_by(self, steps: StackedSteps) -> torch.Tensor:
        """Return what each client trains by a mechanism's steps, float32, shape (N, D)."""
        order = _last_first(steps.lengths)
        rows_ND = self._trained(order, _of_mechanism(steps, order))
        steps.end()
        return rows_ND

    def _trained(self, order: Sequence[int], steps: Steps) -> torch.Tensor:
        if not self._model.training:
            self._model.train()
        start = self._start
        stack = [torch.nn.Parameter(value.expand(len(order), *value.shape).clone()) for value in start]
        rows_ND = torch.empty(len(order), sum(reals(value).numel() for value in start), device=start[0].device)
        optimizer = self._optimizer_of(stack)
        for going, fill in steps:
            if going < len(stack[0]):
                _write(rows_ND, order, stack, going)
                stack, optimizer = self._narrowed(stack, optimizer, going)
            clear_gradients(optimizer)
            fill(stack)
            optimizer.step()
        _write(rows_ND, order, stack)
        return rows_ND

    def _plain(self, clients: Sequence[Batches]) -> Steps:
        start = [value.clone() for value in self._start]
        for inputs, labels_NB, weights_NB in stacked_batches(clients):
            fill = partial(self._backward, start=start, inputs=inputs, labels_NB=labels_NB, weights_NB=weights_NB)
            yield len(labels_NB), fill

    def _narrowed(self, stack: Stack, optimizer: torch.optim.Optimizer, size: int) -> tuple[Stack, Any]:
        """Return the first clients of a stack, and an optimizer with their state."""
        kept = [torch.nn.Parameter(parameter.detach()[:size].clone()) for parameter in stack]
        narrowed = self._optimizer_of(kept)
        for old, new in zip(stack, kept, strict=True):
            narrowed.state[new] = {key: _first(value, old, size) for key, value in optimizer.state[old].items()}
        return kept, narrowed

    def _backward(
        self,
        stack: Stack,
        start: Sequence[torch.Tensor],
        inputs: torch.Tensor,
        labels_NB: torch.Tensor,
        weights_NB: torch.Tensor,
    ) -> None:
        """Add the gradients of one step: of the clients' mean losses, and of FedProx's term."""
        piece = self._passes.piece or labels_NB.shape[1]
        parts = zip(*(torch.split(one, piece, dim=1) for one in (inputs, labels_NB, weights_NB)), strict=True)
        for own, labels, weights in parts:
            outputs = self._outputs(stack, own)
            losses = self._loss(outputs.flatten(0, 1), labels.flatten(), reduction="none")
            (losses * weights.flatten()).sum().backward()
        if self._passes.proximal_mu:
            distances = [reals(now - then).square().sum() for now, then in zip(stack, start, strict=True)]
            (0.5 * self._passes.proximal_mu * torch.stack(distances).sum()).backward()  # type: ignore[no-untyped-call]

    def _outputs(self, stack: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the clients' models, (N, B, K)."""
        on_cpu = inputs.device.type == "cpu" and self._compiled is None
        mixed = torch.autocast(inputs.device.type, torch.bfloat16) if self._passes.mixed else nullcontext()
        with mixed, OfClients() if on_cpu else nullcontext():
            return self._mapped(tuple(stack), inputs)


def mapped(model: torch.nn.Module) -> Mapped:
    """Return the function that maps a model over its clients' parameters."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def call(parameters: tuple[torch.Tensor, ...], inputs: torch.Tensor) -> Any:
        return functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,))

    def each(stack: tuple[torch.Tensor, ...], inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = vmap(call, randomness="error")(stack, inputs)
        return outputs

    return each


def _last_first(lengths: Sequence[int]) -> list[int]:
    """Return the places of the clients, those with most steps first."""
    return sorted(range(len(lengths)), key=lambda place: -lengths[place])


def _of_mechanism(steps: StackedSteps, order: Sequence[int]) -> Steps:
    lengths = [steps.lengths[place] for place in order]
    for number in range(lengths[0]):
        going = order[: sum(length > number for length in lengths)]

        def fill(stack: Stack, going: Sequence[int] = going) -> None:
            for parameter, gradient in zip(stack, steps.gradients(going, stack), strict=True):
                parameter.grad = gradient

        yield len(going), fill


def _write(rows_ND: torch.Tensor, order: Sequence[int], stack: Stack, first: int = 0) -> None:
    """Write the parameters of a stack's clients, from `first` on, into their rows, as float32."""
    begin = 0
    for parameter in stack:
        values = reals(parameter.detach()).reshape(len(parameter), -1)
        end = begin + values.shape[1]
        for place in range(first, len(values)):
            rows_ND[order[place], begin:end] = values[place]
        begin = end


def _first(value: Any, parameter: torch.Tensor, size: int) -> Any:
    """Return the first clients' part of a value of an optimizer's state; it may be one for all, such as a counter."""
    is_stacked = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return value[:size].clone() if is_stacked else value


def stacked_batches(clients: Sequence[Batches]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield inputs (N, B, ...), labels (N, B) and weights (N, B) of each step, of the clients that make it.

    The clients with most steps come first. A weight is 1 / b of an example of a batch of b, and 0 of padding.
    """
    if not clients or not len(clients[0]):
        return
    data = clients[0].data
    device = clients[0].device
    all_indices = torch.cat([client.indices for client in clients])
    images = data.train.images[all_indices].to(device)
    labels = data.train.labels[all_indices].to(device)
    begins = [0, *accumulate(len(client.indices) for client in clients)]
    orders = [client.orders() for client in clients]
    for step in range(len(clients[0])):
        taking = sum(len(client) > step for client in clients)
        own = [next(orders[place]) + begins[place] for place in range(taking)]
        index_NB, weights_NB = _padded(own)
        index = index_NB.flatten().to(device)
        inputs = data.normalise(images[index])
        yield inputs.view(taking, -1, *inputs.shape[1:]), labels[index].view(taking, -1), weights_NB.to(device)


def _padded(batches: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batches' indices in one tensor (N, B), padded with the first of each, and the weights (N, B)."""
    counts_N = torch.tensor([len(batch) for batch in batches])
    largest = int(counts_N.max())
    rows = [batch if len(batch) == largest else _lengthened(batch, largest) for batch in batches]
    is_example_NB = torch.arange(largest) < counts_N[:, None]
    return torch.stack(rows), is_example_NB / counts_N[:, None]


def _lengthened(batch: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([batch, batch[:1].expand(length - len(batch))])
