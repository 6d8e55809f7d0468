import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data.image_data import ImageData, Split
from fl.training import local as training
from privacy.errors import ConfigError
from privacy.mechanisms.contract import ClientJob
from privacy.randomness import OsRandomness
from tests.composed import gradient_at, workspace_of

CPU = torch.device("cpu")
CLASSES = 5
PIXELS = 6


def numbered(count: int) -> ImageData:
    """Examples with their index as single pixel and label, not normalised."""
    split = Split(torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1), torch.arange(count))
    return ImageData("numbered", split, split, max(count, 1), 1, torch.zeros(1), torch.ones(1), None, "here")


def random_set(count: int, seed: int = 0) -> ImageData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 2, 3), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(0, CLASSES, (count,), generator=generator))
    return ImageData("random", split, split, CLASSES, 255, torch.tensor([0.5]), torch.tensor([0.3]), None, "here")


def batches_of(data: ImageData, size: int, seed: int = 3, epochs: int | None = None, steps: int | None = None):
    indices = torch.arange(len(data.train.labels))
    return training.Batches(data, indices, CPU, size, torch.Generator().manual_seed(seed), epochs, steps)


def labels(batches) -> list[list[int]]:
    return [labels_N.tolist() for _, labels_N in batches]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 4))
def test_an_epoch_shows_every_example_once(count, size, epochs):
    batches = batches_of(numbered(count), size, epochs=epochs)
    shown = labels(batches)
    assert len(shown) == len(batches) == epochs * math.ceil(count / size)
    per_epoch = len(shown) // epochs
    for epoch in range(epochs):
        part = shown[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(chain.from_iterable(part)) == list(range(count))
        assert [len(batch) for batch in part[:-1]] == [min(size, count)] * (per_epoch - 1)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 30))
def test_steps_are_counted(count, size, steps):
    batches = batches_of(numbered(count), size, steps=steps)
    shown = labels(batches)
    assert len(shown) == len(batches) == steps
    seen = Counter(chain.from_iterable(shown))
    whole_epochs = steps // math.ceil(count / size)
    assert all(whole_epochs <= seen[example] <= whole_epochs + 1 for example in range(count))


def test_each_epoch_has_an_order_of_its_own():
    shown = labels(batches_of(numbered(100), 100, epochs=3))
    assert len({tuple(epoch) for epoch in shown}) == 3
    assert list(range(100)) not in shown


def test_the_order_comes_from_the_generator_alone():
    torch.manual_seed(1)
    first = labels(batches_of(numbered(50), 7, epochs=2))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert labels(batches_of(numbered(50), 7, epochs=2)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert labels(batches_of(numbered(50), 7, seed=4, epochs=2)) != first


def test_inputs_belong_to_their_labels_and_only_to_the_clients_examples():
    data = numbered(20)
    batches = training.Batches(data, torch.tensor([3, 17, 5]), CPU, 2, torch.Generator(), epochs=1)
    shown = [(float(inputs), int(label)) for many, those in batches for inputs, label in zip(many, those, strict=True)]
    assert sorted(shown) == [(3, 3), (5, 5), (17, 17)]


@pytest.mark.parametrize("given", [{"epochs": 2}, {"steps": 3}])
def test_a_client_without_examples_comes_to_an_end(given):
    list(training.Batches(numbered(5), torch.zeros(0, dtype=torch.int64), CPU, 2, torch.Generator(), **given))


def job_of(data: ImageData, model: torch.nn.Module, lr: float, size: int, epochs: int, **options) -> ClientJob:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options)
    batches = batches_of(data, size, epochs=epochs)
    return ClientJob("client/0", 1, {}, OsRandomness(), len(data.train.labels), model, optimizer, batches)


def linear() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(PIXELS, CLASSES))


def flat(model: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().astype(np.float64)


@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("size", [8, 1000])
def test_training_is_that_of_a_loop_by_hand(mu, size):
    """SGD by hand in float64 on the gradient of softmax regression, plus mu (w - w0) for FedProx."""
    data = random_set(45)
    model = linear()
    lr = 0.2
    start_D = by_hand_D = flat(model)
    for inputs, those in batches_of(data, size, epochs=3):
        gradient_D = gradient_at(by_hand_D, inputs.reshape(len(those), -1).double().numpy(), those.numpy(), CLASSES)
        by_hand_D = by_hand_D - lr * (gradient_D + mu * (by_hand_D - start_D))
    training.train(job_of(data, model, lr, size, 3), training.Passes(mu))
    assert np.abs(flat(model) - by_hand_D).max() < 2e-6
    assert np.abs(flat(model) - start_D).max() > 0.05


def test_the_proximal_term_pulls_towards_the_start():
    distances = []
    for mu in (0.0, 1.0, 4.0):
        model = linear()
        start_D = flat(model)
        training.train(job_of(random_set(45), model, 0.2, 8, 5), training.Passes(mu))
        distances.append(np.linalg.norm(flat(model) - start_D))
    assert distances[0] > distances[1] > distances[2] > 0


def test_what_is_frozen_stays_and_is_no_part_of_the_proximal_term():
    model = linear()
    model[1].bias.requires_grad_(False)
    before = model[1].bias.clone()
    training.train(job_of(random_set(20), model, 0.2, 8, 1), training.Passes(0.5))
    assert torch.equal(model[1].bias, before)
    assert not torch.equal(model[1].weight, linear()[1].weight)


def test_the_model_trains_in_training_mode():
    model = torch.nn.Sequential(linear(), torch.nn.Dropout(0.5)).eval()
    modes = []
    model[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    training.train(job_of(random_set(20), model, 0.2, 8, 1))
    assert modes == [True] * 3


def test_gradients_of_an_earlier_client_do_not_count():
    model = linear()
    clean = linear()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    training.train(job_of(random_set(20), model, 0.2, 8, 1))
    training.train(job_of(random_set(20), clean, 0.2, 8, 1))
    assert np.array_equal(flat(model), flat(clean))


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"],
        ["training/schedule=step", "training.schedule.step_size=0"],
        ["training/schedule=step", "+training.schedule.stride=3"],
        ["training.schedule._target_=torch.optim.lr_scheduler.NoSuch"],
        ["+training.schedule.gamma=0.5"],
    ],
)
def test_a_schedule_that_cannot_work_is_told(overrides):
    overrides = [f"+{o}" if "schedule._target_" in o else o for o in overrides]
    with pytest.raises(ConfigError, match=r"^training\.schedule") as told:
        workspace_of(*overrides)
    assert "\n" not in str(told.value)
