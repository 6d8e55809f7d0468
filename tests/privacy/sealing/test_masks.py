"""Masks: uniform below any modulus, as a slow reference with big integers makes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from randomgen import ChaCha
from scipy.stats import chisquare

from privacy.randomness import SeededRandomness
from privacy.sealing import uniform
from tests.privacy.sealing.people import ALICE, BOB, HEADER, RANDOMNESS

MODULI = [2, 3, 255, 256, 257, 1000, 2**16, 2**16 + 1, 2**32, 2**32 + 1, 2**40 - 87, 2**54 - 33, 2**61 + 1, 2**64]


def slow(key: bytes, count: int, modulus: int) -> list[int]:
    """The slow reference with big integers, over the stream of another implementation of ChaCha20."""
    bits = (modulus - 1).bit_length()
    size = min(size for size in (1, 2, 4, 8) if size * 8 >= bits)
    stream = ChaCha(key=int.from_bytes(key, "little")).random_raw(4 * count + 64).astype("<u8").tobytes()
    words = [int.from_bytes(stream[at : at + size], "little") % 2**bits for at in range(0, len(stream), size)]
    return [word for word in words if word < modulus][:count]


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 500),
    st.sampled_from(MODULI) | st.integers(2, 2**64) | st.integers(2, 600),
)
def test_masks_are_those_of_big_integers(key, count, modulus):
    values = uniform(key, count, modulus)
    assert values.dtype == np.uint64
    assert values.shape == (count,)
    assert values.tolist() == slow(key, count, modulus)


@pytest.mark.parametrize("modulus", [2**16, 2**24, 2**40 - 87, 2**40 + 1, 2**61 + 1])
def test_masks_of_many_blocks_are_those_of_big_integers(modulus):
    # blocks are of 32,768 words
    key = RANDOMNESS.key()
    count = 100_000
    values = uniform(key, count, modulus)
    assert values.tolist() == slow(key, count, modulus)
    assert np.array_equal(uniform(key, 40_000, modulus), values[:40_000])


@pytest.mark.parametrize("modulus", MODULI)
def test_masks_are_uniform(modulus):
    values = uniform(SeededRandomness("uniform", modulus).key(), 200_000, modulus)
    bins = min(modulus, 250)
    edges = [-(-index * modulus // bins) for index in range(bins)]  # the least value of each bin
    counts = np.bincount(np.searchsorted(np.array(edges, np.uint64), values, "right") - 1, minlength=bins)
    widths = np.diff([*edges, modulus]).astype(float)
    assert int(values.max()) < modulus
    assert chisquare(counts, widths / widths.sum() * len(values)).pvalue > 1e-6


def test_both_ends_take_the_same_mask_off():
    modulus = 2**40 - 87
    secret = np.arange(1000, dtype=np.uint64)
    key = ALICE.shared(BOB.public, HEADER, b"salt")
    masked = (secret + uniform(key, 1000, modulus)) % modulus
    assert not np.array_equal(masked, secret)
    opened = (masked + modulus - uniform(BOB.shared(ALICE.public, HEADER, b"salt"), 1000, modulus)) % modulus
    assert np.array_equal(opened, secret)
