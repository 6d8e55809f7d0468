"""Values beyond the bound of a vector's range: cut at either end, and counted; NaN stays, to be refused."""

import math

import numpy as np
import pytest
import torch

from fl.participant import limited

AT = float(np.float32(0.1))  # float32 rounds a tenth up, so the bound itself is the float32 below
BELOW = float(np.nextafter(np.float32(0.1), np.float32(0)))


@pytest.mark.parametrize(
    ("values", "left", "over"),
    [
        ([0.5, -0.25, 0.0], [0.5, -0.25, 0.0], 0),
        ([2.0, 0.5], [1.0, 0.5], 1),
        ([-2.0, 0.5], [-1.0, 0.5], 1),
        ([-3.0, -2.0, -1.0], [-1.0, -1.0, -1.0], 2),
        ([1.0, -1.0], [1.0, -1.0], 0),
        ([math.inf, -math.inf], [1.0, -1.0], 2),
    ],
)
def test_values_are_cut_at_both_ends(values, left, over):
    host_D = torch.tensor(values)
    assert limited(host_D, 1.0) == over
    assert host_D.tolist() == left


def test_a_bound_that_float32_rounds_up_is_not_passed():
    host_D = torch.tensor([AT, -AT, BELOW])
    assert limited(host_D, 0.1) == 2
    assert host_D.tolist() == [BELOW, -BELOW, BELOW]
    assert max(host_D.abs().tolist()) <= 0.1


def test_without_a_bound_nothing_is_cut():
    host_D = torch.tensor([1e30, -math.inf])
    assert limited(host_D, math.inf) == 0
    assert host_D.tolist() == [np.float32(1e30), -math.inf]


def test_what_is_no_number_stays():
    host_D = torch.tensor([math.nan, -2.0])
    assert limited(host_D, 1.0) == 1
    assert math.isnan(host_D[0])
    assert host_D[1] == -1.0
