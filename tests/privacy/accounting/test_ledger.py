"""The ledger: the composed charges of clients. Oracles: dp_accounting driven by hand, and exact Gaussian delta."""

import math
from collections.abc import Callable

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, PrivacyAccountant, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accounting.charges import Charge
from privacy.accounting.ledger import Ledger

DELTA = 1e-5


def gaussian(sigma: float, relation: str = "zero_out", mechanism: str = "client_dp", unit: str = "client") -> Charge:
    return Charge(mechanism, unit, relation, GaussianDpEvent(sigma))


def dp_sgd(sigma: float, rate: float, steps: int) -> Charge:
    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)
    return Charge("dp_sgd", "record", "add_remove", event)


def exact_epsilon(*sigmas: float, delta: float = DELTA) -> float:
    """Epsilon of Gaussians: one of 1 / sqrt(sum of 1 / sigma^2) (Dong et al. 2022); Balle and Wang 2018, Theorem 8."""
    sigma = sum(one**-2 for one in sigmas) ** -0.5

    def excess(epsilon: float) -> float:
        half = 1 / (2 * sigma)
        return float(norm.cdf(half - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-half - epsilon * sigma)) - delta

    return float(brentq(excess, 0.0, 100.0))


def by_hand(accountant: PrivacyAccountant, *charges: Charge) -> float:
    for charge in charges:
        accountant.compose(charge.event)
    return float(accountant.get_epsilon(DELTA))


ORACLES: list[tuple[str, Callable[[], PrivacyAccountant]]] = [("rdp", RdpAccountant), ("pld", PLDAccountant)]


def test_nobody_has_paid_before_anything_ran():
    ledger = Ledger()
    assert ledger.worst(DELTA, "rdp") == {}
    assert ledger.epsilons("client", DELTA, "rdp") == {}


@pytest.mark.parametrize(("accountant", "oracle"), ORACLES)
def test_a_client_pays_for_each_participation(accountant, oracle):
    """Counts 1, 3 and 7, charged over seven rounds; the worst is the third client."""
    ledger = Ledger()
    charge = gaussian(2.0)
    counts = {4: 1, 0: 3, 9: 7}
    for number in range(7):
        ledger.add({client: [charge] for client, times in counts.items() if number < times})
    epsilons = ledger.epsilons("client", DELTA, accountant)
    assert set(epsilons) == {0, 4, 9}
    for client, times in counts.items():
        assert epsilons[client] == pytest.approx(by_hand(oracle(), *[charge] * times), rel=1e-6)
    assert ledger.worst(DELTA, accountant) == {"client": epsilons[9]}


@pytest.mark.parametrize(("accountant", "above"), [("pld", 1.001), ("prv", 1.03), ("rdp", 1.3)])
@pytest.mark.parametrize("times", [1, 10])
def test_no_accountant_claims_less_than_the_truth(accountant, above, times):
    """Nor much more, since the cost of one Gaussian is known exactly."""
    ledger = Ledger()
    truth = exact_epsilon(*[2.0] * times)
    for _ in range(times):
        ledger.add({0: [gaussian(2.0)]})
    assert truth * (1 - 1e-4) <= ledger.worst(DELTA, accountant)["client"] <= truth * above + 0.02


@pytest.mark.parametrize(("accountant", "oracle"), ORACLES)
def test_charges_of_different_kinds_compose(accountant, oracle):
    """Two mechanisms on the same client, at two noises each: one epsilon, of all events together."""
    charges = [gaussian(3.0), gaussian(3.0), gaussian(4.0), gaussian(5.0, mechanism="other")]
    ledger = Ledger()
    ledger.add({1: charges[:2]})
    ledger.add({1: iter(charges[2:])})
    got = ledger.worst(DELTA, accountant)["client"]
    assert got == pytest.approx(by_hand(oracle(), *charges), rel=1e-6)
    assert got >= exact_epsilon(3.0, 3.0, 4.0, 5.0) * (1 - 1e-4)


def test_records_and_clients_are_never_added():
    ledger = Ledger()
    sampled = dp_sgd(1.1, 0.1, 10)
    ledger.add({0: [gaussian(2.0), sampled], 1: [sampled], 2: [gaussian(2.0)]})
    ledger.add({1: [sampled]})
    clients, records = (ledger.epsilons(unit, DELTA, "rdp") for unit in ("client", "record"))
    assert (set(clients), set(records)) == ({0, 2}, {0, 1})
    assert clients[0] == clients[2] == pytest.approx(by_hand(RdpAccountant(), gaussian(2.0)))
    assert records[0] == pytest.approx(by_hand(RdpAccountant(), sampled))
    assert records[1] == pytest.approx(by_hand(RdpAccountant(), sampled, sampled))
    assert ledger.worst(DELTA, "rdp") == {"client": clients[0], "record": records[1]}


def test_what_a_round_would_cost_is_not_yet_paid():
    ledger = Ledger()
    ledger.add({0: [gaussian(2.0)], 1: [gaussian(2.0)]})
    before = ledger.epsilons("client", DELTA, "rdp")
    ahead = ledger.with_charges({0: [gaussian(2.0)], 5: [gaussian(2.0)]})
    assert ledger.epsilons("client", DELTA, "rdp") == before
    expected = {0: by_hand(RdpAccountant(), *[gaussian(2.0)] * 2), 1: before[1], 5: before[1]}
    assert ahead.epsilons("client", DELTA, "rdp") == pytest.approx(expected)
    ahead.add({1: [gaussian(0.5)]})
    assert ledger.epsilons("client", DELTA, "rdp") == before, "the copy shares nothing with the original"
    ledger.add({5: [gaussian(0.5)]})
    assert ahead.epsilons("client", DELTA, "rdp")[5] == pytest.approx(before[1])


def test_who_owes_nothing_has_no_epsilon():
    ledger = Ledger()
    ledger.add({0: [], 1: [gaussian(2.0)]})
    assert set(ledger.epsilons("client", DELTA, "rdp")) == {1}


@given(st.lists(st.dictionaries(st.integers(0, 5), st.sampled_from([0.9, 2.0, 7.0])), max_size=8), st.randoms())
@settings(max_examples=25, deadline=None)
def test_only_what_was_paid_counts_not_in_which_order(rounds, shuffler):
    """And epsilon never falls as rounds are added; the worst is the maximum."""
    ledger = Ledger()
    other = Ledger()
    last = {}
    for paid in rounds:
        ledger.add({client: [gaussian(sigma)] for client, sigma in paid.items()})
        now = ledger.epsilons("client", DELTA, "rdp")
        assert all(now[client] >= epsilon for client, epsilon in last.items())
        last = now
    for paid in shuffler.sample(rounds, len(rounds)):
        other.add({client: [gaussian(sigma)] for client, sigma in paid.items()})
    assert other.epsilons("client", DELTA, "rdp") == pytest.approx(last)
    assert ledger.worst(DELTA, "rdp") == ({"client": max(last.values())} if last else {})
