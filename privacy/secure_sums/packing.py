"""Packing of integers with a fixed number of bits into bytes, one after the other, without gaps.

Shapes: N integers, a multiple of eight; D integers, any number.
"""

import numpy as np
from numpy.typing import NDArray

from privacy.errors import MalformedContribution

Words = NDArray[np.uint64]


def word_bits(bits: int) -> int:
    """The number of bits that an integer takes: each must lie within a 64-bit word that starts at a byte."""
    return bits if bits <= 58 else 60 if bits <= 60 else 64


def pack_words(words_D: Words, bits: int) -> bytes:
    """Pack integers below 2^bits, one after the other; zeros fill the last group of eight."""
    padded = np.zeros(-(-len(words_D) // 8) * 8, np.uint64)
    padded[: len(words_D)] = words_D
    return pack(padded, word_bits(bits))


def unpack_words(message: object, count: int, bits: int) -> Words:
    """Unpack the result of `pack_words`, shape (count,).

    Raises:
        MalformedContribution: another length, an integer of 2^bits or more, or nonzero bits after the last one.
    """
    expected = -(-count // 8) * word_bits(bits)
    if not isinstance(message, bytes) or len(message) != expected:
        got = f"{len(message)} bytes" if isinstance(message, bytes) else type(message).__name__
        raise MalformedContribution(f"{count} integers of {bits} bits take {expected} bytes, got {got}")
    words = unpack(message, word_bits(bits))
    if words[count:].any() or int(words.max(initial=0)) >> bits:
        raise MalformedContribution(f"an integer of {bits} bits has more, or there are more than {count}")
    return words[:count]


def pack(words_N: Words, bits: int) -> bytes:
    """Pack integers below 2^bits, the lowest bit first, into N * bits / 8 bytes. N is a multiple of 8."""
    packed = np.zeros(len(words_N) * bits // 8 + 8, np.uint8)
    for lane in range(8):
        words = _lane(packed.data, lane, bits, len(words_N))
        words |= words_N[lane::8] << np.uint64(lane * bits % 8)
    return packed[:-8].tobytes()


def unpack(data: bytes, bits: int) -> Words:
    """Unpack the result of `pack`, shape (N,)."""
    words_N = np.empty(len(data) * 8 // bits, np.uint64)
    padded = memoryview(data + bytes(8))
    mask = np.uint64((1 << bits) - 1)
    for lane in range(8):
        words_N[lane::8] = (_lane(padded, lane, bits, len(words_N)) >> np.uint64(lane * bits % 8)) & mask
    return words_N


def _lane(packed: memoryview, lane: int, bits: int, count: int) -> Words:
    """A view of every eighth integer: unaligned 64-bit words, `bits` bytes apart, from the integer's first byte on."""
    return np.ndarray((count // 8,), np.dtype("<u8"), packed, offset=lane * bits // 8, strides=(bits,))
