"""A server of secure aggregation that says that most of a cohort did not advertise, and one client that colludes."""

import pytest

from privacy.errors import PrivacyRefusal, TooFewContributors
from privacy.secure_sums.secagg.graph import CURIOUS, MALICIOUS
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.vectors import Vector
from tests.adversary.harness import World
from tests.adversary.sums.secagg import Careless, clients, flow, printed, reads, reference, world_of
from tests.experiments.command import fedveil
from tests.privacy.secure_sums.secagg.rounds import STAGES

COUNT = 10
LEAST = 7  # of ten, at the default drop-out rate


@pytest.mark.parametrize("listed", range(2, LEAST))
def test_no_client_takes_a_list_that_is_too_short_for_its_cohort(listed):
    world = world_of(COUNT, minimum=2)
    attempt = world.attempt()
    with pytest.raises(TooFewContributors):
        attempt.drive(flow(attempt, clients(listed)))
    refusals = [said.refusal for said in world.said if said.stage == "share_keys"]
    assert {str(refusal) for refusal in refusals} == {f"{listed} contributors are left of 10, 7 are needed"}
    assert len(refusals) == listed
    assert not [said for said in world.said if said.stage == "mask"]


def test_one_colluder_reads_no_update_and_the_printed_ones_do():
    assert printed(SecAggSum(COUNT), COUNT) == 4
    assert not reads(world_of(COUNT), 1)
    assert not reads(world_of(COUNT), 3)
    assert reads(world_of(COUNT), 4)


def test_of_clients_that_take_any_list_one_colluder_reads_an_update():
    """A control: the clients of `Careless` plan for the list alone."""
    assert reads(world_of(COUNT, Careless), 1)


@pytest.mark.parametrize("stage", STAGES[:3])
def test_an_honest_server_refuses_when_more_drop_out_than_the_card_says(stage):
    world = world_of(COUNT)
    for gone, right in ((4, False), (3, True)):
        attempt = world.attempt(number=1 + right, gone={stage: set(clients(gone))})
        if right:
            assert len(attempt.aggregate().survivors) == LEAST
        else:
            with pytest.raises(TooFewContributors, match="6 contributors are left of 10, 7 are needed"):
                attempt.aggregate()


def test_drop_outs_count_over_all_stages():
    """Two at once and then one are three; one more is too many, wherever."""
    world = world_of(COUNT)
    one = clients(COUNT)
    gone = {"advertise": set(one[:1]), "share_keys": set(one[:2]), "mask": set(one[:3]), "unmask": set(one[:3])}
    assert len(world.attempt(number=1, gone=gone).aggregate().survivors) == LEAST
    with pytest.raises(TooFewContributors, match="6 contributors are left of 10, 7 are needed"):
        world.attempt(number=2, gone=gone | {"mask": set(one[:4])}).aggregate()


def tried_again(server: str) -> tuple[World, Vector]:
    """The difference of the sums of a round's two attempts, with half of four clients at the end of each."""
    world = world_of(4, server=server, dropout_rate=0.5 if server == CURIOUS else 0.3)
    whole = world.attempt(gone={"unmask": {"client/2", "client/3"}}).aggregate()
    rest = world.attempt(gone={"advertise": {"client/0"}}).aggregate()
    return world, whole.update_D - rest.update_D


def test_a_round_that_is_tried_again_may_tell_two_sums_as_the_card_says_of_a_curious_server():
    """The threshold is met twice: by clients that release their shares the first time, and by others the next time."""
    world, difference_D = tried_again(CURIOUS)
    assert difference_D == pytest.approx(world.vectors["client/0"][:-1], abs=1e-3)
    told = reference(world).trust(world.spec).sentences["protocol"]
    assert any("may tell the server the difference of two sums" in sentence for sentence in told)


def test_it_tells_one_sum_where_the_server_may_be_malicious():
    with pytest.raises(PrivacyRefusal, match="2 neighbours released their share"):
        tried_again(MALICIOUS)


@pytest.mark.slow
def test_a_run_that_loses_more_ends_in_one_line(tmp_path):
    lost = ("faults.dropout_rate=0.6", "faults.dropout_stage=advertise")
    ended = fedveil("run", "secure_sum=secagg", "clients=10", "rounds=3", "model=logistic", *lost, folder=tmp_path)
    assert ended.status != 0
    assert "contributors are left of 10, 7 are needed" in ended.err.splitlines()[-1]
