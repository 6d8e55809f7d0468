import hashlib
import struct
from copy import deepcopy

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.hydra.error_lines import CONFIGS
from fl.training import vectors
from tests.scenery.paths import some

MODELS = [path.stem for path in some((CONFIGS / "model").glob("*.yaml"))]


def shape_of(name: str) -> tuple[int, int, int]:
    return (243, 8, 8) if name.startswith("scatter") else (3, 32, 32)


def model_of(name: str) -> torch.nn.Module:
    node = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
    return instantiate(node.get("model", node), shape=shape_of(name), classes=10)


class Mixed(torch.nn.Module):
    """Entries of every kind: parameters, frozen ones, buffers, integers, bools, other precisions, odd strides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)  # two buffers of floats and a counter
        self.wide = torch.nn.Parameter(torch.randn(2, 5, dtype=torch.float64))
        self.frozen = torch.nn.Parameter(torch.randn(4), requires_grad=False)
        self.turned = torch.nn.Parameter(torch.randn(3, 4).t())
        self.scalar = torch.nn.Parameter(torch.tensor(1.5))
        self.empty = torch.nn.Parameter(torch.zeros(0, 7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("steps", torch.tensor([7, 8, 9]))
        self.register_buffer("rough", torch.randn(6).half())


MOVING = ("norm.running_mean", "norm.running_var")
TRAINED = 10 + 12 + 1 + 0 + 3 + 3
FLOATS = TRAINED + 3 + 3


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_for_bit(name):
    torch.manual_seed(1)
    # without dropout
    model = model_of(name).eval()
    other = model_of(name).eval()
    flat_D = vectors.flatten(model)
    assert flat_D.shape == (vectors.Layout(model).length,) == (sum(p.numel() for p in model.parameters()),)
    assert flat_D.dtype == torch.float32
    vectors.load(other, flat_D)
    for (key, one), (key2, two) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert key == key2
        assert torch.equal(one, two)
    images = torch.rand(2, *shape_of(name))
    assert torch.equal(model(images), other(images))


def test_the_order_is_that_of_the_state():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    vectors.load(model, torch.arange(9.0))
    assert model[0].weight.tolist() == [[0, 1], [2, 3]]
    assert model[0].bias.tolist() == [4, 5]
    assert model[1].weight.tolist() == [[6, 7]]
    assert model[1].bias.tolist() == [8]
    assert vectors.flatten(model).tolist() == list(range(9))


def test_what_is_trained_counts_and_all_else_stays():
    model = Mixed()
    layout = vectors.Layout(model, MOVING)
    assert layout.length == FLOATS == len(layout.flatten())
    assert layout.trained == TRAINED == vectors.Layout(model).length
    others = ("mask", "steps", "norm.num_batches_tracked", "frozen", "rough")
    before = {key: entry.clone() for key, entry in model.state_dict().items() if key in others}
    wanted_D = torch.linspace(1, 2, FLOATS)
    layout.load(wanted_D)
    assert torch.equal(layout.flatten(), wanted_D)
    for key in others:
        assert torch.equal(model.state_dict()[key], before[key])
    assert model.wide.dtype == torch.float64
    assert torch.cat([model.norm.running_mean, model.norm.running_var]).tolist() == wanted_D[-6:].tolist()


def test_a_variance_below_zero_is_none():
    model = Mixed()
    layout = vectors.Layout(model, MOVING)
    layout.load(torch.full((FLOATS,), -1e-7))
    assert model.norm.running_var.tolist() == [0, 0, 0]
    assert model.norm.running_mean.tolist() == pytest.approx([-1e-7] * 3)


def test_a_complex_value_is_a_pair_of_real_ones():
    model = torch.nn.Module()
    model.turn = torch.nn.Parameter(torch.tensor([[1 + 2j, 3 - 4j]]))
    model.shift = torch.nn.Parameter(torch.tensor([5.0]))
    assert vectors.flatten(model).tolist() == [1, 2, 3, -4, 5]
    vectors.load(model, torch.arange(5.0))
    assert model.turn.tolist() == [[0 + 1j, 2 + 3j]]
    assert model.shift.tolist() == [4]
    assert model.turn.requires_grad
    assert model.turn.is_leaf


def test_a_tied_parameter_counts_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    vectors.pool(model)
    vectors.load(model, torch.arange(9.0))
    assert vectors.flatten(model).tolist() == list(range(9))
    assert model[1].weight is model[0].weight


def test_a_buffer_that_a_layer_replaced_is_found():
    model = Mixed()
    vectors.pool(model, MOVING)
    layout = vectors.Layout(model, MOVING)
    assert layout.current
    model.norm.running_mean = torch.full((3,), 7.0)
    assert not layout.current
    assert vectors.Layout(model, MOVING).flatten()[-6:-3].tolist() == [7, 7, 7]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_length_is_no_model(change):
    model = Mixed()
    with pytest.raises((RuntimeError, ValueError)):
        vectors.load(model, torch.zeros(TRAINED + change))


def test_a_flat_vector_is_a_copy():
    model = torch.nn.Linear(3, 1, bias=False)  # a single entry, so that a view would do
    flat_D = vectors.flatten(model).detach()
    before = model.weight.detach().clone()
    flat_D += 1
    assert torch.equal(model.weight, before)
    vectors.load(model, flat_D)
    flat_D += 1
    assert torch.equal(model.weight, before + 1)


def test_loading_leaves_gradients_alone():
    model = torch.nn.Linear(2, 1)
    vectors.load(model, torch.zeros(3))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None


def test_the_hash_is_that_of_the_little_endian_float32_bytes():
    values = [0.0, 1.0, -2.5, 3.4028234663852886e38, 1e-45]
    expected = hashlib.sha256(struct.pack("<5f", *values)).hexdigest()
    assert vectors.sha256(torch.tensor(values)) == expected
    assert vectors.sha256(torch.tensor(values).repeat_interleave(2)[::2]) == expected  # strides do not matter
    assert vectors.sha256(torch.nn.Parameter(torch.tensor(values))) == expected


@pytest.mark.parametrize("position", [0, 499, 999])
def test_the_hash_tells_one_unit_in_the_last_place(position):
    vector_D = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    moved_D = vector_D.clone()
    moved_D[position] = float(np.nextafter(np.float32(vector_D[position]), np.float32(np.inf)))
    assert torch.allclose(vector_D, moved_D)
    assert vectors.sha256(vector_D) != vectors.sha256(moved_D)


def test_the_hash_tells_zero_from_minus_zero():
    assert vectors.sha256(torch.tensor([0.0])) != vectors.sha256(torch.tensor([-0.0]))


@pytest.mark.parametrize("layer", [0, 2])
def test_what_replaced_a_layer_counts(layer):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    before_D = vectors.flatten(model)
    model[layer] = torch.nn.Linear(2, 2)
    after_D = torch.cat([entry.reshape(-1) for entry in model.state_dict().values()])
    assert torch.equal(vectors.flatten(model), after_D)
    vectors.load(model, before_D)
    assert torch.equal(torch.cat([entry.reshape(-1) for entry in model.state_dict().values()]), before_D)


def test_a_model_that_was_converted_counts_as_it_is_now():
    model = torch.nn.Linear(2, 2)
    flat_D = vectors.flatten(model)
    model.double()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.allclose(vectors.flatten(model)[:4], flat_D[:4] + 1)
    vectors.load(model, torch.zeros(6))
    assert model.weight.tolist() == [[0, 0], [0, 0]]


def test_a_copy_of_a_model_is_a_model_of_its_own():
    model = torch.nn.Linear(2, 2)
    before_D = vectors.flatten(model)
    copied = deepcopy(model)
    vectors.load(copied, before_D + 1)
    assert torch.equal(vectors.flatten(model), before_D)
    assert torch.equal(vectors.flatten(copied), before_D + 1)
