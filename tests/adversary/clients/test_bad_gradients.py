"""One example or one client whose gradient is not finite, or huge, adds no more than the clip and ends no run.

The adversary is the server: it chooses the weights, and so the gradients of an example that it suspects. If a sum
turned into NaN, a run ended or a vector grew beyond the clip, it would know that the example is there. Oracles are in
float64, one example at a time. D values of the model, B examples.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.metering import Phases
from fl.participant import contribution
from privacy.mechanisms.client_dp import ClientDp
from privacy.mechanisms.contract import Mechanism
from privacy.mechanisms.distributed_dp import DistributedDp
from privacy.mechanisms.dp_ftrl import DpFtrl
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_ghost import Ghost, GhostLoss, GhostModule
from privacy.mechanisms.dp_sgd_modes import MODES
from privacy.mechanisms.dp_sgd_optimizers import Flat, PerLayer
from privacy.mechanisms.local_dp import LocalDp
from privacy.mechanisms.party_dp import PartyDp
from privacy.noise.parties import PartyNoise
from tests.composed import request_of, rows_in, run, vector_of, workspace_of
from tests.privacy.mechanisms import client_jobs
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    CLASSES,
    CLIPPINGS,
    EVERYBODY,
    IMAGE,
    LR,
    N,
    Scripted,
    assert_close,
    drawn,
    examples_of,
    flat,
    flat_clip,
    job_of,
    microbatches,
    model_of,
    norms,
    plan_of,
    trained,
)

CLIP = 0.7
BAD = 5  # the example that the server suspects
EVERYBODY_ELSE = np.where(np.arange(N) == BAD, 1.0, 0.0)


def step_with(value: float, mode: str, clipping: str, draw, name: str = "mlp"):
    """The update of one step without noise, in which one example's pixels hold a value, and its diagnostics."""
    model = model_of(name)
    examples = examples_of()
    examples.inputs[BAD, 0, 3] = value
    job = job_of(model, examples, Scripted(0.0, [draw]))
    dp = DpSgd(1.0, clip=CLIP, clipping=clipping, mode=mode)
    return trained(dp, job, plan_of(model, steps=1, batch_size=N)), job.diagnostics


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_example_whose_gradient_is_not_finite_adds_zero_and_is_counted(value, mode, clipping, name):
    with_it_D, told = step_with(value, mode, clipping, EVERYBODY, name)
    without_D, _ = step_with(value, mode, clipping, EVERYBODY_ELSE, name)
    assert_close(with_it_D, without_D, 1e-6)
    assert told["dp_sgd.not_finite"] == 1


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
@pytest.mark.parametrize("value", [1e10, 1e25, 3e38])
def test_an_example_with_a_huge_gradient_adds_no_more_than_the_clip(value, mode, clipping):
    """Squares of 1e25 overflow float32. The sum of the others, in float32, rounds by far less than 1e-5 of the clip."""
    with_it_D, _ = step_with(value, mode, clipping, EVERYBODY)
    without_D, _ = step_with(value, mode, clipping, EVERYBODY_ELSE)
    assert torch.isfinite(with_it_D).all()
    assert float((with_it_D - without_D).double().norm()) <= LR * CLIP / N * (1 + 1e-5)


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_a_draw_of_nothing_but_bad_examples_is_a_step_of_noise_alone(mode, clipping):
    found_D, told = step_with(math.nan, mode, clipping, drawn(BAD))
    assert found_D.abs().max() == 0
    assert told["dp_sgd.not_finite"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_other_examples_keep_the_gradients_of_a_microbatch_loop(mode):
    """With the bad example in the middle of a piece, and with others of all norms around it."""
    model = model_of("mlp")
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    wanted_D = microbatches(model, examples, [EVERYBODY_ELSE], flat_clip(bound), 1.0, N)
    examples.inputs[BAD] = math.nan
    job = job_of(model, examples, Scripted(0.0, [EVERYBODY]))
    dp = DpSgd(1.0, clip=bound, mode=mode, max_physical_batch_size=7)
    assert_close(trained(dp, job, plan_of(model, steps=1, batch_size=N)), wanted_D)


# the clip, at the precision of the gradients


def optimizer_of(kind, gradients_of: list[torch.Tensor], clip: float):
    """An optimizer of one of the kinds, whose parameters have the gradients of single examples, (B, ...)."""
    parameters = [torch.nn.Parameter(torch.zeros(sample.shape[1:], dtype=sample.dtype)) for sample in gradients_of]
    bound = clip if kind is Flat else [clip / math.sqrt(len(parameters))] * len(parameters)
    inner = torch.optim.SGD(parameters, lr=1.0)
    optimizer = kind(inner, noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=1)
    optimizer.source = np.random.default_rng(0)
    for parameter, sample in zip(parameters, gradients_of, strict=True):
        parameter.grad_sample = sample
    return optimizer


def summed(optimizer) -> torch.Tensor:
    optimizer.clip_and_accumulate()
    return flat(parameter.summed_grad for parameter in optimizer.params)


@pytest.mark.parametrize("kind", [Flat, PerLayer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@given(client_jobs.updates(), client_jobs.updates(300), client_jobs.BOUNDS)
@settings(max_examples=60, deadline=None)
def test_a_clipped_gradient_is_never_longer_than_the_clip(kind, dtype, first, second, clip):
    found_D = summed(optimizer_of(kind, [first[None].to(dtype), second[None].to(dtype)], clip))
    assert client_jobs.exact_norm(found_D) <= clip
    whole_D = torch.cat([first, second]).to(dtype).double()
    norm = client_jobs.exact_norm(whole_D)
    if kind is Flat and norm < 1e30:  # and no shorter than rounding asks for; beyond, the factor loses digits
        assert client_jobs.exact_norm(found_D) >= min(norm, clip) * (1 - 3e-5) - 1e-38


@pytest.mark.parametrize("kind", [Flat, PerLayer])
@given(st.lists(st.sampled_from([0.0, 1.0, -2.0, 1e30, 3e38, math.nan, math.inf, -math.inf]), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None)
def test_an_example_adds_a_bounded_vector_whatever_it_is(kind, values):
    """Two examples of three values in two layers, the second of which is good."""
    bad = torch.tensor(values)
    rows = [
        torch.stack([bad[:2], torch.tensor([3.0, 4.0])]),
        torch.stack([bad[2:], torch.tensor([1.0, 0.0, 0.0, 1.0])]),
    ]
    both_D = summed(optimizer_of(kind, rows, CLIP)).double()
    good_D = summed(optimizer_of(kind, [row[1:] for row in rows], CLIP)).double()
    assert float((both_D - good_D).norm()) <= CLIP * (1 + 1e-6)


def test_a_long_gradient_of_equal_values_is_clipped_by_its_true_norm():
    """A running sum of squares in float32 would stop growing."""
    found_D = summed(optimizer_of(Flat, [torch.full((1, 3_000_000), 0.1)], 1.0))
    assert 0.9999 <= float(found_D.double().norm()) <= 1.0


class Narrow(torch.nn.Sequential):
    """A model with weights in bfloat16."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(math.prod(IMAGE), CLASSES))
        self.to(torch.bfloat16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.to(torch.bfloat16)).float()


@pytest.mark.parametrize("mode", ["auto", "hooks", "functorch"])
def test_bfloat16_is_clipped_in_float32(mode):
    """Weights at zero, so that the released update is the gradient's, rounded once to eight bits."""
    model = Narrow()
    with torch.no_grad():
        [parameter.zero_() for parameter in model.parameters()]
    examples = examples_of()
    examples.inputs[BAD] = math.nan
    job = job_of(model, examples, Scripted(0.0, [drawn(3, BAD)]), lr=1.0)
    found_D = trained(DpSgd(1.0, clip=1e-2, mode=mode), job, plan_of(model, steps=1, batch_size=N)).double()
    assert 0.99e-2 / N <= float(found_D.norm()) <= 1e-2 / N * (1 + 2**-8)
    assert job.diagnostics["dp_sgd.not_finite"] == 1


# ghost clipping, whose clipped gradients come from a second pass


def ghost_step(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, bound: float) -> torch.Tensor:
    """The sum of clipped gradients without noise, shape (D,), float64."""
    private = GhostModule(model, loss_reduction="sum")
    inner = torch.optim.SGD(private.parameters(), lr=1.0)
    optimizer = Ghost(inner, noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=1)
    GhostLoss(private, optimizer)(private(inputs), labels).backward()
    optimizer.accumulate()
    return flat(parameter.summed_grad for parameter in optimizer.params).double()


@given(st.integers(0, 10_000), st.floats(-12, 12), st.floats(-12, 12))
@settings(max_examples=60, deadline=None)
def test_a_ghost_gradient_is_never_longer_than_the_clip(seed, before, after):
    """Random weights of all magnitudes, one example; the oracle measures the gradients themselves."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.mul_(10**before)
        model[3].weight.mul_(10**after)
    found_D = ghost_step(model, torch.randn(1, 4), torch.tensor([seed % 3]), CLIP)
    assert float(found_D.norm()) <= CLIP


# whole updates

KINDS: dict[str, Callable[[], Mechanism]] = {
    "client_dp": lambda: ClientDp(noise_multiplier=1.0, clip=CLIP),
    "client_dp, adaptive": lambda: ClientDp(noise_multiplier=1.0, clip=CLIP, adaptive=True),
    "local_dp": lambda: LocalDp(noise_multiplier=1.0, clip=CLIP),
    "dp_ftrl": lambda: DpFtrl(noise_multiplier=1.0, clip=CLIP),
    "distributed_dp": lambda: DistributedDp(noise_multiplier=1.0, clip=CLIP),
    "party_dp": PartyDp,
}
PARTY_NOISE = PartyNoise(1.0, CLIP, colluders=1, parties=3, fractional_bits=16)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_a_zero_update_at_every_mechanism(name, value):
    """The same noise on both: what the server gets is the same, bit for bit."""
    mechanism = KINDS[name]()
    plan = replace(client_jobs.PLAN, min_contributors=8, dimension=40)
    mechanism.settle(replace(plan, party_noise=PARTY_NOISE) if isinstance(mechanism, PartyDp) else plan)
    bad_D = torch.zeros(40)
    bad_D[17] = value
    bad, zero = (client_jobs.client_job(clip=CLIP) for _ in range(2))
    assert torch.equal(mechanism.on_update(bad, bad_D), mechanism.on_update(zero, torch.zeros(40)))
    assert bad.diagnostics[f"{mechanism.name}.not_finite"] == 1
    assert f"{mechanism.name}.not_finite" not in zero.diagnostics


UPDATES = (
    "mechanism=client_dp",
    "mechanism=local_dp",
    "mechanism=dp_ftrl",
    "mechanism=distributed_dp",
    "privacy=party_dp",
)
LENIENT = ("delta=1e-3", "training.weighting=uniform", "clients=20", "witness=false")


@pytest.mark.parametrize("override", UPDATES)
def test_training_that_diverges_sends_a_vector_like_any_other(override):
    """The control, without a mechanism, is `test_training_that_diverges_sends_nothing` in tests/fl."""
    work = workspace_of(override, *LENIENT, "model=mlp", "training.lr=1e30", "training.batch_size=8")
    request = request_of(work, state=work.plan.backend.initial_state())
    memory: dict[str, object] = {}
    phases = Phases(work.device)
    assert np.isfinite(contribution(work, request, memory, phases)).all()
    assert phases.diagnostics == {}, "a count that no epsilon covers is told"


def test_a_record_of_a_diverging_step_is_not_seen_in_the_release():
    """A server sends weights of 1e30: every gradient overflows, and the release is the noise alone."""
    options = ("mechanism=dp_sgd", "noise=seeded", "model=mlp", "mechanism.dp_sgd.noise_multiplier=1e-3")
    work = workspace_of(*options)
    huge = np.full_like(work.initial_D.numpy(), 3e38)
    vector = vector_of(work, model_D=huge)
    assert np.isfinite(vector).all()


def test_the_count_is_told_where_diagnostics_are_asked_for(tmp_path):
    spoilt = ("mechanism=client_dp", *LENIENT, "model=mlp", "training.lr=1e30", "training.batch_size=8")
    for told in (False, True):
        run(tmp_path / str(told), *spoilt, f"runtime.client_diagnostics={str(told).lower()}")
        counted = rows_in(tmp_path / str(told)).filter(pl.col("metric") == "not_finite")
        assert (len(counted) > 0) == told
