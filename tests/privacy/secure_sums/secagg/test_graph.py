"""The graph of secure aggregation: degrees and thresholds against printed ones and exact counts, and the ring."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, TooFewContributors
from privacy.secure_sums.secagg.graph import SMALL, Bounds, NeighbourRing

C = "curious"
M = "malicious"

# clients, collusion, drop-out, server, k, t: as printed in the tests of Google's open implementation, whose authors are
# the paper's (google/federated-compute, fcp/secagg/server/graph_parameter_finder_test.cc; 40 and 20 bits).
# Left out: where it raises t from 1 to 2 for ten clients, and does not ask whether two are left.
PRINTED = [
    (100, 0.45, 0.45, C, 92, 46),
    (1000, 0.45, 0.45, C, 822, 417),
    (10, 0.33, 0.33, C, 8, 4),
    (100, 0.33, 0.33, C, 68, 34),
    (1000, 0.33, 0.33, C, 286, 150),
    (10000, 0.33, 0.33, C, 422, 221),
    (100, 0.3, 0.3, M, 92, 62),
    (1000, 0.3, 0.3, M, 872, 584),
    (100, 0.05, 0.33, C, 28, 6),
    (1000, 0.05, 0.33, C, 72, 24),
    (10, 0.05, 0.33, M, 8, 5),
    (100, 0.05, 0.33, M, 72, 39),
    (1000, 0.05, 0.33, M, 398, 223),
    (10000, 0.05, 0.33, M, 746, 420),
    (10, 0.33, 0.05, C, 4, 4),
    (100, 0.33, 0.05, C, 34, 29),
    (1000, 0.33, 0.05, C, 78, 60),
    (100, 0.33, 0.05, M, 42, 37),
    (1000, 0.33, 0.05, M, 132, 109),
    (10000, 0.33, 0.05, M, 178, 146),
    (10, 0.05, 0.05, C, 2, 2),
    (100, 0.05, 0.05, C, 12, 6),
    (1000, 0.05, 0.05, C, 30, 17),
    (100, 0.05, 0.05, M, 16, 11),
    (1000, 0.05, 0.05, M, 52, 37),
    (10000, 0.05, 0.05, M, 62, 44),
    (1000000, 0.05, 0.05, M, 74, 52),
    (100, 0.33, 0.0, C, 26, 25),
    (100, 0.33, 0.0, M, 26, 26),
    (1000, 0.0, 0.33, C, 38, 2),
    (1000, 0.0, 0.33, M, 228, 115),
    (1000000, 0.0, 0.33, C, 50, 2),
    (1000, 0.0, 0.0, M, 2, 2),
]


def bounds(dropout: float = 0.3, collusion: float = 0.05, server: str = M, bits: tuple[int, int] = (40, 20)) -> Bounds:
    return Bounds(dropout, collusion, server, *bits)


def fewest(limits: Bounds, count: int) -> tuple[int, int] | None:
    """The result of `Bounds.fewest` where the whole cohort takes part."""
    return limits.fewest(count, limits.colluding(count))


@pytest.mark.parametrize(("count", "collusion", "dropout", "server", "degree", "threshold"), PRINTED)
def test_degree_and_threshold_are_the_printed_ones(count, collusion, dropout, server, degree, threshold):
    assert fewest(bounds(dropout, collusion, server), count) == (degree, threshold)


def test_the_papers_example_of_ten_thousand_clients():
    """Its abstract: with 5 % corrupt and 5 % dropping out of 10^4, "each client needs to communicate only with 3 %"."""
    plan = bounds(0.05, 0.05).plan(10_000, 10_000)
    assert plan.degree <= 0.03 * 10_000


def at_least(count: int, marked: int, drawn: int, least: int) -> Fraction:
    """The exact probability of at least this many marked ones among those drawn."""
    ways = sum(math.comb(marked, i) * math.comb(count - marked, drawn - i) for i in range(least, drawn + 1))
    return Fraction(ways, math.comb(count, drawn))


@pytest.mark.parametrize("server", [C, M])
@pytest.mark.parametrize(("count", "dropout", "collusion"), [(60, 0.2, 0.1), (150, 0.3, 0.05), (300, 0.1, 0.2)])
def test_what_is_chosen_meets_the_bounds_and_two_neighbours_fewer_do_not(count, dropout, collusion, server):
    """In exact arithmetic, with the bounds written down anew."""
    colluding = math.floor(collusion * count + 1e-9)
    dropping = math.floor(dropout * count + 1e-9)

    def meets(degree: int, threshold: int) -> bool:
        half = Fraction(1, 2**41)
        pairs = Fraction(count * (count - degree - 1), 2)
        cut = pairs * Fraction(math.comb(colluding + dropping, degree), math.comb(count, degree)) < half
        reaching = threshold if server == C else 2 * threshold - degree
        safe = at_least(count, colluding, degree, max(reaching, 0)) <= half / count
        there = 1 - at_least(count, count - dropping, degree, threshold) < Fraction(1, 2**20) / count
        return cut and safe and there

    degree, threshold = fewest(bounds(dropout, collusion, server), count)
    assert meets(degree, threshold)
    assert not any(meets(degree, lower) for lower in range(2, threshold))
    assert not any(meets(degree - 2, other) for other in range(2, degree - 1))


def test_a_small_cohort_is_a_complete_graph_that_withstands_the_drop_outs():
    for count in range(2, SMALL):
        plan = bounds().plan(count, count)
        assert plan.complete
        assert plan.holders == count
        assert plan.least == plan.threshold
        assert 2 * plan.threshold > count + math.floor(0.05 * count)
        assert count - plan.threshold == min(math.ceil(0.3 * count - 1e-9), (count - 1 - math.floor(count * 0.05)) // 2)
    assert not bounds().plan(SMALL, SMALL).complete


def test_what_no_sparse_graph_can_do_a_complete_one_does():
    assert bounds(0.9, 0.0, C, (128, 128)).fewest(33, 0) is None
    plan = bounds(0.9, 0.0, C, (128, 128)).plan(33, 33)
    assert plan.complete
    assert (plan.threshold, plan.least) == (3, 3)


@pytest.mark.parametrize("rates", [(0.45, 0.0, M), (0.3, 0.3, M), (0.0, 0.9, M), (0.45, 0.45, C), (0.1, 0.8, C)])
def test_all_that_is_stated_is_withstood_whatever_the_rates(rates):
    for count in range(1, 70):
        limits = bounds(*rates)
        if 0 < limits.colluding(count) > count - 2:
            continue  # no honest client is left to hide among
        plan = limits.plan(count, count)
        if plan.complete and count > 1:
            assert limits.colluding(count) < limits.reading(plan)
        assert min(2, count) <= plan.threshold <= plan.holders
        assert plan.least <= max(count - limits.dropping(count), plan.threshold)


def test_who_colludes_is_a_share_of_the_cohort_however_few_take_part():
    """A server that says that many are not there makes no cohort of its friends."""
    limits = bounds(0.3, 0.1)
    whole = limits.plan(70, 70)
    half = limits.plan(70, 100)
    assert half.threshold > whole.threshold
    assert 2 * half.threshold - half.holders > 2 * whole.threshold - whole.holders
    with pytest.raises(TooFewContributors, match="5 clients take part, and 4 of their cohort may collude"):
        bounds(0.0, 0.9).plan(5, 5)


RATES = [(0.3, 0.05, M), (0.3, 0.05, C), (0.1, 0.3, M), (0.4, 0.1, M), (0.5, 0.05, C), (0.1, 0.7, C), (0.0, 0.0, M)]


@pytest.mark.parametrize("rates", RATES)
def test_a_shorter_list_is_refused_or_takes_as_many_who_collude(rates):
    """The cohort's drop-outs are withstood however short the list: whoever is not on it is one of them."""
    limits = bounds(*rates)
    for cohort in (2, 3, 7, 10, 20, 31, 32, 33, 40, 64, 100, 150):
        if 0 < limits.colluding(cohort) > cohort - 2:
            continue
        whole = limits.plan(cohort, cohort)
        assert list(limits.lengths(cohort, 1)) == list(range(whole.least, cohort + 1))
        for count in range(1, whole.least):
            with pytest.raises(TooFewContributors, match=f"{count} contributors are left of {cohort}, {whole.least} "):
                limits.plan(count, cohort)
        for count in range(whole.least, cohort + 1):
            plan = limits.plan(count, cohort)
            assert (plan.count, plan.least) == (count, whole.least)
            assert limits.reading(plan) >= limits.reading(whole)
            assert plan.threshold <= whole.least or plan == whole


@pytest.mark.parametrize(("count", "cohort"), [(70, 100), (85, 100), (700, 1000), (900, 1000)])
def test_a_shorter_list_meets_the_bounds_of_the_whole_cohort(count, cohort):
    """In exact arithmetic: with the whole cohort's colluding clients, and the drop-outs that it has left."""
    limits = bounds()
    plan = limits.plan(count, cohort)
    colluding = math.floor(0.05 * cohort + 1e-9)
    dropping = count - plan.least
    half = Fraction(1, 2**41)
    pairs = Fraction(count * (count - plan.degree - 1), 2)
    cut = pairs * Fraction(math.comb(colluding + dropping, plan.degree), math.comb(count, plan.degree))
    assert cut < half
    assert at_least(count, colluding, plan.degree, 2 * plan.threshold - plan.degree) <= half / count
    assert 1 - at_least(count, plan.least, plan.degree, plan.threshold) < Fraction(1, 2**20) / count


@settings(deadline=None, max_examples=30)
@given(count=st.sampled_from([2, 3, 7, 31, 32, 33, 60]), digest=st.binary(min_size=32, max_size=32))
def test_the_ring_is_a_regular_graph_that_everybody_sees_alike(count, digest):
    plan = bounds().plan(count, count)
    clients = [f"client/{i}" for i in range(count)]
    ring = NeighbourRing(clients, digest, plan)
    same = NeighbourRing(clients[::-1], digest, plan)
    for client in clients:
        neighbours = ring.neighbours(client)
        assert neighbours == same.neighbours(client)
        assert len(set(neighbours) - {client}) == plan.degree
        assert all(client in ring.neighbours(other) for other in neighbours)
        assert set(ring.holders(client)) == {*neighbours, *([client] if plan.complete else [])}
        assert all(client in ring.holders(other) for other in ring.holders(client))


def test_another_list_has_another_graph():
    clients = [f"client/{i}" for i in range(60)]
    plan = bounds().plan(60, 60)
    rings = [NeighbourRing(clients, bytes([i]) * 32, plan) for i in range(20)]
    assert len({tuple(ring.neighbours("client/0")) for ring in rings}) == 20


def test_any_pair_is_as_often_neighbours_as_any_other():
    """Over many digests: no role can choose a place in the ring."""
    clients = [f"client/{i}" for i in range(40)]
    plan = bounds(0.1).plan(40, 40)
    rounds = 3000
    met = sum(
        "client/1" in NeighbourRing(clients, i.to_bytes(32, "big"), plan).neighbours("client/0") for i in range(rounds)
    )
    chance = plan.degree / 39
    assert abs(met / rounds - chance) < 5 * math.sqrt(chance * (1 - chance) / rounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"server": "honest"}, "secure_sum.server=honest: allowed are malicious, curious"),
        ({"dropout": -0.1}, "secure_sum.dropout_rate=-0.1: must be at least 0 and below 1"),
        ({"collusion": 1.0}, "secure_sum.collusion_rate=1.0: must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "secure_sum.dropout_rate=nan: must be at least 0 and below 1"),
        ({"dropout": 0.45}, "secure_sum.dropout_rate=0.45: collusion_rate and twice dropout_rate must be at most 0.9"),
        ({"dropout": 0.9, "server": C}, "collusion_rate and dropout_rate must be at most 0.9 together"),
        ({"bits": (0, 20)}, "secure_sum.security_bits=0: must be from 1 to 128"),
        ({"bits": (40, 200)}, "secure_sum.correctness_bits=200: must be from 1 to 128"),
    ],
)
def test_what_cannot_be_met_is_refused(options, message):
    with pytest.raises(ConfigError) as refusal:
        bounds(**options)
    assert message in str(refusal.value)
