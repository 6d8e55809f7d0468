"""The schedule of cohorts: separation, participation counts, and unchanged schedules of old runs."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fl.cohorts import Schedule, schedule, separation
from fl.config.schema import SamplerConfig
from privacy.errors import ConfigError
from privacy.randomness import seed_from

UNIFORM = SamplerConfig()


def separated(apart: int | None = None, most: int | None = None) -> SamplerConfig:
    return SamplerConfig("separated", apart, most)


def clients_of(count: int) -> np.ndarray:
    """Candidates other than 0, 1, 2, ..., since some clients hold no data."""
    return 3 * np.arange(count) + 2


def gaps(cohorts: Schedule) -> list[int]:
    """All distances between two participations of one client, by looking at every pair of rounds."""
    numbers = range(len(cohorts))
    return [b - a for a, b in combinations(numbers, 2) if set(cohorts[a]) & set(cohorts[b])]


@st.composite
def runs(draw):
    """Clients, size, rounds, seed, and a separation that can be kept."""
    clients = draw(st.integers(1, 24))
    size = draw(st.integers(1, clients))
    rounds = draw(st.integers(1, 60))
    seed = draw(st.integers(0, 5))
    return clients, size, rounds, seed, draw(st.integers(1, clients // size))


# ---- uniform


def test_the_uniform_schedule_is_the_one_of_runs_before_there_was_another():
    """Pinned: stored runs hang on it."""
    assert schedule(UNIFORM, np.arange(3, 20), 4, 3, 7) == ((4, 9, 16, 18), (6, 7, 11, 15), (7, 13, 18, 19))


@given(runs())
@settings(max_examples=60, deadline=None)
def test_a_uniform_round_is_drawn_by_itself(run):
    clients, size, rounds, seed, _ = run
    by_hand = []
    for number in range(1, rounds + 1):
        generator = np.random.default_rng(seed_from(seed, "cohort", number))
        by_hand.append(tuple(sorted(generator.choice(clients_of(clients), size, replace=False).tolist())))
    cohorts = schedule(UNIFORM, clients_of(clients), size, rounds, seed)
    assert cohorts == tuple(by_hand)
    assert all(type(client) is int for cohort in cohorts for client in cohort)


@pytest.mark.parametrize("sampler", [UNIFORM, separated(), separated(1, 70_000)])
def test_everybody_every_round_is_one_cohort_told_many_times(sampler):
    cohorts = schedule(sampler, clients_of(50), 50, 70_000, 1)
    assert cohorts[0] == tuple(clients_of(50).tolist())
    assert all(cohort is cohorts[0] for cohort in cohorts), "70,000 copies"
    assert separation(cohorts) == 1


# ---- separated


@given(runs())
@settings(max_examples=300, deadline=None)
def test_nobody_returns_early_and_nobody_is_asked_more_often_than_must_be(run):
    clients, size, rounds, seed, apart = run
    candidates = clients_of(clients)
    cohorts = schedule(separated(apart), candidates, size, rounds, seed)
    assert len(cohorts) == rounds
    assert all(len(set(cohort)) == size and list(cohort) == sorted(cohort) for cohort in cohorts)
    assert {client for cohort in cohorts for client in cohort} <= set(candidates.tolist())
    assert min(gaps(cohorts), default=apart) >= apart
    asked = Counter(client for cohort in cohorts for client in cohort)
    times = [asked[client] for client in candidates.tolist()]
    assert max(times) - min(times) <= 1
    assert sum(times) == rounds * size


@given(runs(), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_schedule_follows_from_the_seed_and_not_from_what_comes_after(run, fewer):
    clients, size, rounds, seed, apart = run
    whole = schedule(separated(apart), clients_of(clients), size, rounds, seed)
    assert schedule(separated(apart), clients_of(clients), size, min(fewer, rounds), seed) == whole[:fewer]


def test_another_seed_draws_others():
    drawn = {schedule(separated(), clients_of(30), 10, 6, seed) for seed in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize(("clients", "size", "apart"), [(12, 3, 4), (13, 3, 4), (10, 10, 1), (10, 6, 1), (7, 2, 3)])
def test_null_keeps_clients_apart_as_long_as_there_are_others(clients, size, apart):
    cohorts = schedule(separated(), clients_of(clients), size, 200, 3)
    assert cohorts == schedule(separated(apart), clients_of(clients), size, 200, 3)
    assert min(gaps(cohorts)) == apart


def test_a_round_is_drawn_uniformly_from_those_who_may_be_asked():
    """Six clients in cohorts of three, twenty cohorts; the second round is the complement, the third is free again."""
    firsts = Counter()
    thirds = Counter()
    for seed in range(2000):
        first, second, third = schedule(separated(1), np.arange(6), 3, 3, seed)
        assert set(first) | set(second) == set(range(6))
        firsts[first] += 1
        thirds[third] += 1
    for drawn in (firsts, thirds):
        assert len(drawn) == 20
        assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_the_order_is_no_cycle_where_it_need_not_be():
    cohorts = schedule(separated(2), np.arange(12), 3, 40, 1)
    assert len(set(cohorts)) > 30
    assert all(not set(one) & set(other) for one, other in pairwise(cohorts))


@pytest.mark.parametrize(
    ("sampler", "line"),
    [
        (
            separated(4),
            "sampler.min_separation=4: must be at most 3: 10 clients hold data, 3 of them are asked each round",
        ),
        (
            separated(None, 3),
            "sampler.max_participations=3: must be at least 4: 11 rounds ask 3 of the 10 clients that hold data",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_arithmetic(sampler, line):
    with pytest.raises(ConfigError) as refusal:
        schedule(sampler, clients_of(10), 3, 11, 1)
    assert str(refusal.value) == line


def test_a_bound_that_can_just_be_kept_is_kept():
    cohorts = schedule(separated(3, 3), clients_of(10), 3, 10, 1)
    asked = Counter(client for cohort in cohorts for client in cohort)
    assert set(asked.values()) == {3}
    assert cohorts == schedule(separated(), clients_of(10), 3, 10, 1)


# ---- separation


@given(st.lists(st.sets(st.integers(0, 8), min_size=1, max_size=4).map(lambda c: tuple(sorted(c))), max_size=12))
@settings(max_examples=200, deadline=None)
def test_separation_is_the_least_gap_of_any_schedule(cohorts):
    assert separation(tuple(cohorts)) == min(gaps(tuple(cohorts)), default=len(cohorts) + 1)


def test_where_nobody_returns_the_separation_is_beyond_the_run():
    assert separation(schedule(separated(), clients_of(20), 4, 5, 1)) == 6
    assert separation(((1, 2), (3, 4), (5, 2))) == 2
