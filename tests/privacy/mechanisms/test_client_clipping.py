"""Clipping an update to a bound: never longer than it, and otherwise as little changed as can be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from privacy.mechanisms.client_clipping import clip_to
from tests.privacy.mechanisms.client_jobs import BOUNDS, exact_norm, updates


@given(updates(), BOUNDS)
@settings(max_examples=400, deadline=None)
def test_what_is_clipped_is_never_longer_than_the_bound(update_D, bound):
    before_D = update_D.clone()
    clipped_D, told = clip_to(update_D, bound)
    norm_before = exact_norm(before_D)
    assert exact_norm(clipped_D) <= bound
    assert told == pytest.approx(norm_before, rel=1e-12)
    assert torch.equal(update_D, before_D), "the caller's update was written to"
    assert clipped_D.dtype == torch.float32
    if norm_before > bound * (1 + 1e-9):  # the same direction, and no shorter than rounding asks for
        wanted_D = before_D.numpy().astype(np.float64) * (bound / norm_before)
        assert np.allclose(clipped_D.numpy(), wanted_D, rtol=5e-7, atol=1e-44)  # rounded towards zero, denormals too
    elif norm_before < bound * (1 - 1e-9):
        assert clipped_D.numpy().tobytes() == before_D.numpy().tobytes()


def test_just_below_the_bound_nothing_changes():
    update_D = torch.tensor([3.0, -4.0, 0.0])
    clipped_D, told = clip_to(update_D, 5.0 + 1e-9)  # closer than that, the rounding of the norm itself is in the way
    assert told == 5.0
    assert torch.equal(clipped_D, update_D)
    assert exact_norm(clip_to(update_D, math.nextafter(5.0, 0.0))[0]) < 5.0


def test_a_zero_update_stays_zero():
    clipped_D, told = clip_to(torch.zeros(7), 1e-6)
    assert told == 0.0
    assert clipped_D.tolist() == [0.0] * 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_no_scaling_mends_becomes_zero(value):
    update_D = torch.zeros(2000)
    update_D[1234] = value
    clipped_D, told = clip_to(update_D, 1.0)
    assert told == math.inf
    assert torch.equal(clipped_D, torch.zeros(2000))
