"""Any sequence of a server's acts, over attempts, rounds and runs, under every secure sum.

Whatever it sends, honest roles answer or refuse (the harness lets no other exception pass), nothing is opened but one
sum in a round, over enough clients, and the next round of an honest server ends right.
"""

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.addresses import Address
from privacy.secure_sums.contract import SecureSum
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.testing.contract import assert_sum, vectors
from privacy.testing.harness import RUN, UPDATE_BOUND, spec_of
from tests.adversary.harness import KINDS, Move, Said, World, play

COUNT = 5
LEAST = 3  # contributors: the configured minimum, and the threshold of secure aggregation among five
LENGTH = 6
MADE: Mapping[str, Callable[[], SecureSum]] = {
    "plain": PlainSum,
    "pad": partial(PadSum, "keyholder", UPDATE_BOUND),
    "pad of clients": partial(PadSum, "clients", UPDATE_BOUND),
    "bfv": partial(BfvSum, "clients", UPDATE_BOUND),
    "ckks": partial(CkksSum, "keyholder", UPDATE_BOUND),
    "crypten": partial(CryptenSum, 2, UPDATE_BOUND),
    "secagg": partial(SecAggSum, COUNT, bound=UPDATE_BOUND),
}
EXAMPLES = {"plain": 10, "pad": 30, "pad of clients": 30, "bfv": 8, "ckks": 8, "crypten": 8, "secagg": 10}

acts = st.lists(
    st.builds(
        Move,
        st.sampled_from(sorted(KINDS)),
        st.integers(0, 4),  # an exchange; the longest protocol has five
        st.integers(1, 2**COUNT - 1),
        st.integers(0, 2**16),
        st.booleans(),
    ),
    max_size=6,
)
# an attempt at round 1, another one, one at round 2, and one of another run
sequences = st.tuples(acts, acts, acts, acts)


@cache
def _set_up(name: str) -> World:
    world = World(MADE[name](), spec_of(LENGTH, COUNT, LEAST), vectors(COUNT, LENGTH))
    world.set_up()
    return world


def world_of(name: str) -> World:
    """A world whose set-up was honest, as it was after that."""
    made = _set_up(name)
    return World(made.secure_sum, made.spec, made.vectors, copy.deepcopy(made.stores), list(made.said))


def played(name: str, sequence: tuple[list[Move], ...]) -> World:
    world = world_of(name)
    for moves, (number, run) in zip(sequence, ((1, RUN), (1, RUN), (2, RUN), (1, "cd" * 32)), strict=True):
        play(world.attempt(number, run=run, moves=moves))
    return world


def check(name: str, sequence: tuple[list[Move], ...]) -> None:
    world = played(name, sequence)
    if name == "secagg":
        assert_one_list_is_opened(world)
    elif name != "plain":
        assert_one_sum_is_opened(world)
    total = world.attempt(number=3).aggregate()
    assert len(total.survivors) == COUNT
    assert_sum(total, world.vectors, world.secure_sum)


def by_round(world: World, stage: str) -> dict[tuple[str, int], list[Said]]:
    """The answered messages of a stage, by run and round."""
    found = defaultdict(list)
    for said in world.said:
        if said.stage == stage and said.reply is not None:
            found[said.run, said.number].append(said)
    return found


# ---- sums that a keyholder, a client or parties open


def assert_one_sum_is_opened(world: World) -> None:
    """In each round one set of clients, and neither an opened vector nor a difference of two is one client's."""
    for (run, number), answers in {**by_round(world, "open"), **by_round(world, "reveal")}.items():
        opened = [(contributors(said), vector(said)) for said in answers if vector(said) is not None]
        sets = {names for names, _ in opened}
        assert len(sets) <= 1, f"round {number} of run {run[:4]} was opened for {sets}"
        assert all(LEAST <= len(names) <= COUNT for names in sets)
        values = [value for _, value in opened]
        for told in (*values, *(a - b for a, b in itertools.permutations(values, 2))):
            assert not [name for name, own in world.vectors.items() if np.abs(told - own).max() < 0.01]


def contributors(said: Said) -> frozenset[Address]:
    named = said.request if said.stage == "open" else said.reply
    return frozenset(str((named or {}).get("contributors")).split(","))


def vector(said: Said) -> np.ndarray | None:
    return (said.reply or {}).get("opened" if said.stage == "open" else "sum")  # type: ignore[return-value]


# ---- secure aggregation


def assert_one_list_is_opened(world: World) -> None:
    """Each client releases shares for one list of survivors in a round, and enough of them do for one list alone."""
    signed = {(s.attempt, s.address): s.request["survivors"] for s in world.said if s.stage == "confirm" and s.reply}
    for answers in by_round(world, "unmask").values():
        lists = defaultdict(set)
        for said in answers:
            lists[said.address].add(signed[said.attempt, said.address])
        assert all(len(names) == 1 for names in lists.values()), lists
        given_out = [names for own in lists.values() for names in own]
        enough = {names for names in given_out if given_out.count(names) >= LEAST}
        assert len(enough) <= 1
        assert all(len(str(names).split(",")) >= LEAST for names in given_out)


# ---- the sequences


@pytest.mark.parametrize("name", MADE)
def test_no_sequence_opens_more_than_one_sum_or_spoils_a_later_round(name):
    @settings(deadline=None, max_examples=EXAMPLES[name])
    @given(sequences)
    def any_sequence(sequence):
        check(name, sequence)

    any_sequence()


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_nor_do_many_more(name):
    @settings(deadline=None, max_examples=20 * EXAMPLES[name])
    @given(sequences)
    def any_sequence(sequence):
        check(name, sequence)

    any_sequence()


# ---- controls: roles that keep no note of the set for which they opened a round

NOTES = {"secagg": "secagg.protocol.note_set", "crypten": "mpc.agreement.note_set"}
COLLECTING = {"pad": 0, "pad of clients": 1, "bfv": 1, "ckks": 0, "crypten": 0, "secagg": 2}  # number of the exchange


@pytest.mark.parametrize("name", COLLECTING)
def test_without_the_note_of_a_set_a_second_sum_is_opened_and_found(name, monkeypatch):
    again = [Move("drop", COLLECTING[name], 1, 0, instead=True)]
    check(name, ([], again, [], []))
    monkeypatch.setattr(f"privacy.secure_sums.{NOTES.get(name, 'he.protocol.note_set')}", lambda *_: None)
    with pytest.raises(AssertionError, match=r"was opened for|client/0,client/1"):
        check(name, ([], again, [], []))


def test_an_exception_that_is_no_refusal_is_found(monkeypatch):
    monkeypatch.setattr(SecAggSum, "_confirm", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        check("secagg", ([], [], [], []))
