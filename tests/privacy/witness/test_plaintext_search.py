"""Windows: a piece of a plaintext is found at any byte, in any encoding, and not in noise."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.randomness import OsRandomness, SeededRandomness
from privacy.secure_sums.declarations import Encoding
from privacy.secure_sums.packing import pack_words
from privacy.witness.plaintext_search import PIECES, WINDOW_BYTES, holds_any, most_windows, windows_of

VECTOR = np.random.default_rng(0).normal(0, 0.01, 1500).astype(np.float32)
WORDS = np.rint(VECTOR * 2**16).astype(np.int64).astype(np.uint64) & np.uint64(2**20 - 1)
CODED = (Encoding(WORDS, 20),)
ALL = windows_of(VECTOR, CODED, SeededRandomness("windows"))

WRITTEN = {
    "float32": b"".join(struct.pack("<f", x) for x in VECTOR),
    "float32, big-endian": b"".join(struct.pack(">f", x) for x in VECTOR),
    "float64": b"".join(struct.pack("<d", x) for x in VECTOR),
    "float16": b"".join(struct.pack("<e", x) for x in VECTOR),
    "bfloat16": b"".join(struct.pack("<f", x)[2:] for x in VECTOR),
    "uint32": b"".join(struct.pack("<I", x) for x in WORDS.tolist()),
    "packed": pack_words(WORDS, 20),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("offset", [0, 1, 2, 7, 1001])
def test_the_plaintext_is_found_wherever_it_lies(kind, offset):
    assert holds_any(os.urandom(offset) + WRITTEN[kind] + os.urandom(33), ALL)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 3000))
def test_a_single_window_is_found(seed, offset):
    generator = np.random.default_rng(seed)
    window = ALL[generator.integers(len(ALL))].tobytes()
    noise = generator.bytes(3000)
    assert not holds_any(noise, ALL)
    assert holds_any(noise[:offset] + window + noise[offset:], ALL)
    assert (
        not holds_any(noise[:offset] + window[:-1] + noise[offset:], ALL) or noise[offset : offset + 1] == window[-1:]
    )


def test_zeros_and_constants_make_no_window():
    assert not len(windows_of(np.zeros(500, np.float32), (), OsRandomness()))
    assert not len(windows_of(np.full(500, 0.25, np.float32), (), OsRandomness()))


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 63, 64, 65])
def test_short_vectors_have_what_windows_they_can(length):
    windows = windows_of(VECTOR[:length], (Encoding(WORDS[:length], 20),), OsRandomness())
    assert windows.shape[1] == WINDOW_BYTES
    assert bool(len(windows)) == (length >= 3)
    assert not len(windows) or holds_any(VECTOR[:length].astype(np.float64).tobytes(), windows)


def test_long_vectors_are_sampled_afresh_each_time():
    vector = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    first, second = (windows_of(vector, (), OsRandomness()) for _ in range(2))
    assert len(first) <= 7 * PIECES
    assert {w.tobytes() for w in first} != {w.tobytes() for w in second}


def test_data_too_short_for_a_window_holds_none():
    assert not holds_any(b"", ALL)
    assert not holds_any(ALL[0].tobytes()[:15], ALL)
    assert holds_any(ALL[0].tobytes(), ALL)


def test_fewer_windows_are_looked_for_in_more_bytes():
    assert most_windows(10**6, 2.0**-60) * 10**6 * 2.0**-96 <= 2.0**-60
    assert most_windows(10**6, 2.0**-60) > most_windows(10**7, 2.0**-60)
