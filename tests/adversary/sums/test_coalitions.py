"""The smallest coalition that reads an update, found by force, is the one that the card prints.

Secure aggregation: the real protocol is attacked with each number of colluders in small cohorts, over all lengths of
lists and all ways to tell different survivors. In larger ones the shares of each secret are counted, client by client.
"""

from collections.abc import Iterator
from functools import lru_cache

import pytest

from privacy.errors import TooFewContributors
from privacy.secure_sums.secagg.graph import MALICIOUS, SERVERS, GraphPlan
from privacy.secure_sums.secagg.protocol import SecAggSum
from tests.adversary.sums.secagg import Careless, Lied, clients, printed, reads, reference, world_of

# ---- secure aggregation, by the real protocol

SMALL = (2, 3, 4, 5, 7, 10)


def check(count: int, server: str, minimum: int = 1) -> None:
    """At the printed number the attacks read the victim's vector, and at one fewer they do not."""
    world = world_of(count, minimum=minimum, server=server)
    number = printed(reference(world), count, minimum)
    lies = server == MALICIOUS
    assert reads(world, number, lies)
    assert number == 0 or not reads(world, number - 1, lies)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("count", SMALL)
def test_the_printed_coalition_reads_an_update_and_one_fewer_does_not(count, server):
    check(count, server)


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("count", [6, 8, 9, 11, 12, 20])
def test_so_it_is_in_other_cohorts(count, server):
    check(count, server)


@pytest.mark.parametrize("minimum", [2, 8, 9, 10])
def test_so_it_is_where_more_must_contribute(minimum):
    """Ten of ten must: a list of survivors without the victim is refused."""
    check(10, MALICIOUS, minimum)


@pytest.mark.parametrize("colluding", [1, 2])
def test_on_a_sparse_graph_the_printed_coalition_stands_beside_the_victim(colluding):
    """The 32 clients have 20 neighbours each: all on one side of the ring hear that the victim survived."""
    world = world_of(32)
    assert printed(reference(world), 32) == 2
    attempt = world.attempt()
    attempt.until(world.secure_sum.server(clients(32), world.spec), lambda exchange: exchange.stage == "confirm")
    victim = "client/0"
    names = sorted(clients(32))
    order = Lied(attempt, frozenset()).ring._order
    ring = [order[(order.index(victim) + step) % 32] for step in range(32)]
    beside = [ring[1], ring[-1]][:colluding]
    gone = [name for name in names if name != victim]
    told = {name: names if place <= 16 else gone for place, name in enumerate(ring) if name not in beside}
    update_D = Lied(attempt, frozenset(beside)).read(victim, told)
    assert (update_D is not None) is (colluding == 2)
    if update_D is not None:
        assert update_D == pytest.approx(world.vectors[victim], abs=1e-3)


# ---- secure aggregation, by counting shares

COHORTS = (*range(2, 13), 20, 31, 32, 33, 40, 60, 100, 200)
OTHERS = [(0.0, 0.0), (0.1, 0.2), (0.4, 0.05), (0.2, 0.1)]


def plans(secure_sum: SecAggSum, cohort: int, minimum: int) -> Iterator[GraphPlan]:
    """The plans for all lists that a client of the cohort takes."""
    for count in range(max(minimum, 1), cohort + 1):
        try:
            yield secure_sum.plan(count, cohort)
        except TooFewContributors:
            continue


def opens(plan: GraphPlan, minimum: int, colluding: int, lies: bool) -> bool:
    """True where so many colluders beside the victim have its update, with the survivors' lists that clients sign."""
    needed = max(minimum, plan.least)
    if colluding >= plan.threshold or colluding + 1 >= max(needed, plan.threshold):  # both secrets; or all others
        return True
    if not lies or plan.count - 1 < needed:
        return False
    return any(both(plan, set(split)) for split in placed(plan, colluding)) or thinned(plan, needed, colluding)


def thinned(plan: GraphPlan, needed: int, colluding: int) -> bool:
    """True where the victim hears of few sharers, which then count as gone, and the other holders release its seed.

    It masks with the sharers alone, so the keys of those that do not collude are enough. It does not sign a list of
    survivors with neighbours that are no sharers.
    """
    sharers = max(plan.threshold - plan.complete - colluding, 0)
    releasing = max(plan.threshold - colluding, 0)
    others = plan.degree - colluding
    return sharers + releasing <= others and plan.count - sharers >= needed


def placed(plan: GraphPlan, colluding: int) -> Iterator[list[int]]:
    """Places around the victim, which is at 0, for the colluders: on both sides of it, or on one."""
    yield [(place // 2 + 1) * (-1) ** place % plan.count for place in range(colluding)]
    yield list(range(1, colluding + 1))


def both(plan: GraphPlan, colluders: set[int]) -> bool:
    """True where clients of one part of the ring give enough shares of the seed, and the others enough of the key."""
    held = len(colluders & holders(plan, 0))
    if len(holders(plan, 0)) + held < 2 * plan.threshold:
        return False  # an honest holder gives one share, of either secret
    honest = [place for place in range(plan.count) if place not in colluders]
    for cut in range(1, len(honest) + 1):
        there = set(honest[:cut])  # hear that the victim, at place 0, survived
        gone = set(honest[cut:])
        shares = [len(released(plan, part, colluders)) for part in (there, gone)]
        if min(shares) + held >= plan.threshold:
            return True
    return False


def released(plan: GraphPlan, told: set[int], colluders: set[int]) -> list[int]:
    """The holders of the victim's shares for whom enough signed what they were told."""
    mine = holders(plan, 0) & told
    return [place for place in mine if len((told | colluders) & holders(plan, place)) >= plan.threshold]


@lru_cache(maxsize=1024)
def holders(plan: GraphPlan, place: int) -> frozenset[int]:
    """The places of the holders of a client's shares, by the distance around the ring."""
    if plan.complete:
        return frozenset(range(plan.count))
    half = plan.degree // 2
    return frozenset((place + step) % plan.count for step in range(-half, half + 1) if step)


def twice(first: GraphPlan, second: GraphPlan, minimum: int, colluding: int) -> bool:
    """True where two attempts at a round open two sums, whose difference is the victim's update, on complete graphs.

    Each honest client releases its shares for one set of survivors in a round, so each release counts once.
    """
    survivors = min(first.count, second.count + 1)  # at the second attempt the victim is left out
    needed = max(minimum, first.least, second.least)
    honest = survivors - colluding
    released = [max(plan.threshold - colluding, 0) for plan in (first, second)]
    return survivors - 1 >= needed and sum(released) <= honest and released[1] <= honest - 1


def least(secure_sum: SecAggSum, cohort: int, minimum: int, lies: bool) -> int:
    """The least number of colluders that opens an update, over all lists, in one attempt or in two."""
    taken = list(plans(secure_sum, cohort, minimum))
    pairs = [(a, b) for a in taken for b in taken if lies and a.complete and b.complete]
    for colluding in range(cohort):
        if any(opens(plan, minimum, colluding, lies) for plan in taken):
            return colluding
        if any(twice(first, second, minimum, colluding) for first, second in pairs):
            return colluding
    raise AssertionError("a whole cohort but one reads the one")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("count", COHORTS)
def test_counted_over_all_lists_it_is_the_printed_one(count, server):
    secure_sum = SecAggSum(count, server=server)
    assert least(secure_sum, count, 2, server == MALICIOUS) == printed(secure_sum, count, 2)


@pytest.mark.parametrize("rates", OTHERS)
@pytest.mark.parametrize("count", [3, 8, 10, 25, 33, 50])
def test_so_it_is_at_other_rates(rates, count):
    for server in SERVERS:
        secure_sum = SecAggSum(count, server=server, dropout_rate=rates[0], collusion_rate=rates[1])
        for minimum in (1, 2, count - 1, count):
            assert least(secure_sum, count, minimum, server == MALICIOUS) == printed(secure_sum, count, minimum)


@pytest.mark.parametrize(("count", "old"), [(10, 1), (15, 1), (20, 2), (31, 2), (40, 3)])
def test_clients_that_plan_for_any_list_need_a_smaller_coalition(count, old):
    """A control: what the same count finds where clients take short lists."""
    assert least(Careless(count), count, 1, lies=True) <= old < printed(SecAggSum(count), count)
