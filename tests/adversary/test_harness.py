"""The harness itself: what each move makes of a message, and roles that lie or collude."""

import numpy as np
import pytest

from privacy.errors import PrivacyRefusal
from privacy.secure_sums.contract import Records
from privacy.secure_sums.he.sums import PadSum
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.testing.contract import assert_sum, vectors
from privacy.testing.harness import UPDATE_BOUND, spec_of
from tests.adversary.harness import KINDS, Liar, Move, World, play, struck_off

COUNT = 4
ALL = 2**COUNT - 1


def world_of(secure_sum) -> World:
    world = World(secure_sum, spec_of(3, COUNT, 2), vectors(COUNT, 3))
    world.set_up()
    return world


def pad() -> World:
    return world_of(PadSum("keyholder", UPDATE_BOUND))


def secagg() -> World:
    return world_of(SecAggSum(COUNT, bound=UPDATE_BOUND))


def asked(world: World, move: Move) -> list[tuple[str, str, Records]]:
    """All that is said in an attempt with one move, after an honest attempt at another round, for replays."""
    honest = world.attempt(number=1)
    honest.aggregate()
    start = len(world.said)
    play(world.attempt(number=2, moves=[move]))
    return [(said.stage, said.address, said.request) for said in world.said[start:]]


# ---- moves


def test_a_drop_is_silence_and_a_delay_brings_what_was_held_back():
    said = asked(pad(), Move("drop", 0, 1, 0, instead=True))
    assert ("collect", "client/0") not in {(stage, address) for stage, address, _ in said}
    world = secagg()
    attempt = world.attempt(moves=[Move("drop", 1, 1, 0, instead=True), Move("delay", 2, 1, 0, instead=False)])
    attempt.aggregate()
    stages = [said.stage for said in world.said if said.address == "client/0"]
    assert stages == ["advertise", "share_keys"]
    assert world.last("client/0").reply is not None, "it is asked late, and answers in its own time"


def test_a_repetition_asks_twice_and_the_honest_message_counts_as_the_second():
    said = asked(secagg(), Move("repeat", 0, 1, 0, instead=False))
    assert [stage for stage, address, _ in said if address == "client/0"][:2] == ["advertise", "advertise"]


def test_a_replay_is_a_message_of_another_round():
    world = secagg()
    said = asked(world, Move("replay", 1, 1, 0, instead=True))
    (replayed,) = [request for stage, address, request in said if (stage, address) == ("share_keys", "client/0")]
    before = next(one for one in world.said if (one.stage, one.address) == ("share_keys", "client/0"))
    assert replayed == before.request
    assert before.number == 1


def test_a_list_is_struck_with_all_that_goes_with_it_and_for_some_roles_only():
    request = {"clients": "client/0,client/1,client/2", "keys": b"aabbcc", "signatures": b"ABC", "other": b"12345"}
    struck = struck_off(request, "clients", "client/1")
    assert struck == {"clients": "client/0,client/2", "keys": b"aacc", "signatures": b"AC", "other": b"12345"}
    said = asked(secagg(), Move("strike", 1, 0b0101, 0, instead=True))
    lists = {
        address: str(request["clients"]).count(",") + 1 for stage, address, request in said if stage == "share_keys"
    }
    assert lists == {"client/0": 3, "client/1": 4, "client/2": 3, "client/3": 4}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_move_is_survived_and_the_next_round_is_right(kind):
    for made in (pad, secagg):
        world = made()
        for instead in (False, True):
            play(world.attempt(number=1, moves=[Move(kind, when, ALL, 5, instead) for when in range(5)]))
        assert_sum(world.attempt(number=2).aggregate(), world.vectors, world.secure_sum)


# ---- roles


def altered(stage: str, name: str, change) -> Liar:
    """A liar that alters one record of its answers at a stage."""

    def lie(at, request, me, honest):
        reply = dict(honest())
        return {**reply, name: change(reply[name])} if at == stage else reply

    return lie


def test_a_client_that_lies_about_a_share_ends_the_round():
    world = secagg()
    liar = altered("unmask", "shares", lambda shares: bytes([shares[0] ^ 1]) + shares[1:])
    assert isinstance(play(world.attempt(liars={"client/1": liar})), ValueError)
    assert_sum(world.attempt(number=2).aggregate(), world.vectors, world.secure_sum)


def test_a_keyholder_that_lies_spoils_the_sum_and_nothing_else():
    world = pad()
    total = world.attempt(liars={"keyholder": altered("open", "opened", lambda opened: opened + 1)}).aggregate()
    exact = np.sum([vector[:-1] for vector in world.vectors.values()], axis=0)
    assert np.allclose(total.update_D, exact + 1, atol=1e-2)


def test_a_party_that_lies_is_found_out_by_the_others():
    world = world_of(CryptenSum(2, UPDATE_BOUND))
    liar = altered("reveal", "digest", lambda digest: digest[::-1])
    with pytest.raises(PrivacyRefusal, match="party/1 revealed a different sum"):
        world.attempt(liars={"party/1": liar}).aggregate()


def test_a_colluder_answers_as_often_as_it_is_asked():
    world = pad()
    attempt = world.attempt()
    attempt.aggregate()
    (opened,) = [said for said in world.said if said.stage == "open"]
    assert attempt.ask("keyholder", "open", opened.request).refusal is not None
    fresh = world.attempt(number=2).double("keyholder")
    assert attempt.ask("keyholder", "open", opened.request, fresh).refusal is not None, "other round, other masks"
