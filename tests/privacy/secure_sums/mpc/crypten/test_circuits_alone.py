"""The circuits by one party alone, against Python's integers: signs that wrap, rounding, carries, and padding."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.secure_sums.mpc.crypten import bit_circuits as mpc
from tests.privacy.secure_sums.mpc.lone_party import stay_alone

EDGES = [0, 1, -1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]
words = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1))
often = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    stay_alone(monkeypatch)


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def signs(packed: torch.Tensor, count: int) -> list[bool]:
    return mpc.unpacked(packed)[:count].bool().tolist()


@often
@given(values=st.lists(words, min_size=1, max_size=70), bound=words)
def test_a_sign_is_that_of_the_signed_word_that_is_left(values, bound):
    hidden = mpc.masked(mpc.padded(torch.tensor(values)))
    assert signs(hidden.at_least(bound), len(values)) == [wrapped(value - bound) >= 0 for value in values]
    assert signs(hidden.at_most(bound), len(values)) == [wrapped(bound - value) >= 0 for value in values]


@often
@given(values=st.lists(words, min_size=1, max_size=70))
def test_the_bits_of_a_masked_word_are_its_own(values):
    assert mpc.masked(mpc.padded(torch.tensor(values))).bits()[: len(values)].tolist() == values


@often
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=70))
def test_words_of_a_pair_are_added_and_sorted(pairs):
    left, right = (mpc.padded(torch.tensor(side)) for side in zip(*pairs, strict=True))
    assert mpc.added(left, right)[: len(pairs)].tolist() == [wrapped(one + other) for one, other in pairs]
    small, great = mpc.sorted_pair(left, right)
    assert small[: len(pairs)].tolist() == [min(pair) for pair in pairs]
    assert great[: len(pairs)].tolist() == [max(pair) for pair in pairs]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 10])
def test_any_number_of_words_is_summed(count):
    values = np.random.default_rng(count).integers(-(2**63), 2**63, (count, 64), np.int64)
    np.testing.assert_array_equal(mpc.summed(torch.from_numpy(values)).numpy(), values.sum(0))


@pytest.mark.parametrize("bits", [1, 4, 20])
def test_a_shift_rounds_to_the_nearest_and_halves_upwards(bits):
    unit = 1 << bits
    values = [0, unit // 2, unit // 2 - 1, unit, -1, -unit // 2, -unit // 2 - 1, -unit, 7 * unit + unit // 2]
    found = mpc.rounded_shift(torch.tensor(values), bits).tolist()
    assert found == [(2 * value + unit) // (2 * unit) for value in values]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_all_are_set_only_if_each_is(count):
    packed = torch.full((count,), mpc.ALL)
    assert int(mpc.all_set(packed)) == 1
    for place in (0, count // 2, count - 1):
        for bit in (0, 31, 63):
            lacking = packed.clone()
            lacking[place] = lacking[place] ^ wrapped(1 << bit)
            assert int(mpc.all_set(lacking)) == 0, (place, bit)
