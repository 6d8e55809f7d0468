"""The steps of a client: what is charged is what is done, Poisson sampling, and nothing left to the next client."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from scipy.stats import binom, binomtest, chi2, chisquare

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from privacy.randomness import OsRandomness, SeededRandomness
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    Examples,
    Scripted,
    examples_of,
    job_of,
    model_of,
    plan_of,
    steps_of,
    trained,
)


def numbered(count: int) -> Examples:
    """Examples with their index as input and label."""
    return Examples(torch.arange(count).reshape(-1, 1, 1, 1).float(), torch.arange(count))


ALL = slice(None)


def draws_of(count: int, randomness, **plan) -> list[list[int]]:
    """The drawn examples by step; an empty draw gives no batch, so it is missing."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, count))
    dp = DpSgd(1.0, max_physical_batch_size=10**9)
    job = job_of(model, numbered(count), randomness)
    dp.settle(plan_of(model, examples=(count,), random_examples=lambda count: numbered(count).take(ALL), **plan))
    dp.prepare(job)
    return [labels.tolist() for _, labels in job.batches]


@pytest.mark.parametrize(
    ("examples", "schedule", "rate", "steps"),
    [
        (26, {"steps": 5}, 1 / 4, 5),
        (26, {"epochs": 2, "steps": None}, 1 / 4, 8),
        (24, {"epochs": 3, "steps": None}, 1 / 3, 9),
        (26, {"epochs": 2, "steps": None, "batch_size": 100}, 1.0, 2),
        (26, {"epochs": 3, "steps": None, "sample_rate": 0.1}, 0.1, 30),
        (7, {"steps": 6, "sample_rate": 0.25}, 0.25, 6),
    ],
)
def test_what_is_charged_is_what_is_done(examples, schedule, rate, steps):
    model = model_of()
    source = Scripted()
    dp = DpSgd(1.0)
    trained(dp, job_of(model, examples_of(examples), source), plan_of(model, examples=(examples,), **schedule))
    assert len(source.draws) == steps
    charge = dp.charge(0)
    assert (charge.unit, charge.relation) == ("record", "add_remove")
    found = RdpAccountant()
    wanted = RdpAccountant()
    found.compose(charge.event)
    wanted.compose(steps_of(rate, steps))
    assert found.get_epsilon(1e-5) == pytest.approx(wanted.get_epsilon(1e-5), rel=1e-9)


def test_each_client_has_the_schedule_of_its_own_examples():
    model = model_of()
    source = Scripted()
    plan = plan_of(model, clients=2, examples=(26, 50), participations=(1, 1), epochs=1, steps=None)
    dp = DpSgd(1.0)
    job = job_of(model, examples_of(50), source)
    job.address = "client/1"
    trained(dp, job, plan)
    assert len(source.draws) == 7
    assert dp.charge(0).event != dp.charge(1).event


COUNT = 200
RATE = 0.1
STEPS = 2000


@pytest.mark.parametrize("randomness", [OsRandomness(), SeededRandomness("sampling")], ids=["os", "seeded"])
def test_inclusion_is_poisson(randomness):
    """Each example at each step by itself. False alarms of the system's source: five in a million runs."""
    shown = draws_of(COUNT, randomness, sample_rate=RATE, steps=STEPS)
    assert len(shown) == STEPS  # an empty draw from 200 happens once in a billion steps
    drawn_TN = np.zeros((STEPS, COUNT))
    for step, index in enumerate(shown):
        assert len(set(index)) == len(index)
        drawn_TN[step, index] = 1
    often_N = drawn_TN.sum(0)
    spread = ((often_N - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE))
    assert 1e-6 < chi2(COUNT).cdf(spread) < 1 - 1e-6
    edges = [0, 13, 15, 17, 19, 21, 23, 25, 28, COUNT + 1]
    sizes, _ = np.histogram(drawn_TN.sum(1), edges)
    wanted = np.diff(binom(COUNT, RATE).cdf(np.array(edges) - 1)) * STEPS
    assert chisquare(sizes, wanted).pvalue > 1e-6
    again = int((drawn_TN[1:] * drawn_TN[:-1]).sum())
    assert binomtest(again, (STEPS - 1) * COUNT, RATE**2).pvalue > 1e-6
    together = int((drawn_TN[:, 1:] * drawn_TN[:, :-1]).sum())
    assert binomtest(together, STEPS * (COUNT - 1), RATE**2).pvalue > 1e-6


def test_pieces_hold_the_draw_and_fit_into_memory():
    model = model_of()
    seen = []
    dp = DpSgd(1.0, max_physical_batch_size=3)
    job = job_of(model, numbered(26), Scripted())
    dp.settle(plan_of(model, steps=1, batch_size=26))
    dp.prepare(job)
    for _, labels in job.batches:
        assert 1 <= len(labels) <= 3
        seen += labels.tolist()
    assert seen == list(range(26))


@pytest.mark.parametrize("mode", MODES)
def test_the_model_that_was_given_stays_as_it_was(mode):
    model = model_of("cnn")
    examples = examples_of()
    state = deepcopy(model.state_dict())
    logits = model(examples.inputs).detach()
    job = job_of(model, examples, SeededRandomness(1))
    update_D = trained(DpSgd(1.0, mode=mode), job)
    assert update_D.abs().max() > 0
    assert job.model is not model
    assert all(torch.equal(state[name], entry) for name, entry in model.state_dict().items())
    assert torch.equal(model(examples.inputs), logits)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, name) for module in model.modules() for name in hooks)
    ours = {"grad_sample", "summed_grad", "_forward_counter", "_norm_sample"}
    assert not any(ours & set(vars(parameter)) or parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("mode", "clipping"), [*((mode, "flat") for mode in MODES), ("ew", "per_layer"), ("ew", "adaptive")]
)
def test_a_client_leaves_nothing_to_the_next_one(mode, clipping):
    shared = DpSgd(1.0, clip=0.5, clipping=clipping, mode=mode)
    updates = []
    model = model_of()
    for dp in (shared, shared, DpSgd(1.0, clip=0.5, clipping=clipping, mode=mode)):
        job = job_of(model, examples_of(), SeededRandomness(len(updates) > 0), momentum=0.9)
        updates.append(trained(dp, job))
        with torch.no_grad():  # the weights that the next one is given; the last two get the same
            model[1].bias.fill_(0.5)
    assert not torch.equal(updates[0], updates[1])
    assert torch.equal(updates[1], updates[2])


def test_momentum_is_kept_within_a_clients_steps():
    """Three steps of the same noise g give g + 3/2 g + 7/4 g under SGD with momentum 1/2."""
    model = model_of()
    plan = plan_of(model, steps=3, sample_rate=1e-12)
    job = job_of(model, examples_of(), Scripted(1.0), momentum=0.5)
    found_D = trained(DpSgd(1.5, clip=0.8), job, plan)
    assert found_D.numpy() == pytest.approx(-0.5 * 4.25 * 1.5 * 0.8 / 8, rel=1e-5)
