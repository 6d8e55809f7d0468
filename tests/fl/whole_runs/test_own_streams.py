"""Whatever is drawn is drawn for one participant in one round: noise, the order of training, and what a role adds.

All clients hold the same examples here, so nothing but the streams can tell their contributions apart.
"""

from itertools import combinations, product

import numpy as np
import pytest

from fl.participant import Request, answer
from fl.workspace import Workspace
from tests.composed import workspace_of

CLIENTS = 3
ROUNDS = 3
EACH = list(product(range(CLIENTS), range(1, ROUNDS + 1)))
BASE = (f"clients={CLIENTS}", f"rounds={ROUNDS}", "training.weighting=uniform")


def alike(*overrides: str) -> Workspace:
    """A workspace whose clients hold the first one's examples."""
    work = workspace_of(*BASE, *overrides)
    work.plan.partitions[:] = [work.plan.partitions[0]] * CLIENTS
    return work


def update_of(work: Workspace, client: int, number: int) -> np.ndarray:
    request = Request(f"client/{client}", "collect", number, "first", {}, work.initial_D.numpy().copy())
    records, _ = answer(work, request, {})
    return np.array(records["vector"])[:-1]


def test_each_client_trains_in_an_order_of_its_own_in_each_round():
    work = alike("training.batch_size=8")
    updates = {(client, number): update_of(work, client, number) for client, number in EACH}
    for one, other in combinations(EACH, 2):
        assert not np.array_equal(updates[one], updates[other]), (one, other)
        assert np.allclose(updates[one], updates[other], atol=0.5), "they hold the same examples"
    for client, number in EACH:
        assert np.array_equal(updates[client, number], update_of(work, client, number))


@pytest.mark.parametrize("mechanism", ["local_dp", "dp_sgd"])
def test_each_client_has_seeded_noise_of_its_own_in_each_round(mechanism):
    """Over one full batch there is no order: what is left of two updates' difference is noise, as independent as it is.

    With a standard deviation of s in each, that of the difference is sqrt(2) s; with the same noise in both it is 0.
    """
    work = alike(f"mechanism={mechanism}", "noise=seeded", "delta=1e-5", "training.batch_size=10000")
    updates = {(client, number): update_of(work, client, number) for client, number in EACH}
    spread = np.std([updates[key] for key in EACH], axis=0).mean()  # of the noise alone
    for one, other in combinations(EACH, 2):
        assert np.std(updates[one] - updates[other]) > spread, (one, other)
    assert np.array_equal(updates[1, 2], update_of(work, 1, 2)), "it comes from the seed"


def test_a_role_is_given_seeded_noise_of_its_own_in_each_round(monkeypatch):
    """Parties of `noised_sum` add theirs from it; the server's is another one again."""
    work = alike("noise=seeded")
    drawn = {("server", number): work.plan.randomness("server", number).key() for number in (1, 2)}

    def respond(stage, inbound, me, contribution):
        drawn[me.address, me.round] = me.noise.key()
        return {}

    monkeypatch.setattr(work.plan.backend.secure_sum, "respond", respond)
    for address, number in product(("client/0", "client/1", "party/0", "party/1"), (1, 2)):
        answer(work, Request(address, "collect", number, "first", {}, None), {})
    assert len(set(drawn.values())) == len(drawn) == 10


def test_noise_of_the_operating_system_never_comes_again():
    work = alike("mechanism=local_dp", "delta=1e-3", "noise=os", "training.batch_size=10000")
    assert not np.allclose(update_of(work, 1, 2), update_of(work, 1, 2), atol=1e-3)
