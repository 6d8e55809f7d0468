"""Circuits on real parties against NumPy's integers, which wrap as the ring does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.privacy.secure_sums.mpc.committee import Committee, shared

EDGES = [-(2**63), 2**63 - 1, -(2**63) + 1, 0, 1, -1, 2, -2, 2**32, -(2**32), 2**31 - 1, 0x5555_5555_5555_5555]
words = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))
few = settings(max_examples=25, deadline=None)


def of(values) -> np.ndarray:
    return np.array(values, np.int64)


def shared_by_xor(values: np.ndarray, parties: int) -> list[np.ndarray]:
    generator = np.random.default_rng(len(values))
    shares = [generator.integers(-(2**63), 2**63, values.shape, np.int64) for _ in range(parties - 1)]
    return [*shares, np.bitwise_xor.reduce([values, *shares])]


def circuit(name, shares, *arguments):
    """In a party: run a circuit of the module, and open its result."""
    from privacy.secure_sums.mpc.crypten import bit_circuits as mpc
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    with crypten_party.computing():
        share = mpc.padded(torch.from_numpy(shares))
        opened = ONE_BY_ONE[name](mpc, share, *arguments)
    return opened.numpy()[..., : shares.shape[-1]]


ONE_BY_ONE = {
    "bits": lambda mpc, share: mpc.opened_bits(mpc.masked(share).bits()),
    "at_least": lambda mpc, share, low: mpc.opened_bits(mpc.unpacked(mpc.masked(share).at_least(low))),
    "at_most": lambda mpc, share, high: mpc.opened_bits(mpc.unpacked(mpc.masked(share).at_most(high))),
    "both": lambda mpc, share: mpc.opened_bits(mpc.both(share[0], share[1])),
    "added": lambda mpc, share: mpc.opened_bits(mpc.added(share[0], share[1])),
    "summed": lambda mpc, share: mpc.opened_bits(mpc.summed(share)),
    "sorted": lambda mpc, share: torch.stack([mpc.opened_bits(one) for one in mpc.sorted_pair(share[0], share[1])]),
    "shifted": lambda mpc, share, bits: mpc.rounded_shift(share, bits),
    "integers": lambda mpc, share: mpc.opened(mpc.bits_to_integers(share & 1)),
    "all_set": lambda mpc, share: mpc.opened_bits(mpc.all_set(share))[..., None],
    "plus": lambda mpc, share, public: mpc.opened(mpc.plus(share, public)),
    "product": lambda mpc, share: mpc.opened(mpc.product(share[0], share[1])),
    "squared": lambda mpc, share: mpc.opened(mpc.squared(share)),
}


def run(committee: Committee, name: str, shares: list[np.ndarray], *arguments: int) -> np.ndarray:
    first, *others = committee.call(circuit, [(name, own, *arguments) for own in shares])
    for other in others:
        np.testing.assert_array_equal(first, other)
    return first


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


pytestmark = pytest.mark.slow


@few
@given(values=st.lists(words, min_size=1, max_size=130))
def test_additive_shares_become_bits(committee, values):
    np.testing.assert_array_equal(run(committee, "bits", shared(of(values), committee.parties)), values)


@few
@given(values=st.lists(words, min_size=1, max_size=70), bound=words)
def test_a_sign_is_that_of_the_signed_word_that_is_left(committee, values, bound):
    """The signs of x - low and high - x, which wrap: both are at least 0 exactly where low <= x <= high."""
    shares = shared(of(values), committee.parties)
    at_least = run(committee, "at_least", shares, bound)
    at_most = run(committee, "at_most", shares, bound)
    assert at_least.tolist() == [wrapped(value - bound) >= 0 for value in values]
    assert at_most.tolist() == [wrapped(bound - value) >= 0 for value in values]


@few
@given(values=st.lists(words, min_size=1, max_size=70), reach=st.integers(0, 2**62 - 1))
def test_two_signs_are_a_range(committee, values, reach):
    shares = shared(of(values), committee.parties)
    within = run(committee, "at_least", shares, -reach) & run(committee, "at_most", shares, reach)
    assert within.tolist() == [-reach <= value <= reach for value in values]


pairs = st.lists(st.tuples(words, words), min_size=1, max_size=70)


@few
@given(values=pairs)
def test_words_of_a_pair_are_multiplied_added_and_sorted(committee, values):
    left_right = of(values).T
    shares = shared_by_xor(left_right, committee.parties)
    np.testing.assert_array_equal(run(committee, "both", shares), left_right[0] & left_right[1])
    np.testing.assert_array_equal(run(committee, "added", shares), left_right[0] + left_right[1])
    np.testing.assert_array_equal(run(committee, "sorted", shares), np.sort(left_right, axis=0))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 10])
def test_any_number_of_words_is_summed(committee, count):
    values = np.random.default_rng(count).integers(-(2**63), 2**63, (count, 65), np.int64)
    np.testing.assert_array_equal(run(committee, "summed", shared_by_xor(values, committee.parties)), values.sum(0))


@few
@given(values=st.lists(words, min_size=1, max_size=70), bits=st.integers(0, 40))
def test_a_shift_rounds_to_the_nearest_and_halves_upwards(committee, values, bits):
    rounded = run(committee, "shifted", shared(of(values), committee.parties), bits)
    assert rounded.tolist() == [wrapped(value + (1 << bits) // 2) >> bits for value in values]


def test_bits_become_integers(committee):
    values = np.random.default_rng(1).integers(0, 2, 100)
    np.testing.assert_array_equal(run(committee, "integers", shared_by_xor(values, committee.parties)), values)


@pytest.mark.parametrize("length", [64, 128, 192, 320])
def test_all_are_set_only_if_each_is(committee, length):
    rows = np.full((67, length), -1, np.int64)
    rows[1:65, 0] = [wrapped(-1 ^ 1 << bit) for bit in range(64)]
    rows[65, -1] = 2**63 - 1
    found = run(committee, "all_set", shared_by_xor(rows, committee.parties))
    assert found.ravel().tolist() == [1, *[0] * 65, 1]


@few
@given(values=pairs, public=words)
def test_arithmetic_is_that_of_the_ring(committee, values, public):
    left_right = of(values).T
    shares = shared(left_right, committee.parties)
    np.testing.assert_array_equal(run(committee, "product", shares), left_right[0] * left_right[1])
    np.testing.assert_array_equal(run(committee, "squared", shares), left_right * left_right)
    np.testing.assert_array_equal(run(committee, "plus", shares, public), left_right + of(public))
