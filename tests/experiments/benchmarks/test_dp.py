"""The race of private clients trained together computes what it times, and states its bars."""

import torch
from torch.nn.functional import cross_entropy

from experiments.benchmarks import dp
from experiments.benchmarks.dp_together import CLIENTS, raced
from fl.training.together.stacked import Stacked


def test_the_figures_of_clients_together_state_their_bars(monkeypatch):
    trained = []
    honest = Stacked._trained

    def counted(stacked, order, steps):
        trained.append(len(order))
        return honest(stacked, order, steps)

    monkeypatch.setattr(Stacked, "_trained", counted)
    threads = torch.get_num_threads()
    try:
        figures = {figure.name: figure for figure in dp.together_figures(batch=8, times=1)}
    finally:
        torch.set_num_threads(threads)
    bars = [figure.bar for figure in figures.values() if figure.bar]
    assert bars == ["<= 1.4", "<= 0.75", "<= 1.6"]
    assert all(figure.value > 0 for figure in figures.values())
    assert sum(trained) == 2 * CLIENTS * 4, "both cohorts: three times for the peak, once for the time"


def test_a_race_measures_each_work_in_turn():
    order = []
    times = raced({"one": lambda: order.append(1), "two": lambda: order.append(2)}, 2, lambda work: work() or 7.0)
    assert order == [1, 1, 1, 2, 2, 2, 1, 2, 1, 2]
    assert times.peaks == {"one": 7.0, "two": 7.0}


def test_the_private_step_trains_on_the_whole_batch():
    """Without noise and with a clip that no example reaches, it is the step of the plain sum."""
    torch.manual_seed(0)
    batch = torch.randn(8, 1, 28, 28), torch.randint(10, (8,))
    model = dp._model("cnn", (1, 28, 28), 10)
    wanted = torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), list(model.parameters()))
    mechanism = dp.DpSgd(noise_multiplier=1e-9, clip=1e6)
    mechanism.settle(dp._plan(model, 8, dp.partial(dp._random, batch)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    job = dp.ClientJob("client/0", 1, {}, dp.SeededRandomness(1), 8, model, optimizer, dp._One(batch))
    stack = [own.detach()[None] for own in model.parameters()]
    found = mechanism.stacked([job]).gradients([0], stack)
    assert all((one[0] - other).abs().max() < 1e-3 for one, other in zip(found, wanted, strict=True))
