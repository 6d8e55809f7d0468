"""A search for pieces of a plaintext in outgoing data, at every byte of the data, and over the whole plaintext.

A piece is a run of consecutive values in one of the plaintext's texts: floats of any width and byte order, or the
integers of the sum's encoding, as words or packed. The search finds every run of at least `RUN` values that fills
`piece_bytes` bytes or, packed, one byte more, because packed values begin within a byte. Runs of fewer than six
distinct bytes, such as zeros, do not count: any header may hold them.

Method: an anchor is a word of eight bytes. The anchors of a text lie so densely that every such run holds one. A table
of the hashes of all words of the data, at every byte, sorts out most anchors. The remaining ones are compared exactly,
and the equal ones extended to both sides. The time is linear in data and plaintext; the memory is bounded by the sizes
of a chunk and a block.

If each of n bytes of the data has at least 6 bits of entropy, one of m pieces of b bytes occurs somewhere in them with
probability at most n m 2^(-6 b). `piece_bytes` is the least b, but at least 16, at which this is allowed.

Shapes: D is the length of the vector, V that of a block, W the number of words, A of anchors, B bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.secure_sums.declarations import Encoding, Integers
from privacy.secure_sums.packing import pack, word_bits

RUN = 10  # number of unmasked values in a row that are found; an output layer of ten classes has as many biases
PIECE_BYTES = 16  # least size of a piece
_ENTROPY_BITS = 6  # of a byte of protected data
_DISTINCT = 6  # least number of distinct bytes of a piece
_FLOATS = ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2")
_WORDS = (1, 2, 4, 8)  # sizes of NumPy's integers, in bytes

_ANCHOR_BYTES = 8
_CHUNK = 1 << 25  # bytes of the data that one table holds
_BLOCK = 1 << 16  # values of the plaintext that are written at once, and words that are hashed at once
_MARGIN = 512  # least common part of two successive chunks in bytes, or blocks in values: more than a run has
_LOAD_BITS = 3  # a table has 2^3 to 2^4 entries for each word,
_MOST_TABLE_BITS = 27  # but at most 2^27, of a byte each: 4 for each word of a whole chunk
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing (Knuth, The Art of Computer Programming, section 6.4)
_PAIRS = 1 << 12  # most pairs of equal anchors that are extended

Bytes = NDArray[np.uint8]


class Written(Protocol):
    """Anything of which no piece may show in the data."""

    @property
    def pieces(self) -> int:
        """A bound on the number of its pieces of one size."""

    def texts(self) -> Iterator[tuple[Bytes, int]]:
        """Yield its texts block by block, shape (B,), each with the bits that a value takes."""


@dataclass(frozen=True)
class Content:
    """The content of a box: bytes."""

    inside: bytes

    @property
    def pieces(self) -> int:
        """The number of its bytes."""
        return len(self.inside)

    def texts(self) -> Iterator[tuple[Bytes, int]]:
        """Yield the bytes; each is a value."""
        yield from ((block, 8) for block in _blocks(np.frombuffer(self.inside, np.uint8)))


@dataclass(frozen=True)
class Plaintext:
    """A vector of floats or residues, shape (D,), and its encodings before protection."""

    vector_D: NDArray[Any]
    encodings: tuple[Encoding, ...]

    @property
    def pieces(self) -> int:
        """The bytes of all texts, at most."""
        written = 8 * len(_FLOATS) * len(self.vector_D)
        return written + sum(_texts_bytes(coded.bits) * len(coded.values_D) for coded in self.encodings)

    def texts(self) -> Iterator[tuple[Bytes, int]]:
        """Yield the vector as floats, where it has floats, and its encodings as integers."""
        if self.vector_D.dtype.kind == "f":
            for block_V in _blocks(self.vector_D):
                yield from _floats(block_V)
        for coded in self.encodings:
            for block_V in _blocks(coded.values_D):
                yield from _integers(block_V.astype(np.uint64), coded.bits)


def piece_bytes(searched_bytes: int, pieces: int, allowed: float) -> int:
    """Return the least size of a piece at which one of `pieces` occurs by chance with the `allowed` probability.

    `searched_bytes` is the number of bytes of the data.
    """
    needed_bits = math.log2(max(1, searched_bytes)) + math.log2(max(1, pieces)) - math.log2(allowed)
    return max(PIECE_BYTES, math.ceil(needed_bits / _ENTROPY_BITS))


def find_piece(data: bytes, written: Written, least_bytes: int) -> int | None:
    """Return a place in the data at which a piece of `least_bytes` bytes lies; None without one."""
    for start in range(0, max(1, len(data) - _MARGIN), _CHUNK):
        chunk = np.frombuffer(data, np.uint8)[start : start + _CHUNK + _MARGIN]
        words_W = _words(chunk)
        if not len(words_W):
            continue
        equal = _in_both(words_W, written, least_bytes)
        place = _extended(chunk, words_W, equal, written, least_bytes) if len(equal) else None
        if place is not None:
            return start + place
    return None


# ---- texts


def _blocks(values_D: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield blocks of consecutive values with common margins; each begins at a multiple of eight."""
    for start in range(0, max(1, len(values_D) - _MARGIN), _BLOCK):
        yield values_D[start : start + _BLOCK + _MARGIN]


def _floats(values_V: NDArray[Any]) -> Iterator[tuple[Bytes, int]]:
    with np.errstate(over="ignore"):  # half precision has a smaller range
        for kind in _FLOATS:
            yield _bytes(values_V.astype(kind)), 8 * np.dtype(kind).itemsize
    brain_V = values_V.astype("<f4").view("<u2")[1::2]  # bfloat16
    yield _bytes(np.ascontiguousarray(brain_V)), 16
    yield _bytes(brain_V.byteswap()), 16


def _integers(values_V: Integers, bits: int) -> Iterator[tuple[Bytes, int]]:
    """Yield the bytes of integers as words of any width, and as packed from each of eight successive ones on."""
    for size in _WORDS:
        if bits <= 8 * size:
            yield from ((_bytes(values_V.astype(f"{order}u{size}")), 8 * size) for order in "<>")
    taken = word_bits(bits)
    for first in range(min(len(values_V), 8 // math.gcd(8, taken))):
        from_first_V = values_V[first:]
        padded_V = np.zeros(-(-len(from_first_V) // 8) * 8, np.uint64)
        padded_V[: len(from_first_V)] = from_first_V
        held_bytes = len(from_first_V) * taken // 8
        yield np.frombuffer(pack(padded_V, taken), np.uint8)[:held_bytes], taken


def _texts_bytes(bits: int) -> int:
    """Return a bound on the bytes that the texts of an integer take together."""
    return 2 * sum(size for size in _WORDS if bits <= 8 * size) + 64


def _bytes(values_V: NDArray[Any]) -> Bytes:
    return values_V.view(np.uint8)


# ---- anchors


def _words(data: Bytes) -> Integers:
    """Return the words of eight bytes at every byte, shape (W,), a view."""
    count = max(0, len(data) - _ANCHOR_BYTES + 1)
    return np.ndarray((count,), np.dtype("<u8"), data.data, strides=(1,)) if count else np.empty(0, np.uint64)


def _stride(bits: int, least_bytes: int) -> int:
    """Return the distance of anchors, in bytes, at which each run of values of `bits` bits holds a whole one."""
    lost_bits = 0 if bits in (8, 16, 32, 64) else 7  # a run of packed values may begin within a byte
    values = max(RUN, -(-(8 * least_bytes + lost_bits) // bits))
    return (values * bits - lost_bits) // 8 - _ANCHOR_BYTES + 1


def _anchors(text: Bytes, bits: int, least_bytes: int) -> tuple[Integers, int]:
    """Return the anchors of a text, shape (A,), and their distance; some of them may repeat a single byte."""
    stride = _stride(bits, least_bytes)
    return _words(text)[::stride], stride


def _in_both(words_W: Integers, written: Written, least_bytes: int) -> Integers:
    """Return the anchors of what is written that are among the data's words, sorted, each once."""
    table = _Table(len(words_W))
    for some_W in _portions(words_W):
        table.add(some_W)
    kept = [np.empty(0, np.uint64)]
    for text, bits in written.texts():
        some_A, _ = _anchors(text, bits, least_bytes)
        kept.append(some_A[table.may_hold(some_A)])
    kept_A = _sorted(np.concatenate(kept))
    anchors_A: Integers = kept_A[kept_A != (kept_A & np.uint64(255)) * np.uint64(0x0101010101010101)]
    if not len(anchors_A):
        return anchors_A
    table = _Table(len(anchors_A))
    table.add(anchors_A)
    found = [_among(some_W[table.may_hold(some_W)], anchors_A) for some_W in _portions(words_W)]
    return _sorted(np.concatenate(found))


def _portions(words_W: Integers) -> Iterator[Integers]:
    """Yield successive words, aligned in memory, as many as a processor's cache holds."""
    return (words_W[start : start + _BLOCK].copy() for start in range(0, len(words_W), _BLOCK))


def _among(words_W: Integers, sorted_A: Integers) -> Integers:
    """Return those words that are among the sorted ones, of which there is at least one."""
    words_W = np.sort(words_W)  # neighbours in order are found near each other, which takes a tenth of the time
    places = np.minimum(np.searchsorted(sorted_A, words_W), len(sorted_A) - 1)
    among_W: Integers = words_W[sorted_A[places] == words_W]
    return among_W


def _sorted(words_W: Integers) -> Integers:
    """Return the words in order, each once: as `np.unique` does, whose hash table takes ten times as long."""
    words_W = np.sort(words_W)
    distinct_W: Integers = words_W[np.append(True, words_W[1:] != words_W[:-1])[: len(words_W)]]
    return distinct_W


class _Table:
    """A set of words by hash: it says of each word in it, and of few others, that it may hold them."""

    def __init__(self, words: int) -> None:
        bits = min(max(8, words.bit_length() + _LOAD_BITS), _MOST_TABLE_BITS)
        self._shift = np.uint64(64 - bits)
        self._taken = np.zeros(1 << bits, bool)

    def _places(self, words_W: Integers) -> NDArray[np.int64]:
        return ((words_W * _MULTIPLIER) >> self._shift).view(np.int64)

    def add(self, words_W: Integers) -> None:
        self._taken[self._places(words_W)] = True

    def may_hold(self, words_W: Integers) -> NDArray[np.bool_]:
        held_W: NDArray[np.bool_] = self._taken[self._places(words_W)]
        return held_W


# ---- comparison


def _extended(data: Bytes, words_W: Integers, equal: Integers, written: Written, least_bytes: int) -> int | None:
    """Return the place of an anchor in the data that is part of a whole piece; `equal` are the anchors in both."""
    places_W = np.flatnonzero(np.isin(words_W, equal))
    found_W = words_W[places_W]
    left = _PAIRS
    for text, bits in written.texts():
        anchors_A, stride = _anchors(text, bits, least_bytes)
        for anchor in np.flatnonzero(np.isin(anchors_A, equal)).tolist():
            for place in places_W[found_W == anchors_A[anchor]].tolist():
                if left == 0:
                    return None
                left -= 1
                if _is_piece(text, anchor * stride, data, place, least_bytes):
                    return int(place)
    return None


def _is_piece(text: Bytes, at: int, data: Bytes, place: int, least_bytes: int) -> bool:
    """True where text and data are equal around a place of each over `least_bytes` bytes, of which enough differ."""
    before = _alike(text[max(0, at - _MARGIN) : at][::-1], data[max(0, place - _MARGIN) : place][::-1])
    after = _alike(text[at : at + _MARGIN], data[place : place + _MARGIN])
    return before + after >= least_bytes and len(np.unique(text[at - before : at + after])) >= _DISTINCT


def _alike(left: Bytes, right: Bytes) -> int:
    """Return the number of leading bytes that two arrays have in common."""
    length = min(len(left), len(right))
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length
