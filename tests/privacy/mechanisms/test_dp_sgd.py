"""The mechanism around the steps: schedule, sampling, isolation, refusals, solving, and whole runs."""

import math
import re
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.stats import binom, binomtest, chi2, chisquare

from privacy.errors import ConfigError, PrivacyRefusal
from privacy.mechanisms.contract import Batch, ClientJob, Mechanism
from privacy.mechanisms.dp_sgd import MODES, DpSgd
from privacy.randomness import OsRandomness, SeededRandomness
from tests.composed import examples_of as digits_of
from tests.composed import gradient_at, run, workspace_of
from tests.fl.test_participant import vector_of
from tests.privacy.mechanisms.test_dp_sgd_optimizers import (
    Examples,
    Scripted,
    examples_of,
    job_of,
    model_of,
    plan_of,
    trained,
)

SEEDED = ("mechanism=dp_sgd", "noise=seeded")


def numbered(count: int) -> Examples:
    """Examples with their index as input and label."""
    return Examples(torch.arange(count).reshape(-1, 1, 1, 1).float(), torch.arange(count))


def draws_of(count: int, randomness, **plan) -> list[list[int]]:
    """The drawn examples by step; an empty draw gives no batch, so it is missing."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 1))
    dp = DpSgd(1.0, max_physical_batch_size=10**9)
    job = job_of(model, numbered(count), randomness)
    dp.settle(plan_of(model, examples=(count,), **plan))
    dp.prepare(job)
    return [labels.tolist() for _, labels in job.batches]


def steps_of(rate: float, steps: int, sigma: float = 1.0) -> DpEvent:
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)


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


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "noise_multiplier=None: give it or target_epsilon"),
        ({"noise_multiplier": 1.0, "target_epsilon": 3.0}, "noise_multiplier=1.0: target_epsilon=3.0 is given as"),
        ({"target_epsilon": 0.0}, "target_epsilon=0.0: must be a finite number above 0"),
        ({"target_epsilon": -1.0}, "target_epsilon=-1.0: must be a finite number above 0"),
        ({"target_epsilon": math.nan}, "target_epsilon=nan: must be a finite number above 0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0: must be a finite number above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0: must be a finite number above 0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier=inf: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "clip": 0.0}, "clip=0.0: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "clip": math.nan}, "clip=nan: must be a finite number above 0"),
        ({"noise_multiplier": 1.0, "mode": "fast"}, "mode=fast: allowed are auto, hooks, ew, functorch, ghost"),
        ({"noise_multiplier": 1.0, "clipping": "soft"}, "clipping=soft: allowed are flat, per_layer, adaptive"),
        ({"noise_multiplier": 1.0, "mode": "ghost", "clipping": "per_layer"}, "clipping=per_layer: mode=ghost clips"),
        ({"noise_multiplier": 1.0, "mode": "ghost", "clipping": "adaptive"}, "clipping=adaptive: mode=ghost clips"),
        ({"noise_multiplier": 1.0, "max_physical_batch_size": 0}, "max_physical_batch_size=0: at least 1"),
        ({"noise_multiplier": 1.0, "min_clip": 2.0, "max_clip": 2.0}, "max_clip=2.0: must be above min_clip=2.0"),
        ({"noise_multiplier": 1.0, "clip_learning_rate": -0.1}, "clip_learning_rate=-0.1: must be a finite number"),
    ],
)
def test_a_parameter_out_of_range_is_refused(options, line):
    with pytest.raises(ConfigError, match=re.escape(f"mechanism.dp_sgd.{line}")) as refusal:
        DpSgd(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_clip", math.nan),
        ("target_unclipped_quantile", math.nan),
        ("target_unclipped_quantile", 1.5),
        ("unclipped_noise_fraction", math.nan),
        ("unclipped_noise_fraction", -1.0),
    ],
)
def test_a_parameter_of_adaptive_clipping_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"mechanism.dp_sgd.{key}={value}"):
        DpSgd(1.0, clipping="adaptive", **{key: value})


BATCH_NORM = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: .*weighting=uniform.*public_weights=true"),
        ({"proximal": True}, "training.proximal_mu=above 0: .*set it to 0"),
        ({"delta": 1 / 26}, "delta=0.038.*must be below 1/records = 0.038"),
        ({"delta": 0.5}, "delta=0.5: must be below 1/records = 0.038"),
        ({"model": BATCH_NORM}, "model=Sequential: .*BatchNorm.*GroupNorm takes its place"),
    ],
)
def test_a_plan_that_cannot_keep_the_promise_is_refused(changes, line):
    with pytest.raises(ConfigError, match=line) as refusal:
        DpSgd(1.0).settle(plan_of(**{"model": model_of()} | changes))
    assert "\n" not in str(refusal.value)


def test_public_weights_may_be_unequal():
    DpSgd(1.0).settle(plan_of(model_of(), uniform_weights=False, public_weights=True))


def test_an_epsilon_out_of_reach_is_refused():
    with pytest.raises(ConfigError, match="epsilon"):
        DpSgd(target_epsilon=1e-9).settle(plan_of(model_of(), sample_rate=1.0))


CLIENTS = {"clients": 4, "cohort_size": 3, "rounds": 4, "examples": (60, 400, 1500, 0), "batch_size": 32}


@pytest.mark.parametrize(
    ("accountant", "target", "changes", "schedules"),
    [
        (
            "prv",
            3.0,
            {"participations": (3, 4, 1, 0), "epochs": 2, "steps": None},
            [(1 / 2, 12), (1 / 13, 104), (1 / 47, 94)],
        ),
        ("pld", 1.0, {"participations": (1, 2, 4, 0), "steps": 10}, [(1 / 2, 10), (1 / 13, 20), (1 / 47, 40)]),
        ("prv", 8.0, {"participations": (4, 1, 1, 0), "steps": 5, "sample_rate": 0.2}, [(0.2, 20), (0.2, 5), (0.2, 5)]),
    ],
)
def test_the_solved_noise_keeps_every_client_within_the_target(accountant, target, changes, schedules, caplog):
    """Epsilon by another library's privacy loss distributions, over the schedules as a reader would count them."""
    dp = DpSgd(target_epsilon=target)
    with caplog.at_level("INFO", logger="fedveil"):
        dp.settle(plan_of(model_of(), accountant=accountant, **CLIENTS | changes))
    paid = []
    for rate, steps in schedules:
        loss = PLDAccountant(value_discretization_interval=1e-3)
        loss.compose(steps_of(rate, steps, dp.noise_multiplier))
        paid.append(loss.get_epsilon(1e-5))
    assert max(paid) <= target + 0.02
    assert max(paid) >= 0.95 * target
    assert f"noise_multiplier={dp.noise_multiplier:.4f} for epsilon={target:g}" in caplog.text


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_is_the_models_state_in_its_order(mode):
    """All examples drawn, no clipping, negligible noise: plain gradient descent, computed by hand."""
    options = ("noise_multiplier=1e-9", "clip=1e3", f"mode={mode}")
    work = workspace_of(*SEEDED, *(f"mechanism.dp_sgd.{one}" for one in options), "training.batch_size=10000")
    vector = vector_of(work, 1)
    gradient_D = gradient_at(work.initial_D.numpy().astype(np.float64), *digits_of(work, work.plan.partitions[1]))
    assert vector[-1] == 1
    assert np.abs(vector[:-1] + 0.05 * gradient_D).max() < 1e-6


def test_clients_and_rounds_have_noise_of_their_own():
    work = workspace_of(*SEEDED, "training.sample_rate=1e-12", "training.epochs=null", "training.steps=1")
    again = workspace_of(*SEEDED, "training.sample_rate=1e-12", "training.epochs=null", "training.steps=1")
    noise_ND = np.stack([vector_of(work, client, round_)[:-1] for client in (0, 1) for round_ in (1, 2)])
    assert np.array_equal(vector_of(again, 1, 2)[:-1], noise_ND[3])
    assert np.abs(np.corrcoef(noise_ND) - np.eye(4)).max() < 6 / math.sqrt(650)


@pytest.mark.parametrize("overrides", [(f"mechanism.dp_sgd.mode={mode}",) for mode in MODES])
def test_a_run_is_reproducible_where_its_noise_is_seeded(tmp_path, overrides):
    first, second = (run(tmp_path / name, *SEEDED, *overrides) for name in ("first", "second"))
    assert first.round == 2
    assert torch.isfinite(first.weights_D).all()
    assert torch.equal(first.weights_D, second.weights_D)


def test_another_seed_gives_another_run(tmp_path):
    first, other = (run(tmp_path / seed, *SEEDED, f"seed={seed}") for seed in "12")
    assert not torch.equal(first.weights_D, other.weights_D)


def test_a_run_with_the_systems_noise_is_not_reproducible(tmp_path):
    first, second = (run(tmp_path / name, "mechanism=dp_sgd", "noise=os") for name in ("a", "b"))
    assert not torch.equal(first.weights_D, second.weights_D)


def test_a_run_of_noise_solved_for_epsilon(tmp_path):
    target = ("mechanism.dp_sgd.noise_multiplier=null", "mechanism.dp_sgd.target_epsilon=3")
    assert run(tmp_path, *SEEDED, *target, "accountant=rdp").round == 2


class Broken(Mechanism):
    """A mechanism that spoils one client's inputs, so that its gradients and its update are not finite."""

    name = "broken"

    def prepare(self, job: ClientJob) -> None:
        if job.address == "client/1":
            job.batches = self._spoilt(job.batches)

    def _spoilt(self, batches) -> Iterator[Batch]:
        return ((inputs * math.nan, labels) for inputs, labels in batches)


@pytest.mark.parametrize("mode", MODES)
def test_an_update_that_is_not_finite_is_left_out_with_its_reason(tmp_path, caplog, mode):
    broken = f"+mechanism.broken._target_={Broken.__module__}.Broken"
    state = run(tmp_path / "run", *SEEDED, broken, f"mechanism.dp_sgd.mode={mode}")
    assert torch.isfinite(state.weights_D).all()
    assert re.search(r"client/1 is left out at stage collect: .*NaN", caplog.text)
    with pytest.raises(PrivacyRefusal, match="3 contributors are left of 4, 4 are needed; client/1 dropped out"):
        run(tmp_path / "all", *SEEDED, broken, f"mechanism.dp_sgd.mode={mode}", "server.min_contributors=4")


@pytest.mark.parametrize(("model", "mode"), [("cnn", "ew"), ("mlp", "ghost"), ("logistic", "ghost")])
def test_the_default_mode_is_the_one_that_was_measured_fastest(model, mode):
    dp = DpSgd(1.0)
    dp.settle(plan_of(model_of(model)))
    assert dp.mode == mode
    per_layer = DpSgd(1.0, clipping="per_layer")  # ghost mode does not support it
    per_layer.settle(plan_of(model_of(model)))
    assert per_layer.mode == "ew"
