"""The search: every run of ten unmasked values is found, at any byte, in any encoding; in noise there is none."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_sums.declarations import Encoding
from privacy.secure_sums.packing import pack_words
from privacy.witness import plaintext_search
from privacy.witness.plaintext_search import PIECE_BYTES, RUN, Content, Plaintext, find_piece, piece_bytes

BITS = 26
VECTOR = np.random.default_rng(0).normal(0, 0.01, 1500).astype(np.float32)
WORDS = (np.rint(VECTOR * 2**20).astype(np.int64) + 2**23).astype(np.uint64)
ALL = Plaintext(VECTOR, (Encoding(WORDS, BITS),))


def packed(values: np.ndarray, bits: int) -> bytes:
    """The whole bytes of packed values: without the zeros that fill the last group of eight."""
    return pack_words(values, bits)[: len(values) * bits // 8]


# how a run of values is written, by struct and by the packing of the secure sums
WRITTEN = {
    "float32": lambda run: b"".join(struct.pack("<f", x) for x in VECTOR[run]),
    "float32, big-endian": lambda run: b"".join(struct.pack(">f", x) for x in VECTOR[run]),
    "float64": lambda run: b"".join(struct.pack("<d", x) for x in VECTOR[run]),
    "float64, big-endian": lambda run: b"".join(struct.pack(">d", x) for x in VECTOR[run]),
    "float16": lambda run: b"".join(struct.pack("<e", x) for x in VECTOR[run]),
    "bfloat16": lambda run: b"".join(struct.pack("<f", x)[2:] for x in VECTOR[run]),
    "bfloat16, big-endian": lambda run: b"".join(struct.pack(">f", x)[:2] for x in VECTOR[run]),
    "uint32": lambda run: b"".join(struct.pack("<I", x) for x in WORDS[run].tolist()),
    "uint64, big-endian": lambda run: b"".join(struct.pack(">Q", x) for x in WORDS[run].tolist()),
    "packed": lambda run: packed(WORDS[run], BITS),
}


def found(data: bytes, plaintext: Plaintext = ALL, least: int = PIECE_BYTES) -> bool:
    return find_piece(data, plaintext, least) is not None


@pytest.mark.parametrize("kind", WRITTEN)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), offset=st.integers(0, 300), start=st.integers(0, len(VECTOR) - RUN))
def test_every_run_of_ten_values_is_found(kind, seed, offset, start):
    noise = np.random.default_rng(seed).bytes(400)
    run = WRITTEN[kind](slice(start, start + RUN))
    assert found(noise[:offset] + run + noise[offset:])
    assert not found(noise)


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_last_ten_and_the_first_ten_are_found_too(kind):
    for run in (slice(0, RUN), slice(len(VECTOR) - RUN, len(VECTOR))):
        assert found(WRITTEN[kind](run))


@pytest.mark.parametrize("bits", [1, 4, 5, 8, 12, 13, 16, 17, 20, 26, 32, 33, 57, 64])
def test_of_packed_values_it_takes_one_byte_more_than_a_piece(bits):
    """The smallest run that is found at each encoding, from each of the places within a byte."""
    generator = np.random.default_rng(bits)
    words = generator.integers(0, 2**bits, 600, np.uint64, endpoint=False)
    plaintext = Plaintext(words, (Encoding(words, bits),))
    least = max(RUN, -(-8 * (PIECE_BYTES + 1) // bits))
    for start in range(100, 116):
        stream = int.from_bytes(pack_words(words, bits), "little")
        begin = -(-start * bits // 8)
        end = (start + least) * bits // 8
        assert found((stream >> 8 * begin).to_bytes(len(words) * 8, "little")[: end - begin], plaintext)


def test_what_is_packed_from_any_value_on_is_found():
    for first in range(16):
        assert found(packed(WORDS[first : first + 500], BITS)[3:40])


def test_shorter_runs_may_pass():
    assert not found(WRITTEN["float32"](slice(40, 43)))
    assert not found(WRITTEN["float32"](slice(40, 50)), least=41)


def test_a_piece_that_breaks_off_is_none():
    run = WRITTEN["float32"](slice(40, 44))
    assert found(run)
    assert not found(run[:-1] + bytes([run[-1] ^ 1]))


def test_zeros_and_constants_make_no_piece():
    for value in (0.0, 0.25):
        constant = np.full(500, value, np.float32)
        assert not found(constant.tobytes(), Plaintext(constant, ()))


def test_between_zeros_a_run_is_found():
    sparse = np.where(np.arange(1500) % 500 < RUN, VECTOR, np.float32(0))
    assert found(bytes(4000) + sparse.tobytes() + bytes(4000), Plaintext(sparse, ()))


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 63, 64, 65])
def test_of_a_short_vector_the_whole_is_found(length):
    short = Plaintext(VECTOR[:length], (Encoding(WORDS[:length], BITS),))
    assert found(VECTOR[:length].astype(np.float64).tobytes(), short) == (length >= 2)
    assert found(pack_words(WORDS[:length], BITS), short) == (length * BITS // 8 >= PIECE_BYTES)


def test_neither_chunks_nor_blocks_hide_a_run(monkeypatch):
    monkeypatch.setattr(plaintext_search, "_CHUNK", 1 << 10)
    monkeypatch.setattr(plaintext_search, "_BLOCK", 1 << 7)
    noise = np.random.default_rng(1).bytes(5000)
    for start in range(0, 1400, 37):
        run = WRITTEN["packed"](slice(start, start + RUN))
        place = find_piece(noise[: 3 * start] + run + noise[3 * start :], ALL, PIECE_BYTES)
        assert place is not None
        assert 3 * start <= place < 3 * start + len(run)
    assert not found(noise)


def test_of_the_content_of_a_box_sixteen_bytes_are_a_piece():
    content = np.random.default_rng(2).bytes(1000)
    assert found(bytes(7) + content[500:516] + bytes(7), Content(content))
    assert not found(bytes(7) + content[500:515] + bytes(7), Content(content))
    assert not found(content, Content(b""))


def test_data_too_short_for_a_piece_holds_none():
    assert not found(b"")
    assert not found(WRITTEN["float32"](slice(0, RUN))[: PIECE_BYTES - 1])


def test_the_allowed_probability_sets_the_size_of_a_piece():
    assert piece_bytes(1, 1, 2.0**-10) == PIECE_BYTES
    for searched, pieces, allowed in ((10**8, 10**9, 1e-15), (10**10, 10**11, 1e-18)):
        size = piece_bytes(searched, pieces, allowed)
        assert searched * pieces * 2.0 ** (-6 * size) <= allowed
        assert searched * pieces * 2.0 ** (-6 * (size - 1)) > allowed


def test_noise_holds_no_piece_over_many_seeds():
    for seed in range(50):
        generator = np.random.default_rng(seed)
        vector = generator.normal(0, 0.01, 2000).astype(np.float32)
        coded = Encoding((np.rint(vector * 2**20).astype(np.int64) + 2**23).astype(np.uint64), BITS)
        assert not found(generator.bytes(8000), Plaintext(vector, (coded,)))
