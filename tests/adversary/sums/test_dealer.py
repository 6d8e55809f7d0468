"""A dealer that breaks the protocol learns nothing by itself, and with the server or a party as much as the card says.

It may spoil a total or end a round in one line. The parties open nothing but uniform words on the way, whatever it
deals, because they draw the masks themselves.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from privacy.errors import PrivacyRefusal, RuntimeFailure
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing.harness import spec_of
from tests.adversary.sums import dealing
from tests.adversary.sums.dealing import PARTIES, Played, Table

pytestmark = pytest.mark.slow  # three processes, which import CrypTen

MEDIAN = {"name": "median"}
NORM_BOUNDED = {"name": "norm_bounded", "norm": 1000.0}
VALUES = np.array([[7, -3, 1], [9, 100, 1], [-20, 500, 1]], np.int64)
OTHERS = np.array([[70, 3, 1], [-900, 10, 1], [2, -5, 1]], np.int64)
MIDDLE = [21.0, 300.0, 3.0]  # three times the median, and the weight
VICTIM = 2
FAR = 1 << 40

SPOILING = {
    "wrong": dealing.wrong,
    "zeros": dealing.zeros,
    "the same again": dealing.same,
    "fewer than said": dealing.fewer_than_said,
}
ENDING = {
    "twice": dealing.twice,
    "nothing": dealing.nothing,
    "gone": dealing.gone,
    "fewer": dealing.fewer,
    "a text": partial(dealing.said, "many"),
    "a negative size": partial(dealing.said, (-1,)),
}


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """Two parties and a dealer."""
    made = Table()
    yield made
    made.close()


def uniform(words: list[np.ndarray]) -> bool:
    """True where ones and zeros are as many as in random words, within six standard deviations."""
    bits = np.unpackbits(np.concatenate([one.ravel() for one in words]).view(np.uint8))
    return bool(abs(int(bits.sum()) - len(bits) / 2) <= 3 * np.sqrt(len(bits)))


def check(played: Played) -> None:
    """Each party has a total or an error of one line, and has opened nothing before but uniform words."""
    for party in played.parties:
        whole = isinstance(party.result, np.ndarray)
        assert whole or isinstance(party.result, RuntimeFailure | PrivacyRefusal), party.result
        assert whole or "\n" not in str(party.result)
        masked = party.opened[:-1] if whole else party.opened
        assert not masked or uniform(masked)


def honest_round(table: Table) -> Played:
    played = table.play(dealing.honest, VALUES, MEDIAN)
    for party in played.parties:
        np.testing.assert_array_equal(party.result, MIDDLE)
    check(played)
    return played


def test_an_honest_dealer_and_a_late_one_give_the_median(table):
    opened = honest_round(table).parties[0].opened
    assert not uniform(opened[-1:])  # the control: the result itself does not look random
    for party in table.play(dealing.late, VALUES, MEDIAN).parties:
        np.testing.assert_array_equal(party.result, MIDDLE)


@pytest.mark.parametrize("aggregate", [MEDIAN, NORM_BOUNDED], ids=["median", "norm_bounded"])
@pytest.mark.parametrize("name", SPOILING)
def test_wrong_values_give_a_wrong_total_at_most(table, name, aggregate):
    played = table.play(SPOILING[name], VALUES, aggregate)
    for party in played.parties:
        whole = isinstance(party.result, np.ndarray)
        assert whole or isinstance(party.result, RuntimeFailure | PrivacyRefusal), party.result
    if aggregate is MEDIAN:
        check(played)


@pytest.mark.parametrize("name", ENDING)
def test_a_dealer_that_does_not_answer_right_ends_the_round_in_one_line(table, name):
    played = table.play(ENDING[name], VALUES, MEDIAN)
    check(played)
    assert all(isinstance(party.result, RuntimeFailure) for party in played.parties)
    honest_round(table)


def test_the_dealer_is_told_the_same_whatever_the_clients_sent(table):
    requests = [table.play(dealing.honest, values, MEDIAN).dealer.requests for values in (VALUES, OTHERS)]
    assert requests[0]
    assert requests[0] == requests[1]


def test_the_dealer_with_one_partys_messages_reads_all_updates_and_a_party_alone_none(table):
    played = honest_round(table)
    for party in played.parties:
        masked = party.opened[0]
        np.testing.assert_array_equal((masked - played.dealer.masks[0])[:, : VALUES.shape[1] - 1], VALUES[:, :-1])
        assert uniform([masked - party.own_masks[0]])
    assert ("the dealer", "any one party") in coalitions()


def test_a_dealer_that_moves_the_values_of_the_others_has_one_update_opened_as_the_card_says(table):
    """The server reads it off the total, without any message between the parties."""
    others = [client for client in range(len(VALUES)) if client != VICTIM]
    shift_CN = np.zeros((len(VALUES), 64), np.int64)
    shift_CN[others[0]] = FAR
    shift_CN[others[1]] = -FAR
    played = table.play(partial(dealing.shifted, shift_CN), VALUES, MEDIAN)
    check(played)
    for party in played.parties:
        np.testing.assert_array_equal(party.result, len(VALUES) * VALUES[VICTIM])
    assert ("the dealer", "the server") in coalitions()


def coalitions() -> tuple[tuple[str, ...], ...]:
    """The coalitions of the card."""
    return CryptenSum(PARTIES, aggregate=MEDIAN).trust(spec_of(2, len(VALUES))).coalitions
