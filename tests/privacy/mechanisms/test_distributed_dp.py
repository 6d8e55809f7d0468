"""Distributed noise by itself and in a run: the sum, its noise, its bound, its price, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, skellam

from privacy.accounting import charges
from privacy.accounting import epsilon as accounting
from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError, TooFewContributors
from privacy.mechanisms.contract import Mechanism, ServerJob
from privacy.mechanisms.distributed_dp import DistributedDp
from privacy.noise.cost_of_integer_noise import skellam_rdp
from privacy.noise.integer_encoding import from_modulus, padded_length, rounded_norm_bound
from privacy.randomness import OsRandomness
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.traits import Carries
from privacy.testing.harness import Round, residue_spec
from tests.composed import run, server_of, workspace_of
from tests.outside.masked_sum import MaskedSum
from tests.privacy.mechanisms.client_jobs import client_job
from tests.privacy.mechanisms.distributed_noise import settled, updates_of
from tests.privacy.mechanisms.plans import PLAN

SILENT = 1e-7  # its shares are zero, but once in a million values


def server_job(survivors: int = 10, number: int = 1) -> ServerJob:
    return ServerJob(number, OsRandomness(), 10, tuple(f"client/{i}" for i in range(survivors)), float(survivors))


def summed(mechanism: DistributedDp, updates: list[torch.Tensor], number: int = 1) -> np.ndarray:
    """The decoded total of a round over the plain sum, through the client's and the server's half."""
    residues = {
        f"client/{i}": np.append(mechanism.on_update(client_job(i, number), update).numpy(), np.int64(1))
        for i, update in enumerate(updates)
    }
    length = len(residues["client/0"]) - 1
    total = Round(PlainSum(), residue_spec(length, len(updates), mechanism.modulus_bits), residues).run()
    return mechanism.on_total(server_job(len(updates), number), total.update_D)


# ---- the sum


@pytest.mark.parametrize("dimension", [1, 2, 50, 64, 1000])
def test_without_noise_the_sum_is_that_of_float64_but_for_rounding(dimension):
    plan = replace(PLAN, dimension=dimension)
    mechanism = settled(plan, noise_multiplier=SILENT, bits=40)
    updates = updates_of(10, dimension)
    exact = np.array([math.fsum(column) for column in zip(*[u.tolist() for u in updates], strict=True)])
    assert np.abs(summed(mechanism, updates) - exact).max() < 1e-6


def test_updates_are_clipped_first():
    mechanism = settled(noise_multiplier=SILENT, bits=40, clip=0.5)
    long = updates_of(2, 50, norm=2.0)[0]
    short = updates_of(2, 50, seed=1, norm=0.25)[1]
    expected = long.double().numpy() * 0.25 + short.double().numpy()
    assert np.abs(summed(mechanism, [long, short]) - expected).max() < 1e-6


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=50, max_size=50), st.sampled_from([8, 10, 14]))
@settings(max_examples=100, deadline=None)
def test_what_a_client_adds_stays_within_the_sensitivity(values, bits):
    plan = replace(PLAN, cohort_size=4, min_contributors=4)
    mechanism = settled(plan, noise_multiplier=SILENT, bits=bits)
    residues = mechanism.on_update(client_job(), torch.tensor(values)).numpy()
    added = from_modulus(residues, bits)
    assert sum(int(x) ** 2 for x in added) <= mechanism._grid.l2**2


@pytest.mark.parametrize("distribution", ["skellam", "discrete_gaussian"])
def test_the_noise_of_a_sum_is_what_the_honest_shares_were_made_for(distribution):
    """The decoded noise of n_min - c shares has the standard deviation sigma * clip, as far as rounding allows."""
    plan = replace(PLAN, dimension=4096, min_contributors=8)
    mechanism = settled(plan, noise_multiplier=1.5, colluders=2, bits=24, distribution=distribution)
    zeros = [torch.zeros(4096)] * 6
    noise = np.concatenate([summed(mechanism, zeros, number) for number in range(1, 6)])
    inflation = mechanism._grid.l2 / (mechanism.clip * mechanism._grid.scale)
    assert 1 <= inflation < 1.01
    assert kstest(noise / (1.5 * inflation), "norm").pvalue > 1e-3


def test_a_share_is_skellam():
    plan = replace(PLAN, dimension=64, min_contributors=10)
    mechanism = settled(plan, noise_multiplier=0.05, bits=8)
    shares = np.concatenate(
        [from_modulus(mechanism.on_update(client_job(i), torch.zeros(64)).numpy(), 8) for i in range(300)]
    )
    reach = math.ceil(3 * math.sqrt(mechanism._grid.variance))
    values = np.arange(-reach, reach + 1)
    counts = np.array([(shares == value).sum() for value in values])
    expected = skellam.pmf(values, mechanism._grid.variance / 2, mechanism._grid.variance / 2) * len(shares)
    rest = len(shares) - counts.sum(), len(shares) - expected.sum()
    assert chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 1e-3


def test_no_round_shares_its_rotation_with_the_next():
    mechanism = settled(noise_multiplier=SILENT, bits=40)
    update = updates_of(1, 50)[0]
    assert (mechanism.on_update(client_job(0, 1), update) != mechanism.on_update(client_job(0, 2), update)).any()


# ---- the price


@pytest.mark.parametrize(("n_min", "colluders"), [(2, 0), (8, 0), (8, 6), (10, 3)])
def test_epsilon_is_charged_at_the_honest_shares_and_not_at_who_answered(n_min, colluders):
    mechanism = settled(replace(PLAN, min_contributors=n_min), noise_multiplier=1.2, colluders=colluders)
    grid = mechanism._grid
    padded = padded_length(50)
    honest_variance = grid.variance * (n_min - colluders)
    assert math.isclose(math.sqrt(honest_variance), 1.2 * grid.l2)
    event = mechanism.charge(0).event
    curve = [
        skellam_rdp(order, min(math.sqrt(padded) * grid.l2, grid.l2**2), grid.l2, honest_variance)
        for order in (2, 9, 64)
    ]
    accountant = RdpAccountant([2, 9, 64])
    accountant.compose(event)
    for charged, bound in zip(accountant._rdp, curve, strict=True):
        assert charged >= bound * (1 - 1e-12)  # the smaller of two valid bounds
    gaussian = accounting.epsilon(charges.gaussian_event(1.2), 1e-3, "rdp", "zero_out")
    assert gaussian < accounting.epsilon(event, 1e-3, "rdp", "zero_out") < 1.2 * gaussian


def test_the_sensitivity_is_that_of_rounding_the_scaled_clip():
    mechanism = settled(clip=3.0)
    assert mechanism._grid.l2 == rounded_norm_bound(3.0 * mechanism._grid.scale, 64, math.exp(-0.5))


@pytest.mark.parametrize("distribution", ["skellam", "discrete_gaussian"])
def test_a_target_is_met_and_not_by_far(distribution):
    mechanism = settled(noise_multiplier=None, target_epsilon=6.0, distribution=distribution)
    whole = charges.compose([(mechanism.charge(0), 5)])
    assert 5.9 < accounting.epsilon(whole.event, PLAN.delta, "rdp", "zero_out") <= 6.0


def test_more_bits_give_a_finer_scale_and_never_wrap():
    scales = [settled(bits=bits)._grid.scale for bits in (9, 12, 16, 24)]
    assert scales == sorted(scales)
    assert all(settled(bits=bits)._grid.bits <= bits for bits in (9, 12, 16, 24))


@pytest.mark.parametrize("bits", [30, 40, 62])
@pytest.mark.parametrize("distribution", ["skellam", "discrete_gaussian"])
def test_more_bits_than_there_is_use_for_do_no_harm(bits, distribution):
    mechanism = settled(replace(PLAN, dimension=200), bits=bits, distribution=distribution)
    updates = updates_of(10, 200)
    exact = np.sum([update.double().numpy() for update in updates], axis=0)
    noise = summed(mechanism, updates) - exact
    assert kstest(noise / math.sqrt(10 / 8), "norm").pvalue > 1e-4


def test_against_whom_it_holds_depends_on_the_sum():
    assert settled(replace(PLAN, hidden=False)).holds_against == ("outsider",)
    assert settled().holds_against == ("outsider", "server")
    assert settled(colluders=2).holds_against == ("outsider", "server", "server with 2 clients")


# ---- refusals


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"noise_multiplier": None}, "noise_multiplier=None"),
        ({"target_epsilon": 3.0}, "target_epsilon"),
        ({"clip": 0.0}, r"distributed_dp\.clip=0\.0"),
        ({"bits": 3}, r"bits=3: must be from 4 to 62"),
        ({"bits": 63}, r"bits=63: must be from 4 to 62"),
        ({"distribution": "gauss"}, "allowed are skellam, discrete_gaussian"),
        ({"colluders": -1}, r"colluders=-1: must be at least 0"),
        ({"colluders": 7}, r"server\.min_contributors=8: must be at least colluders \+ 2 = 9"),
        ({"noise_multiplier": 1e-30}, r"noise_multiplier=1e-30: too small to be drawn: raise it"),
        ({"bits": 4}, r"bits=4: too few: rounding would more than double the sensitivity; needs \d+"),
        ({"noise_multiplier": None, "target_epsilon": 1e-9}, r"bits=16: too few"),
    ],
)
def test_what_is_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        settled(**settings_)


@pytest.mark.parametrize("change", [{"uniform_weights": False}, {"delta": 0.05}, {"accountant": "pld"}])
def test_plans_that_are_refused(change):
    backend = PrivacyBackend(MaskedSum(), (DistributedDp(target_epsilon=3.0),))
    with pytest.raises(ConfigError):
        backend.settle(replace(PLAN, **change))


class Approximate(MaskedSum):
    carries = Carries(exact=False)


def test_an_approximate_sum_is_refused():
    with pytest.raises(
        ConfigError, match=r"secure_sum=masked: does not sum integers exactly, which distributed_dp needs"
    ):
        PrivacyBackend(Approximate(), (DistributedDp(1.0),)).settle(PLAN)


def test_it_comes_last():
    with pytest.raises(ConfigError, match="distributed_dp releases integers: give it last"):
        PrivacyBackend(PlainSum(), (DistributedDp(1.0), Mechanism())).settle(PLAN)


# ---- in a run


DP = ("mechanism=distributed_dp", "delta=1e-2", "mechanism.distributed_dp.noise_multiplier=0.01", "noise=seeded")


@pytest.mark.parametrize("secure_sum", [(), ("secure_sum._target_=tests.outside.masked_sum.MaskedSum",)])
def test_a_run_learns_through_integers(tmp_path, secure_sum):
    state = run(tmp_path, *DP, *secure_sum)
    plain = run(tmp_path / "plain", "training.weighting=uniform")
    start = workspace_of().initial_D
    step = state.weights_D - start
    wanted = plain.weights_D - start
    assert torch.nn.functional.cosine_similarity(step, wanted, dim=0) > 0.95


def test_the_same_seed_gives_the_same_weights_under_every_exact_sum(tmp_path):
    masked = run(tmp_path / "masked", *DP, "secure_sum._target_=tests.outside.masked_sum.MaskedSum")
    assert torch.equal(run(tmp_path / "plain", *DP).weights_D, masked.weights_D)


def test_fewer_than_the_noise_counts_on_are_not_opened(tmp_path):
    work = workspace_of(*DP, "server.min_contributors=4")
    server = server_of(work, tmp_path)
    with pytest.raises(TooFewContributors, match="4 are needed"):
        server.aggregate(1, [0, 1, 2])
