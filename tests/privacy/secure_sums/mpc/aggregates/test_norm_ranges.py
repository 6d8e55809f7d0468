"""`norm_bounded` by one party alone: who counts and who does not, within a second."""

import numpy as np
import pytest
import torch

from privacy.randomness import SeededRandomness
from privacy.secure_sums.mpc.aggregates.by_name import named
from tests.privacy.secure_sums.mpc.lone_party import stay_alone

BITS = 16
ONE = 1 << BITS
BOUND = 2 * ONE  # of a coordinate, in steps


@pytest.fixture
def revealed(monkeypatch):
    """The values that a party alone opens of rows of integers, shape (C, D + 1)."""
    stay_alone(monkeypatch)

    def reveal(rows, **options):
        aggregate = named("norm_bounded", coordinate_bound=2.0, **options)
        return aggregate.reveal(torch.tensor(rows, dtype=torch.int64), BITS, SeededRandomness("alone"))

    return reveal


@pytest.mark.parametrize("mode", ["zero", "rescale"])
def test_a_coordinate_whose_square_wraps_to_nothing_does_not_count(revealed, mode):
    """Either sign: 2^32 squared is 2^64, which the ring takes for 0, and so is any multiple of it."""
    wrapping = [sign * factor << 32 for sign in (1, -1) for factor in (1, 2, 3)]
    honest = [[ONE // 2, 0, ONE], [0, -ONE // 4, ONE // 2]]
    found = revealed([*([value, 0, ONE] for value in wrapping), *honest], norm=1.0, mode=mode)
    np.testing.assert_array_equal(found, [0.5, -0.25, 1.5])
    for value in wrapping:
        assert not revealed([[0, value, ONE]], norm=1.0, mode=mode).any(), value


def test_each_coordinate_is_held_to_both_ends_of_its_range(revealed):
    """Far below the norm, so that nothing else leaves anybody out."""
    for value, counts in ((BOUND, True), (-BOUND, True), (BOUND + 1, False), (-BOUND - 1, False)):
        for row in ([value, 0, ONE], [0, value, ONE]):
            assert revealed([row], norm=50.0)[-1] == counts, row


@pytest.mark.parametrize(("weight", "counts"), [(0, True), (ONE, True), (-1, False), (ONE + 1, False)])
def test_a_weight_is_held_to_both_ends_of_its_range(revealed, weight, counts):
    """Beside an honest one, whose weight alone is left where the other does not count."""
    found = revealed([[0, 0, weight], [0, 0, ONE // 2]], norm=1.0)
    assert found[-1] == 0.5 + counts * weight / ONE


def test_the_norm_scales_with_the_weight(revealed):
    """An update of norm 0.9 at half a weight counts, the same numbers at a tenth of one are a norm of 4.5."""
    update = int(0.45 * ONE)
    found = revealed([[update, 0, ONE // 2], [update, 0, ONE // 10]], norm=1.0)
    np.testing.assert_array_equal(found, [update / ONE, 0, 0.5])
