"""Central noise for clients by itself: the noise, the adaptive clip, and the rounding of the sum."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from privacy.errors import ConfigError, PrivacyRefusal
from privacy.mechanisms.client_dp import ClientDp
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.vectors import Segment, VectorSpec
from tests.composed import workspace_of
from tests.privacy.mechanisms.client_jobs import BOUNDS, PLAN, SILENT, client_job, server_job, updates

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
    noised_D = mechanism.on_total(server, np.full(40_000, 3.0))
    # the noise's norm is, in expectation, the root of 40,000 times 0.5 * 2
    told = math.sqrt((np.linalg.norm(noised_D) / 200) ** 2 - 1)
    assert server.diagnostics == {"client_dp.signal_to_noise": pytest.approx(told), "client_dp.clip": 2.0}
    assert told == pytest.approx(600 / 200, rel=0.02), "near that of the exact sum, whose norm is 600"


def test_a_sum_that_noise_hides_has_no_signal():
    told = []
    for number in range(1, 40):
        server = server_job(clip=2.0, round_=number)
        ClientDp(noise_multiplier=0.5).on_total(server, np.zeros(400))
        told.append(server.diagnostics["client_dp.signal_to_noise"])
    assert 0.0 in told
    assert max(told) < 0.6


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
    (exact,), (rounded,) = plain.plan.backend.mechanisms, pad.plan.backend.mechanisms
    assert exact._rounding == 0
    assert rounded._rounding == pytest.approx(0.5 / 32767 * math.sqrt(650), rel=1e-3)
