"""The map of sensitivities against central differences, and in a run that encrypts by it."""

import numpy as np
import pytest
import torch

from fl.training.sensitivity import EXAMPLES, sensitivity
from fl.training.vectors import Layout


class Examples:
    """Examples taken by index."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs
        self.taken = []

    def __iter__(self):
        raise AssertionError("the batches of training are not touched")

    def take(self, index: torch.Tensor):
        self.taken += index.tolist()
        return self.inputs[index], torch.zeros(len(index), dtype=torch.int64)


class Small(torch.nn.Module):
    """A trained layer, a frozen one, and a buffer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.register_buffer("scale", torch.full((2,), 0.5))
        self.frozen = torch.nn.Linear(4, 5).requires_grad_(False)

    def forward(self, x):
        return self.frozen(torch.tanh(self.first(x))) * self.scale[0]


def by_differences(model: torch.nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """The mean over examples of the norm over classes of the change of log p, by value of the first layer."""
    step = 1e-4
    found = []
    with torch.no_grad():
        for parameter in (model.first.weight, model.first.bias):
            flat = parameter.view(-1)
            for index in range(len(flat)):
                logs = []
                for sign in (1, -1):
                    flat[index] += sign * step
                    logs.append(torch.log_softmax(model(inputs), dim=1))
                    flat[index] -= sign * step
                found.append(((logs[0] - logs[1]) / (2 * step)).norm(dim=1).mean().item())
    return np.array(found)


def test_the_map_is_that_of_differences():
    torch.manual_seed(3)
    model = Small().double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    found = sensitivity(model, Layout(model, ("scale",)), Examples(inputs), 5).numpy()
    expected = by_differences(model, inputs)
    assert np.allclose(found[:-2], expected / expected.max(), atol=1e-6)
    assert found.max() == pytest.approx(1)
    assert not found[-2:].any()


def test_few_examples_are_enough_and_none_is_zero():
    model = Small()
    examples = Examples(torch.randn(100, 3))
    sensitivity(model, Layout(model), examples, 100)
    assert examples.taken == list(range(EXAMPLES))
    assert not sensitivity(model, Layout(model), examples, 0).any()
    assert not any(parameter.grad is not None for parameter in model.parameters())
