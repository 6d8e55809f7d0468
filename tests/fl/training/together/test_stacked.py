"""Clients that train as one computation train what they train alone. The oracle is the plain loop of one client."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fl.data.image_data import ImageData, Split
from fl.models.plain import Cnn, CnnMcMahan, LeNet, Logistic, Mlp, ModerateCnn
from fl.training.local import ONE_PASS, Batches, Passes, train
from fl.training.loss import loss_of
from fl.training.together.stacked import Stacked
from fl.training.vectors import Layout
from privacy.mechanisms.contract import ClientJob, Loss
from privacy.randomness import SeededRandomness

CPU = torch.device("cpu")
SIZES = (7, 1, 18, 16, 0, 33)  # examples of each client: short batches, one example, none, three batches
SGD = partial(torch.optim.SGD, lr=0.1)


def data_of(shape: Sequence[int] = (1, 28, 28), count: int = sum(SIZES), classes: int = 10) -> ImageData:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(classes, (count,), generator=generator)
    split = Split(images, labels)
    channels = shape[0]
    return ImageData(
        "random", split, split, classes, 255, torch.full((channels,), 0.5), torch.full((channels,), 0.3), None, "here"
    )


def clients_of(
    data: ImageData,
    sizes: Sequence[int] = SIZES,
    batch_size: int = 16,
    epochs: int | None = 1,
    steps: int | None = None,
) -> list[Batches]:
    parts = torch.split(torch.arange(sum(sizes)), list(sizes))
    return [
        Batches(data, part, CPU, 16, torch.Generator().manual_seed(place), epochs, steps)
        for place, part in enumerate(parts)
    ]


def one_by_one(
    model: nn.Module,
    optimizer_of: Callable[..., torch.optim.Optimizer],
    clients: Sequence[Batches],
    loss: Loss = F.cross_entropy,
    passes: Passes = ONE_PASS,
) -> torch.Tensor:
    start_D = Layout(model).flatten()
    rows = []
    for batches in clients:
        Layout(model).load(start_D)
        optimizer = optimizer_of(list(model.parameters()))
        noise = SeededRandomness(1)
        train(ClientJob("client/0", 1, {}, noise, len(batches.indices), model, optimizer, batches, loss), passes)
        rows.append(Layout(model).flatten())
    Layout(model).load(start_D)
    return torch.stack(rows)


def assert_alike(model: nn.Module, rows_ND: torch.Tensor, alone_ND: torch.Tensor, apart: float = 1e-4) -> None:
    moved_N = (alone_ND - Layout(model).flatten()).norm(dim=1)
    gaps_N = (rows_ND - alone_ND).norm(dim=1)
    assert moved_N.max() > 1e-3
    assert (gaps_N <= apart * moved_N).all(), (gaps_N / moved_N).max()


@pytest.mark.parametrize(
    "optimizer_of",
    [
        SGD,
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, amsgrad=True),
        partial(torch.optim.Adagrad, lr=0.01, lr_decay=0.1),
        partial(torch.optim.Adadelta, lr=1.0),
        partial(torch.optim.Adamax, lr=0.01),
        partial(torch.optim.NAdam, lr=0.01),
        partial(torch.optim.RAdam, lr=0.01),
        partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
        partial(torch.optim.Rprop, lr=0.01),
        partial(torch.optim.ASGD, lr=0.1, t0=1),
    ],
    ids=lambda one: one.func.__name__,
)
@pytest.mark.parametrize("schedule", [{"epochs": 2}, {"epochs": None, "steps": 5}], ids=["epochs", "steps"])
def test_every_optimizer_steps_as_for_one_client(optimizer_of, schedule):
    """Clients end at different steps, so that the state of those that go on is carried over."""
    torch.manual_seed(0)
    model = Mlp((1, 28, 28), 10, units=12)
    sizes = SIZES if schedule["epochs"] else (7, 1, 18, 16, 33)  # nobody makes steps without examples
    data = data_of()
    rows_ND = Stacked(model, optimizer_of, F.cross_entropy, ONE_PASS).train(clients_of(data, sizes, **schedule))
    # the first step of some divides a gradient by its own size: where it is close to 0, rounding moves that
    assert_alike(model, rows_ND, one_by_one(model, optimizer_of, clients_of(data, sizes, **schedule)), apart=1e-3)


class Odd(nn.Module):
    """Uses of convolutions, poolings and linear layers that the models of the project do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding="same", bias=False)
        self.grouped = nn.Conv2d(6, 6, (3, 1), stride=(2, 1), dilation=2, groups=3)
        self.norm = nn.GroupNorm(3, 6)
        self.tied = nn.Linear(6, 6)
        self.frozen = nn.Conv2d(6, 6, 1)
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.last = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.gelu(self.first(x)), 3, stride=2, padding=1, ceil_mode=True)
        x = F.avg_pool2d(self.frozen(self.norm(self.grouped(x))), 2) * self.scale
        x = x.flatten(2).transpose(1, 2)  # (N, places, 6): a linear layer over a sequence
        x = torch.tanh(self.tied(torch.tanh(self.tied(x))))  # one layer, used twice
        return self.last(x.mean(dim=1))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Logistic, (1, 28, 28)),
        (Mlp, (1, 28, 28)),
        (Cnn, (1, 28, 28)),
        (Cnn, (3, 32, 32)),
        (LeNet, (3, 32, 32)),
        (CnnMcMahan, (1, 28, 28)),
        (lambda shape, classes: Odd(), (3, 16, 16)),
    ],
    ids=["logistic", "mlp", "cnn", "cnn of colours", "lenet", "cnn_mcmahan", "odd layers"],
)
def test_every_model_trains_as_for_one_client(make, shape):
    torch.manual_seed(0)
    model = make(shape, 10)
    frozen = [parameter.detach().clone() for parameter in model.parameters() if not parameter.requires_grad]
    data = data_of(shape)
    start_D = Layout(model).flatten()
    optimizer_of = partial(torch.optim.SGD, lr=0.02)
    rows_ND = Stacked(model, optimizer_of, F.cross_entropy, ONE_PASS).train(clients_of(data))
    assert torch.equal(Layout(model).flatten(), start_D), "the model itself stays as it is"
    assert_alike(model, rows_ND, one_by_one(model, optimizer_of, clients_of(data)))
    still = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert all(torch.equal(*pair) for pair in zip(frozen, still, strict=True))


@pytest.mark.parametrize(
    ("passes", "loss"),
    [
        (Passes(proximal_mu=0.5), F.cross_entropy),
        (Passes(piece=5), F.cross_entropy),
        (Passes(proximal_mu=2.0, piece=3), loss_of([1.0, 2.0, *[0.5] * 8], 0.1, 10, CPU)),
    ],
    ids=["FedProx", "in pieces", "all"],
)
def test_every_option_of_training_is_kept(passes, loss):
    torch.manual_seed(0)
    model = Mlp((1, 28, 28), 10, units=12)
    data = data_of()
    rows_ND = Stacked(model, SGD, loss, passes).train(clients_of(data, epochs=3))
    alone_ND = one_by_one(model, SGD, clients_of(data, epochs=3), loss, passes)
    assert_alike(model, rows_ND, alone_ND)
    otherwise_ND = one_by_one(model, SGD, clients_of(data, epochs=3))
    if passes.proximal_mu:
        assert (alone_ND - otherwise_ND).abs().max() > 1e-3, "the option changes something"


def test_in_mixed_precision_too():
    torch.manual_seed(0)
    model = Cnn((1, 28, 28), 10)
    data = data_of()
    passes = Passes(mixed=True)
    rows_ND = Stacked(model, SGD, F.cross_entropy, passes).train(clients_of(data))
    alone_ND = one_by_one(model, SGD, clients_of(data), passes=passes)
    exact_ND = one_by_one(model, SGD, clients_of(data))
    gaps_N = (rows_ND - exact_ND).norm(dim=1)
    allowed_N = (alone_ND - exact_ND).norm(dim=1)
    assert 1e-3 < gaps_N.max() < 2 * allowed_N.max(), "bfloat16 rounds, as it does for one client"


def test_nothing_of_a_client_is_in_the_weights_of_another():
    """The adversary is a client that chooses its examples: not a bit of the others' weights may follow them."""
    torch.manual_seed(0)
    model = Cnn((1, 28, 28), 10)
    data = data_of()
    stacked = Stacked(model, SGD, F.cross_entropy, ONE_PASS)
    rows_ND = stacked.train(clients_of(data))
    attacked = 2
    first, last = sum(SIZES[:attacked]), sum(SIZES[: attacked + 1])
    data.train.images[first:last] = 255 - data.train.images[first:last]
    data.train.labels[first:last] = (data.train.labels[first:last] + 1) % 10
    again_ND = stacked.train(clients_of(data))
    changed = [place for place in range(len(SIZES)) if not torch.equal(rows_ND[place], again_ND[place])]
    assert changed == [attacked]


def test_a_loss_that_is_not_finite_stays_with_its_client():
    torch.manual_seed(0)
    model = Mlp((1, 28, 28), 10, units=12)
    data = data_of()
    stacked = Stacked(model, partial(torch.optim.SGD, lr=1e30), F.cross_entropy, ONE_PASS)
    rows_ND = stacked.train(clients_of(data, epochs=3))
    assert not rows_ND[2].isfinite().all()
    assert torch.equal(rows_ND[4], Layout(model).flatten()), "a client without examples stays at the start"


def test_dropout_of_each_client_is_refused_and_not_shared():
    model = ModerateCnn((3, 32, 32), 10)
    with pytest.raises(RuntimeError, match="randomness"):
        Stacked(model, SGD, F.cross_entropy, ONE_PASS).train(clients_of(data_of((3, 32, 32))))
