"""Vectors as integers modulo 2^k under masks, k being the least number of bits that holds a sum of the cohort.

A mask is the ChaCha20 stream of a key, read as words of 1, 2, 4 or 8 bytes, the fewest that hold k bits. Masks are
added and subtracted in the ring of those words, of which that of k bits is a quotient: what is above the k bits is
cut off once, when the vector is packed. Dozens of streams go over one block of the vector before the next block is
touched, so that neither leaves the cache.

Behind the values stands a one: the sum of them counts the contributions, and a sum that was not unmasked as it
should, for a wrong share, a wrong key or damage on the way, counts something else.

Shapes: D is the length of the vector that the spec declares; a masked one has D + 1 words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.errors import MalformedContribution
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.packing import Words, pack_words, unpack_words
from privacy.secure_sums.vectors import Sum, Vector
from privacy.spans import span

Elements = NDArray[np.unsignedinteger[Any]]
Seeds = Iterable[bytes]  # keys of 32 bytes

_BLOCK_BYTES = 1 << 17  # of a vector at a time: a quarter of a megabyte with a stream beside it


@dataclass(frozen=True)
class MaskedVectors:
    """How the vectors of a spec are masked, packed, added and read again."""

    fixed: FixedPoint

    @cached_property
    def bits(self) -> int:
        """k: what a sum takes, or those of residues, where nothing needs carries."""
        return self.fixed.spec.modulus_bits or self.fixed.sum_bits

    @property
    def words(self) -> int:
        """Of a masked vector."""
        return self.fixed.spec.length + 1

    @cached_property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest word that holds k bits, little-endian."""
        return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)}")

    def protect(self, vector_D: Vector, added: Seeds, subtracted: Seeds) -> bytes:
        """A vector that the spec allows under these masks, as it travels."""
        words = np.ones(self.words, self.dtype)
        words[:-1] = self.fixed.encode(vector_D)
        with span("mask"):
            shift(words, added, subtracted)
        with span("serialise"):
            return pack_words(self._reduced(words.astype(np.uint64)), self.bits)

    def zero(self) -> Words:
        """An empty sum."""
        return np.zeros(self.words, np.uint64)

    def add(self, sum_: Words, message: bytes) -> None:
        """Add a masked vector, all of it or nothing.

        Raises:
            MalformedContribution: it is none.
        """
        with span("add"):
            sum_ += unpack_words(message, self.words, self.bits)

    def opened(self, sum_: Words, added: Seeds, subtracted: Seeds, contributors: int) -> Sum:
        """The sum of so many contributions, shape (D,), once these masks are added and subtracted.

        Raises:
            MalformedContribution: it counts others.
        """
        words = sum_.astype(self.dtype)
        with span("unmask"):
            shift(words, added, subtracted)
        total = self._reduced(words.astype(np.uint64))
        if int(total[-1]) != contributors & ((1 << self.bits) - 1):
            raise MalformedContribution(
                f"the sum counts {total[-1]} contributions, not {contributors}: a masked vector or a share was wrong"
            )
        return self.fixed.decode(total[:-1], contributors)

    def _reduced(self, words: Words) -> Words:
        words &= np.uint64((1 << self.bits) - 1)
        return words


def shift(words: Elements, added: Seeds, subtracted: Seeds) -> None:
    """Add the streams of some keys to the words, and subtract those of others, in place."""
    plus = _streams(added)
    minus = _streams(subtracted)
    zeros = memoryview(bytes(_BLOCK_BYTES))
    block = np.empty(_BLOCK_BYTES // words.itemsize, words.dtype)
    for start in range(0, len(words), len(block)):
        part = words[start : start + len(block)]
        stream = block[: len(part)]
        nothing = zeros[: stream.nbytes]
        out = stream.view(np.uint8).data
        for operation, ciphers in ((np.add, plus), (np.subtract, minus)):
            for cipher in ciphers:
                cipher.update_into(nothing, out)
                operation(part, stream, out=part)


def _streams(seeds: Seeds) -> Sequence[CipherContext]:
    return [Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor() for seed in seeds]
