"""The charges of a try at a round: its cohort, and for a further try also the clients that its noise was drawn for."""

from collections import Counter

import pytest

from tests.composed import server_of, workspace_of

BANDS = 3
FTRL = (
    "mechanism=dp_ftrl",
    "clients=10",
    "cohort=2",
    "rounds=5",
    "noise=seeded",
    "delta=1e-3",
    "accountant=rdp",
    f"mechanism.dp_ftrl.bands={BANDS}",
)


def paid_for(folder, *rounds: int) -> Counter:
    """The number of charges of each client when these rounds are tried, in this order."""
    work = workspace_of(*FTRL)
    server = server_of(work, folder)
    paid: Counter = Counter()
    for number in rounds:
        before = Counter({client: sum(all_.values()) for client, all_ in server.ledger.ledger._paid.items()})
        server.charge(server._attempt(number), work.plan.cohort(number))
        after = Counter({client: sum(all_.values()) for client, all_ in server.ledger.ledger._paid.items()})
        paid = after - before
    return paid


def cohorts(*rounds: int) -> Counter:
    work = workspace_of(*FTRL)
    return Counter(client for number in rounds for client in work.plan.cohort(number))


@pytest.mark.parametrize(
    ("tried", "charged"),
    [
        ((1,), (1,)),
        ((1, 2, 3, 4), (4,)),
        ((1, 1), (1,)),
        ((1, 2, 2), (2, 1)),
        ((1, 2, 3, 3), (3, 2, 1)),
        ((1, 2, 3, 4, 4), (4, 3, 2)),
        ((1, 2, 3, 4, 4, 4), (4, 3, 2)),
        ((1, 2, 3, 4, 4, 5), (5,)),
    ],
)
def test_a_further_try_charges_every_round_in_the_window_and_no_other(tmp_path, tried, charged):
    """With three bands a round's noise is made of three rounds' draws: what the row of a second try releases again."""
    assert paid_for(tmp_path, *tried) == cohorts(*charged)


def test_a_server_that_starts_again_knows_what_was_tried(tmp_path):
    work = workspace_of(*FTRL)
    first = server_of(work, tmp_path)
    for number in (1, 2, 3):
        first.charge(first._attempt(number), work.plan.cohort(number))
    again = server_of(work, tmp_path)
    owed = again._owed(3, work.plan.cohort(3))
    assert Counter({client: len(charges) for client, charges in owed.items()}) == cohorts(3, 2, 1)
    owed = again._owed(4, work.plan.cohort(4))
    assert Counter({client: len(charges) for client, charges in owed.items()}) == cohorts(4)
