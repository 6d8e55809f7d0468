"""A search for pieces of a plaintext in outgoing data, at every byte.

A window is 16 bytes of the plaintext in a possible encoding: floats of any width and byte order, or the integers of the
sum's encoding. If each of n bytes has at least 6 bits of entropy, one of m windows occurs somewhere in them with
probability at most n m 2^-96.

Shapes: D is the length of the vector, S the number of pieces, V that of values per piece, W that of windows, B bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.randomness import Randomness
from privacy.secure_sums.declarations import Encoding
from privacy.secure_sums.packing import pack, word_bits

WINDOW_BYTES = 16
# pieces start at multiples of eight, where packed integers begin at a byte
PIECES = 256
PIECE_VALUES = 64
_ENTROPY_BITS = 6 * WINDOW_BYTES
_DISTINCT = 6  # least number of distinct bytes of a window: zeros, or one repeated value, may occur in any header
_FLOATS = ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2")
_WORDS = (1, 2, 4, 8)  # sizes of NumPy's integers, in bytes

Bytes = NDArray[np.uint8]


def windows_of(vector_D: NDArray[Any], encodings: Iterable[Encoding], randomness: Randomness) -> Bytes:
    """Windows at random places of a vector, in all its possible encodings, shape (W, 16), in random order."""
    written = [_floats(_pieces(vector_D, randomness))] if vector_D.dtype.kind == "f" else []
    written += [_integers(_pieces(coded.values_D, randomness), coded.bits) for coded in encodings]
    found = [text_SB[:, :WINDOW_BYTES] for texts in written for text_SB in texts if text_SB.shape[1] >= WINDOW_BYTES]
    windows_W = np.concatenate([np.empty((0, WINDOW_BYTES), np.uint8), *found])
    changes = np.diff(np.sort(windows_W, axis=1), axis=1) != 0
    telling_W: Bytes = windows_W[changes.sum(axis=1) + 1 >= _DISTINCT]
    return randomness.generator().permutation(telling_W)


def _pieces(values_D: NDArray[Any], randomness: Randomness) -> NDArray[Any]:
    """Pieces of consecutive values, at all places or at a random choice of them, shape (S, V)."""
    held = min(PIECE_VALUES, len(values_D))
    places = np.arange(0, len(values_D) - held + 1, 8)
    if len(places) > PIECES:
        places = randomness.generator().choice(places, PIECES, replace=False)
    pieces_SV: NDArray[Any] = values_D[places[:, None] + np.arange(held)]
    return pieces_SV


def _floats(values_SV: NDArray[Any]) -> Iterator[Bytes]:
    with np.errstate(over="ignore"):  # half precision has a smaller range
        yield from (_bytes(values_SV.astype(kind)) for kind in _FLOATS)
    yield _bytes(np.ascontiguousarray(values_SV.astype("<f4").view("<u2")[:, 1::2]))  # bfloat16


def _integers(values_SV: NDArray[Any], bits: int) -> Iterator[Bytes]:
    """The bytes of integers as words of any width, and as packed by `packing`."""
    wide_SV = values_SV.astype(np.uint64)
    for size in _WORDS:
        if bits <= 8 * size:
            yield from (_bytes(wide_SV.astype(f"{order}u{size}")) for order in "<>")
    if wide_SV.shape[1] >= 8:
        packed = pack(wide_SV[:, : wide_SV.shape[1] // 8 * 8].reshape(-1), word_bits(bits))
        yield np.frombuffer(packed, np.uint8).reshape(len(wide_SV), -1)


def _bytes(values_SV: NDArray[Any]) -> Bytes:
    return values_SV.view(np.uint8).reshape(len(values_SV), -1)


def holds_any(data: bytes, windows_W: Bytes) -> bool:
    """True where one of the windows occurs in the data, at any byte."""
    if len(data) < WINDOW_BYTES or not len(windows_W):
        return False
    begins = np.zeros(1 << 16, bool)
    begins[windows_W[:, 0] | windows_W[:, 1].astype(np.uint16) << np.uint16(8)] = True
    follows = np.unique(np.ascontiguousarray(windows_W[:, 2:6]).view("<u4"))
    return any(_found(data, offset, begins, follows, windows_W) for offset in (0, 1))


def _found(data: bytes, offset: int, begins: NDArray[np.bool_], follows: NDArray[Any], windows_W: Bytes) -> bool:
    """True where a window starts at a place of one parity: two filters over all places, then a comparison."""
    words = np.frombuffer(data, "<u2", (len(data) - offset) // 2, offset)
    places = np.flatnonzero(begins[words[: max(0, len(words) - WINDOW_BYTES // 2 + 1)]])
    next_four = words[places + 1].astype(np.uint32) | words[places + 2].astype(np.uint32) << np.uint32(16)
    left = 2 * places[np.isin(next_four, follows)] + offset
    whole = {window.tobytes() for window in windows_W} if len(left) else set()
    return any(data[at : at + WINDOW_BYTES] in whole for at in left.tolist())


def most_windows(searched_bytes: int, allowed: float) -> int:
    """The largest number of windows for a search in uniform bytes that has at most the `allowed` chance of a match."""
    return int(allowed * 2.0**_ENTROPY_BITS / max(1, searched_bytes))
