"""Vectors as integers modulo 2^k under masks, where k is the least number of bits that holds a sum of the cohort.

A mask is the ChaCha20 stream of a key, read as words of 1, 2, 4 or 8 bytes, the fewest that hold k bits. Masks are
added and subtracted in the ring of those words. The integers modulo 2^k are a quotient of that ring, so the bits above
k are cut off once, when the vector is packed. All streams are applied to one block of the vector before the next block,
so that the block stays in the cache.

A one follows the values of each vector. The sum of these ones counts the contributions. After a wrong share, a wrong
key or damage on the way the sum is unmasked wrongly, and the count is wrong.

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

_BLOCK_BYTES = 1 << 17  # bytes of a vector at a time: a quarter of a megabyte together with a stream


@dataclass(frozen=True)
class MaskedVectors:
    """Masking, packing, addition and decoding of the vectors of a spec."""

    fixed: FixedPoint

    @cached_property
    def bits(self) -> int:
        """The number k of bits of a sum; for residues the bits of their modulus, as no carries are needed."""
        return self.fixed.spec.modulus_bits or self.fixed.sum_bits

    @property
    def words(self) -> int:
        """The number of words of a masked vector."""
        return self.fixed.spec.length + 1

    @cached_property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest word that holds k bits, little-endian."""
        return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)}")

    def protect(self, vector_D: Vector, added: Seeds, subtracted: Seeds) -> bytes:
        """Mask and pack a vector that the spec allows, for the message."""
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
            MalformedContribution: the message is not a masked vector.
        """
        with span("add"):
            sum_ += unpack_words(message, self.words, self.bits)

    def opened(self, sum_: Words, added: Seeds, subtracted: Seeds, contributors: int) -> Sum:
        """The sum of `contributors` contributions, shape (D,), after these masks are added and subtracted.

        Raises:
            MalformedContribution: the sum counts another number of contributions.
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
    """Add the streams of some seeds to the words, and subtract the streams of others, in place."""
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
