"""Client-level mechanisms by themselves: clipping, noise, the adaptive clip, the local mechanism, refusals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from privacy.errors import ConfigError, NonFiniteContribution, PrivacyRefusal
from privacy.mechanisms.client_clipping import clip_to
from privacy.mechanisms.client_dp import ClientDp
from privacy.mechanisms.contract import ClientJob, ServerJob
from privacy.mechanisms.local_dp import LocalDp
from privacy.randomness import SeededRandomness
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.vectors import Segment, VectorSpec
from tests.composed import workspace_of
from tests.privacy.accounting.exact import gaussian_delta
from tests.privacy.mechanisms import plans

SILENT = 1e-300  # a noise multiplier whose noise vanishes beside any sum
PLAN = replace(
    plans.PLAN,
    clients=200,
    cohort_size=100,
    min_contributors=1,
    hidden=False,
    dimension=2,
    examples=(20,) * 200,
    participations=(5,) * 200,
    delta=1e-5,
)

ODD = (0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 1e-20, 1.0, 1e20, 1e38, -3.4028234e38)
ELEMENTS = st.one_of(
    st.sampled_from(np.array(ODD, np.float32).tolist()), st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@st.composite
def updates(draw: Callable[..., object], longest: int = 2000) -> torch.Tensor:
    """Float32 vectors of all magnitudes; a long one repeats a short one."""
    few = draw(st.lists(ELEMENTS, min_size=1, max_size=20))
    length = draw(st.one_of(st.integers(1, 20), st.integers(1, longest)))
    return torch.from_numpy(np.resize(np.array(few, np.float32), length))  # type: ignore[arg-type]


BOUNDS = st.floats(1e-6, 1e6)


def exact_norm(update_D: torch.Tensor) -> float:
    """The norm of a float32 vector: squares are exact in float64, and `fsum` rounds once."""
    return math.sqrt(math.fsum(value * value for value in update_D.tolist()))


def client_job(client: int = 0, round_: int = 1, clip: float = 1.0) -> ClientJob:
    model = PLAN.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = SeededRandomness("noise", client, round_)
    state = {"client_dp.clip": clip}
    return ClientJob(f"client/{client}", round_, {}, source, 20, model, optimizer, (), state=state)


def server_job(clip: float, round_: int = 1, extra: Sequence[float] = (), cohort_size: int = 100) -> ServerJob:
    source = SeededRandomness("server", round_)
    return ServerJob(round_, source, cohort_size, (), 100.0, {"client_dp.clip": clip}, extra=list(extra))


# ---- clipping


@given(updates(), BOUNDS)
@settings(max_examples=400, deadline=None)
def test_what_is_clipped_is_never_longer_than_the_bound(update_D, bound):
    before_D = update_D.clone()
    clipped_D, told = clip_to(update_D, bound)
    norm_before = exact_norm(before_D)
    assert exact_norm(clipped_D) <= bound
    assert told == pytest.approx(norm_before, rel=1e-12)
    assert torch.equal(update_D, before_D), "the caller's update was written to"
    assert clipped_D.dtype == torch.float32
    if norm_before > bound * (1 + 1e-9):  # the same direction, and no shorter than rounding asks for
        wanted_D = before_D.numpy().astype(np.float64) * (bound / norm_before)
        assert np.allclose(clipped_D.numpy(), wanted_D, rtol=5e-7, atol=1e-44)  # rounded towards zero, denormals too
    elif norm_before < bound * (1 - 1e-9):
        assert clipped_D.numpy().tobytes() == before_D.numpy().tobytes()


def test_just_below_the_bound_nothing_changes():
    update_D = torch.tensor([3.0, -4.0, 0.0])
    clipped_D, told = clip_to(update_D, 5.0 + 1e-9)  # closer than that, the rounding of the norm itself is in the way
    assert told == 5.0
    assert torch.equal(clipped_D, update_D)
    assert exact_norm(clip_to(update_D, math.nextafter(5.0, 0.0))[0]) < 5.0


def test_a_zero_update_stays_zero():
    clipped_D, told = clip_to(torch.zeros(7), 1e-6)
    assert told == 0.0
    assert clipped_D.tolist() == [0.0] * 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_no_scaling_mends_is_refused(value):
    update_D = torch.zeros(2000)
    update_D[1234] = value
    for touch in (lambda: clip_to(update_D, 1.0), lambda: ClientDp(1.0).on_update(client_job(), update_D)):
        with pytest.raises(NonFiniteContribution, match="NaN or infinity"):
            touch()


# ---- central noise


def test_noise_on_the_sum_is_gaussian_with_the_current_clip():
    """The clip of the job's state decides, not the one that the configuration started with."""
    total_D = np.random.default_rng(1).normal(0, 50, 20_000)
    mechanism = ClientDp(noise_multiplier=1.7, clip=1.0)
    mechanism.settle(PLAN)
    noised_D = mechanism.on_total(server_job(clip=3.0), total_D)
    assert kstest((noised_D - total_D) / (1.7 * 3.0), norm.cdf).pvalue > 1e-3
    again_D = mechanism.on_total(server_job(clip=3.0, round_=2), total_D)
    assert abs(np.corrcoef(noised_D - total_D, again_D - total_D)[0, 1]) < 0.03


def test_the_total_shifts_the_noise_and_nothing_else():
    total_D = np.random.default_rng(1).normal(0, 50, 20_000)
    mechanism = ClientDp(noise_multiplier=1.7)
    alone_D = mechanism.on_total(server_job(clip=3.0), np.zeros(20_000))
    assert np.allclose(mechanism.on_total(server_job(clip=3.0), total_D) - alone_D, total_D, atol=1e-12)


@given(st.lists(updates(50).map(lambda u: torch.from_numpy(np.resize(u.numpy(), 50))), min_size=1, max_size=6), BOUNDS)
@settings(max_examples=100, deadline=None)
def test_one_client_more_or_less_moves_the_sum_by_at_most_the_clip(cohort, clip):
    """Without noise; the server would then divide the sum by the configured cohort, a constant."""
    mechanism = ClientDp(noise_multiplier=SILENT)
    mechanism.settle(PLAN)
    sent = [mechanism.on_update(client_job(clip=clip), update_D).numpy().astype(np.float64) for update_D in cohort]
    whole_D = mechanism.on_total(server_job(clip), np.sum(sent, axis=0))
    for left_out in range(len(sent)):
        others_D = np.sum([one for index, one in enumerate(sent) if index != left_out] or [np.zeros(50)], axis=0)
        moved = np.linalg.norm(whole_D - mechanism.on_total(server_job(clip), others_D))
        assert moved <= clip * (1 + 1e-12), "beyond what adding float64 numbers rounds"


def test_what_it_tells_of_itself():
    mechanism = ClientDp(noise_multiplier=0.5)
    job = client_job(clip=2.0)
    mechanism.on_update(job, torch.tensor([0.0, 5.0]))
    assert job.diagnostics == {"client_dp.update_norm": 5.0, "client_dp.clipped_fraction": 1.0}
    mechanism.on_update(job, torch.tensor([0.0, 2.0]))
    assert job.diagnostics == {"client_dp.update_norm": 2.0, "client_dp.clipped_fraction": 0.0}
    server = server_job(clip=2.0)
    mechanism.on_total(server, np.full(400, 3.0))
    # the signal's norm is 60; the noise's, in expectation, the root of 400 times 0.5 * 2
    assert server.diagnostics == {"client_dp.signal_to_noise": 60 / 20, "client_dp.clip": 2.0}


# ---- the adaptive clip


def test_the_adaptive_clip_splits_the_noise_as_its_paper_says():
    """Andrew et al. 2021 (arXiv:1905.03871), Theorem 1, on the measured noise, not the requested one."""
    z = 0.8
    bit_std = 0.05 * 100
    mechanism = ClientDp(noise_multiplier=z, adaptive=True, clip_learning_rate=0.2, quantile=0.3)
    mechanism.settle(PLAN)
    z_sum = mechanism.sum_multiplier
    assert 1 / z**2 == pytest.approx(1 / z_sum**2 + 1 / (2 * bit_std) ** 2)
    assert z_sum > z
    noised_D = mechanism.on_total(server_job(2.0, extra=[0.0]), np.zeros(20_000))
    assert kstest(noised_D / (2.0 * z_sum), norm.cdf).pvalue > 1e-3
    draws = np.array([told_bits(mechanism, below=37.0, round_=n) for n in range(3000)])
    assert kstest((draws - (37.0 / 100 + 0.5)) * 100 / bit_std, norm.cdf).pvalue > 1e-3


def told_bits(mechanism: ClientDp, below: float, round_: int) -> float:
    """The noised fraction of clients below the clip, from the change of the clip: C exp(-0.2 (b - 0.3))."""
    job = server_job(2.0, round_, extra=[below])
    mechanism.on_total(job, np.zeros(1))
    assert job.extra == []
    return 0.3 - math.log(job.state["client_dp.clip"] / 2.0) / 0.2


@pytest.mark.parametrize(("start", "quantile"), [(30.0, 0.2), (0.1, 0.5), (0.1, 0.8)])
def test_the_adaptive_clip_finds_the_quantile_of_the_norms(start, quantile):
    """Norms are log-normal with a known quantile; the clip is followed over its last rounds, for it is noisy."""
    mechanism = ClientDp(noise_multiplier=0.5, clip=start, adaptive=True, quantile=quantile)
    mechanism.settle(PLAN)
    state = mechanism.initial_state()
    norms = np.random.default_rng(3)
    clips = []
    assert state == {"client_dp.clip": start}
    for number in range(1, 141):
        jobs = [client_job(client, number, state["client_dp.clip"]) for client in range(100)]
        for job, length in zip(jobs, norms.lognormal(1.0, 0.5, 100), strict=True):
            mechanism.on_update(job, torch.tensor([length], dtype=torch.float32))
        below = sum(job.extra[0] for job in jobs)
        server = replace(server_job(1.0, number, extra=[below]), state=state)
        mechanism.on_total(server, np.zeros(1))
        clips.append(state["client_dp.clip"])
    assert np.exp(np.mean(np.log(clips[80:]))) == pytest.approx(np.exp(1.0 + 0.5 * norm.ppf(quantile)), rel=0.1)


def test_a_bit_is_worth_half_and_a_fixed_clip_sends_none():
    adaptive = ClientDp(noise_multiplier=0.5, adaptive=True)
    fixed = ClientDp(noise_multiplier=0.5)
    for length, bit in ((0.5, 0.5), (1.0, 0.5), (1.5, -0.5)):
        job = client_job()
        other = client_job()
        adaptive.on_update(job, torch.tensor([length]))
        fixed.on_update(other, torch.tensor([length]))
        assert (job.extra, other.extra) == ([bit], [])
    assert (adaptive.extra_values, fixed.extra_values) == (1, 0)


def test_bits_with_too_little_noise_are_refused():
    """2 sigma_b must be above z, else the sum gets no noise; sigma_b is the fraction times 100 clients."""
    ClientDp(noise_multiplier=1.0, adaptive=True, bit_noise_fraction=0.0051).settle(PLAN)
    ClientDp(noise_multiplier=1.0, bit_noise_fraction=0.005).settle(PLAN)
    with pytest.raises(ConfigError, match=r"^mechanism.client_dp.bit_noise_fraction=0.005: must be above .* = 0.005$"):
        ClientDp(noise_multiplier=1.0, adaptive=True, bit_noise_fraction=0.005).settle(PLAN)


# ---- the local mechanism


def test_each_local_update_carries_its_own_noise():
    mechanism = LocalDp(noise_multiplier=0.7, clip=1.5)
    mechanism.settle(PLAN)
    update_D = torch.zeros(20_000)
    update_D[0] = 10.0  # clipped to 1.5, which a test of 20,000 values does not see
    noised = [mechanism.on_update(client_job(client, n), update_D) for client, n in ((0, 1), (1, 1), (0, 2))]
    for noised_D in noised:
        assert noised_D.dtype == torch.float32
        assert kstest(noised_D.numpy() / (2 * 1.5 * 0.7), norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(np.stack(noised)) - np.eye(3)).max() < 0.03


def test_a_local_update_is_clipped_before_it_is_noised():
    mechanism = LocalDp(noise_multiplier=SILENT, clip=1.5)
    job = client_job()
    assert mechanism.on_update(job, torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.9, 1.2])
    assert job.diagnostics == {"local_dp.update_norm": 5.0, "local_dp.clipped_fraction": 1.0}
    assert mechanism.on_update(job, torch.tensor([0.6, 0.8])).tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_per_round_takes_the_least_noise_that_is_enough(epsilon: float, delta: float) -> None:
    mechanism = LocalDp(epsilon_per_round=epsilon)
    mechanism.settle(replace(PLAN, delta=delta))
    assert mechanism.noise_multiplier is not None
    assert gaussian_delta(mechanism.noise_multiplier, epsilon) <= delta * (1 + 1e-6)
    assert gaussian_delta(mechanism.noise_multiplier * 0.999, epsilon) > delta


# ---- calibration, charges and refusals


@pytest.mark.parametrize("kind", [ClientDp, LocalDp])
def test_a_target_is_met_by_the_client_that_takes_part_most_often(kind):
    """k Gaussians of sigma are one of sigma / sqrt(k), whose epsilon is exact; PLD is close to it from above."""
    plan = replace(PLAN, participations=(1, 9) + (4,) * 198, accountant="pld")
    mechanism = kind(target_epsilon=3.0)
    mechanism.settle(plan)
    assert gaussian_delta(mechanism.noise_multiplier / 3, 3.0) <= plan.delta * (1 + 1e-3)
    assert gaussian_delta(mechanism.noise_multiplier / 3, 2.98) > plan.delta


def test_what_a_participation_is_charged():
    central = ClientDp(noise_multiplier=1.3, adaptive=True)
    local = LocalDp(noise_multiplier=0.9)
    for mechanism, relation, sigma in ((central, "zero_out", 1.3), (local, "replace", 0.9)):
        mechanism.settle(PLAN)
        charge = mechanism.charge(7)
        assert (charge.mechanism, charge.unit, charge.relation) == (mechanism.name, "client", relation)
        assert charge.event.noise_multiplier == sigma, "the split between sum and bits costs nothing more"
    assert (central.holds_against, local.holds_against) == (("outsider",), ("outsider", "server"))


@pytest.mark.parametrize("kind", [ClientDp, LocalDp])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: {} needs training.weighting=uniform"),
        ({"uniform_weights": False, "public_weights": True}, "training.weighting=examples: {} needs .*=uniform"),
        ({"delta": 1 / 200}, r"delta=0.005: must be below 1/clients = 0.005"),
        ({"delta": 0.5}, r"delta=0.5: must be below 1/clients = 0.005"),
    ],
)
def test_a_plan_that_breaks_the_promise_is_refused(kind, changes, line):
    kind(noise_multiplier=1.0).settle(replace(PLAN, delta=0.00499))
    with pytest.raises(ConfigError, match=f"^{line.format(kind.name)}$"):
        kind(noise_multiplier=1.0).settle(replace(PLAN, **changes))


POSITIVE = "must be a finite number above 0"
BAD = [
    ({}, "noise_multiplier=None: give it or target_epsilon"),
    ({"noise_multiplier": 1.0, "target_epsilon": 2.0}, "noise_multiplier=1.0: target_epsilon=2.0 is given as well"),
    *(({"noise_multiplier": value}, f"noise_multiplier={value}: {POSITIVE}") for value in (0, -1.0, math.nan)),
    *(({"target_epsilon": value}, f"target_epsilon={value}: {POSITIVE}") for value in (0, -1.0, math.inf)),
    *(({"noise_multiplier": 1.0, "clip": value}, f"clip={value}: {POSITIVE}") for value in (0.0, -2, math.inf)),
    ({"noise_multiplier": 1.0, "clip": 1e-300}, "clip=1e-300: must be from 1.2e-38"),
]
BAD_CENTRAL = [
    *(({"quantile": value}, f"quantile={value}: must lie between 0 and 1") for value in (0.0, 1.0, -0.5, math.nan)),
    ({"clip_learning_rate": 0.0}, f"clip_learning_rate=0.0: {POSITIVE}"),
    ({"bit_noise_fraction": -1.0}, f"bit_noise_fraction=-1.0: {POSITIVE}"),
]
BAD_LOCAL = [
    ({"epsilon_per_round": 1.0}, "epsilon_per_round=1.0: noise_multiplier and target_epsilon must be null beside it"),
    ({"noise_multiplier": None, "epsilon_per_round": 0.0}, f"epsilon_per_round=0.0: {POSITIVE}"),
]


@pytest.mark.parametrize(
    ("kind", "arguments", "line"),
    [
        *((kind, arguments, line) for kind in (ClientDp, LocalDp) for arguments, line in BAD),
        *((ClientDp, {"noise_multiplier": 1.0, **arguments}, line) for arguments, line in BAD_CENTRAL),
        *((LocalDp, {"noise_multiplier": 1.0, **arguments}, line) for arguments, line in BAD_LOCAL),
    ],
)
def test_each_parameter_is_refused_in_one_line(kind, arguments, line):
    with pytest.raises(ConfigError) as refusal:
        kind(**arguments)
    assert str(refusal.value).startswith(f"mechanism.{kind.name}.{line}")
    assert "\n" not in str(refusal.value)


# ---- the secure sum's rounding


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.5, 1.0]), st.sampled_from([10, 16, 24]))
@settings(max_examples=60, deadline=None)
def test_what_fixed_point_makes_of_an_update_stays_within_the_clip(seed, clip, bits):
    """The sensitivity of the sum is that of the encoded update, rounding included."""
    length = 400
    spec = VectorSpec((Segment("update", length, 1.0), Segment("weight", 1, 1.0)), 10)
    fixed = FixedPoint.of(spec, bits, "secure_sum")
    mechanism = ClientDp(1.0, clip=clip)
    mechanism.settle(replace(PLAN, rounding=fixed.tolerance * math.sqrt(length)))
    long_D = torch.from_numpy(np.random.default_rng(seed).standard_normal(length).astype(np.float32))
    update_D = mechanism.on_update(client_job(clip=clip), long_D)
    added_D = fixed.decode(fixed.encode(np.append(update_D.numpy(), np.float32(1))), 1)[:-1]
    assert math.sqrt(math.fsum(x * x for x in added_D)) <= clip


def test_rounding_that_takes_half_the_clip_is_refused():
    mechanism = ClientDp(1.0, clip=0.1)
    mechanism.settle(replace(PLAN, rounding=0.06))
    with pytest.raises(PrivacyRefusal, match=r"move an update by 0\.06, over half the clip of 0\.1: raise"):
        mechanism.on_update(client_job(clip=0.1), torch.ones(4))


def test_a_run_knows_what_its_sum_rounds():
    plain, pad = (workspace_of("mechanism=client_dp", "delta=1e-3", f"secure_sum={name}") for name in ("plain", "pad"))
    (exact,), (rounded,) = plain.backend.mechanisms, pad.backend.mechanisms
    assert exact._rounding == 0
    assert rounded._rounding == pytest.approx(0.5 / 32767 * math.sqrt(650), rel=1e-3)
