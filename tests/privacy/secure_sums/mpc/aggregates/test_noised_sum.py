"""`noised_sum` on real parties, its charges, and the mechanism beside it."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, skellam

from privacy.accounting import charges
from privacy.accounting import epsilon as accounting
from privacy.accounting.ledger import Ledger
from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError, PrivacyRefusal
from privacy.mechanisms.party_dp import PartyDp
from privacy.noise.cost_of_integer_noise import skellam_epsilon
from privacy.noise.parties import PartyNoise
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.traits import Parties
from privacy.secure_sums.vectors import VectorSpec
from tests.privacy.mechanisms.client_jobs import client_job
from tests.privacy.mechanisms.plans import PLAN
from tests.privacy.secure_sums.mpc.aggregates.specs import spec_of

BITS = 16
NOISE = PartyNoise(noise_multiplier=1.5, clip=0.5, colluders=1, parties=3, fractional_bits=BITS)
PLANNED = replace(PLAN, party_noise=NOISE, rounding=math.sqrt(PLAN.dimension) / 2**17)


class NoisingSum(PlainSum):
    """The declarations of a sum with noise by its parties."""

    parties = Parties(noise=NOISE)


def settled(noise: PartyNoise = NOISE, **changes: object) -> PartyDp:
    mechanism = PartyDp()
    mechanism.settle(replace(PLANNED, party_noise=noise, **changes))
    return mechanism


def noisy(committee, dimension: int, bits: int, **options: float) -> np.ndarray:
    """The noise in steps, shape (D,), on a sum of three that is 6."""
    aggregate = named("noised_sum", **options)
    aggregate.check(spec_of(dimension, bound=9.0), bits, committee.parties)
    integers_CL = np.full((3, dimension + 1), 2 << bits)
    found = committee.reveal(aggregate, integers_CL, bits)
    assert found[-1] == 6  # the weight has no noise
    return np.rint((found[:-1] - 6) * 2.0**bits)


# ---- the noise


@pytest.mark.slow
@pytest.mark.parametrize("colluders", [0, 1])
def test_what_is_opened_carries_the_noise_of_all_parties(committee, colluders):
    """P / (P - c) times sigma squared; at few bits the very distribution can be told."""
    drawn = noisy(committee, 20_000, 2, noise_multiplier=1.0, clip=1.0, colluders=colluders)
    variance = 4.0**2 * committee.parties / (committee.parties - colluders)
    support = np.arange(-20, 21)
    mass = skellam.pmf(support, variance / 2, variance / 2)
    found = np.bincount(np.clip(drawn, -21, 21).astype(int) + 21, minlength=43)
    tail = (1 - mass.sum()) / 2
    keep = np.concatenate([[tail], mass, [tail]]) * 20_000 > 5
    expected = np.concatenate([[tail], mass, [tail]])[keep]
    assert chisquare(found[keep], expected / expected.sum() * found[keep].sum()).pvalue > 1e-3


@pytest.mark.slow
def test_at_many_bits_it_is_a_gaussian_of_that_size(committee):
    drawn = noisy(committee, 20_000, BITS, noise_multiplier=0.7, clip=3.0, colluders=committee.parties - 1)
    std = 0.7 * 3.0 * 2.0**BITS * math.sqrt(committee.parties)
    assert kstest(drawn / std, "norm").pvalue > 1e-3


@pytest.mark.slow
def test_every_round_draws_anew(committee):
    first, second = (noisy(committee, 2000, BITS, noise_multiplier=1.0, clip=1.0, colluders=0) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_noise_counts_against_the_range():
    aggregate = named("noised_sum", noise_multiplier=1e6, clip=1.0)
    with pytest.raises(ConfigError, match=r"fractional_bits=40: .*in steps: 9.09e-13 to 1.15e\+18 do"):
        aggregate.check(spec_of(10), 40, 3)
    wide = VectorSpec(spec_of(10).segments, 2**33 - 12)
    named("sum").check(wide, 30, 3)
    named("noised_sum", noise_multiplier=0.1, clip=1.0).check(wide, 30, 3)
    with pytest.raises(ConfigError, match=r"fractional_bits=30: 8589934580 contributions up to 1 and the noise must"):
        named("noised_sum", noise_multiplier=0.5, clip=1.0).check(wide, 30, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_multiplier": 0}, r"secure_sum\.aggregate\.noise_multiplier=0: must be a finite number above 0"),
        ({"clip": -1}, r"secure_sum\.aggregate\.clip=-1: must be"),
        ({"colluders": 3}, r"secure_sum\.aggregate\.colluders=3: must be from 0 to parties - 1 = 2"),
        ({"colluders": -1}, r"secure_sum\.aggregate\.colluders=-1: must be from 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        named("noised_sum", **{"noise_multiplier": 1.0, "clip": 1.0} | options).noise(3, BITS)


# ---- charges


@settings(max_examples=30, deadline=None)
@given(
    multiplier=st.floats(0.3, 5),
    clip=st.floats(0.01, 10),
    bits=st.integers(8, 20),
    parties=st.sampled_from([2, 3, 5]),
    rounds=st.integers(1, 20),
)
def test_an_event_is_the_skellam_bound_at_the_noise_that_stays(multiplier, clip, bits, parties, rounds):
    """Against the number of parties that collude, the variance is (multiplier * clip)^2 whatever their number."""
    for colluders in range(parties):
        noise = PartyNoise(multiplier, clip, colluders, parties, bits)
        for known, share in ((colluders, 1.0), (0, parties / (parties - colluders))):
            event = noise.event(1000, known, rounds, 1e-5)
            found = accounting.epsilon(charges.compose([(charge_of(event), rounds)]).event, 1e-5, "rdp", "zero_out")
            l2 = clip * 2**bits
            bound = skellam_epsilon(l2, 1000, share * (multiplier * l2) ** 2, rounds, 1e-5)
            assert found == pytest.approx(bound, rel=1e-2)
            assert found >= bound * (1 - 1e-9)


def charge_of(event) -> charges.Charge:
    return charges.Charge("party_dp", "client", "zero_out", event)


def test_fine_steps_cost_what_a_gaussian_costs():
    whole = charges.compose([(settled().charge(0), 5)])
    gaussian = charges.compose([(charge_of(charges.gaussian_event(1.5)), 5)])
    found, wanted = (accounting.epsilon(one.event, 1e-3, "rdp", "zero_out") for one in (whole, gaussian))
    assert wanted * (1 - 1e-3) < found < wanted * 1.02  # integer orders


def test_the_ledger_holds_what_stays_when_parties_collude_and_outsiders_pay_less(caplog):
    with caplog.at_level(logging.INFO, "fedveil"):
        mechanism = settled()
    ledger = Ledger()
    ledger.add({0: [mechanism.charge(0)] * 5})
    charged = ledger.worst(PLAN.delta, "rdp")["client"]
    assert mechanism.epsilons == {
        "server with 1 party": pytest.approx(charged),
        "outsider": pytest.approx(charged, rel=0.5),
    }
    assert mechanism.epsilons["outsider"] < 0.95 * charged
    assert [record.getMessage() for record in caplog.records] == [
        f"party_dp: epsilon={epsilon:.4g} against {who}" for who, epsilon in mechanism.epsilons.items()
    ]


@pytest.mark.parametrize(
    ("colluders", "against"),
    [
        (0, ("outsider", "server")),
        (1, ("outsider", "server", "server with 1 party")),
        (2, ("outsider", "server", "server with 2 parties")),
    ],
)
def test_it_says_against_whom_it_holds(colluders, against):
    mechanism = settled(replace(NOISE, colluders=colluders))
    assert mechanism.holds_against == against
    assert mechanism.noise_multiplier == 1.5
    assert mechanism.charge(0).relation == "zero_out"


# ---- the mechanism beside it


@settings(max_examples=50, deadline=None)
@given(norm=st.floats(0, 5), seed=st.integers(0, 99))
def test_what_a_client_shares_is_within_the_clip_in_steps(norm, seed):
    """The charged sensitivity, rounding included."""
    mechanism = settled()
    drawn_D = np.random.default_rng(seed).standard_normal(PLAN.dimension)
    update_D = torch.from_numpy((norm * drawn_D / np.linalg.norm(drawn_D)).astype(np.float32))
    steps_D = np.rint(mechanism.on_update(client_job(), update_D).numpy() * 2.0**BITS).astype(object)
    assert sum(x * x for x in steps_D) <= NOISE.sensitivity**2
    if norm < 0.49:
        np.testing.assert_array_equal(mechanism.on_update(client_job(), update_D), update_D)


def test_steps_that_are_coarser_than_the_clip_are_refused():
    with pytest.raises(PrivacyRefusal, match="over half the clip"):
        settled(rounding=0.3).on_update(client_job(), torch.ones(PLAN.dimension))


def test_mechanism_and_noise_need_one_another():
    with pytest.raises(ConfigError, match=r"mechanism=party_dp: needs parties that add noise"):
        PartyDp().settle(PLAN)
    with pytest.raises(ConfigError, match=r"secure_sum/aggregate=noised_sum: .*use mechanism=party_dp beside it"):
        PrivacyBackend(NoisingSum())
    backend = PrivacyBackend(NoisingSum(), (PartyDp(),))
    backend.settle(PLANNED)
    assert len(backend.charges(0)) == 1
    PrivacyBackend(PlainSum())


def test_weights_must_be_equal():
    with pytest.raises(ConfigError, match=r"party_dp needs training\.weighting=uniform"):
        settled(uniform_weights=False)


@pytest.mark.slow
def test_a_round_is_the_clipped_sum_and_its_noise(three_parties):
    """From the clients' halves to the opened sum."""
    mechanism = settled()
    aggregate = named("noised_sum", noise_multiplier=1.5, clip=0.5, colluders=1)
    updates_CD = np.random.default_rng(0).standard_normal((10, PLAN.dimension)).astype(np.float32)
    clipped_CD = np.array([mechanism.on_update(client_job(), torch.from_numpy(one)).numpy() for one in updates_CD])
    integers_CL = np.rint(np.column_stack([clipped_CD, np.ones(10)]) * 2.0**BITS).astype(np.int64)
    found = three_parties.reveal(aggregate, integers_CL, BITS)
    assert found[-1] == 10
    std = 1.5 * 0.5 * math.sqrt(3 / 2)
    assert kstest((found[:-1] - clipped_CD.sum(0)) / std, "norm").pvalue > 1e-3
