"""Sources of randomness: the operating system for real runs, a seed for experiments and tests.

A source is always passed as an argument. Both expand a 256-bit key with ChaCha20: `cryptography` gives the bytes,
`randomgen` the NumPy generator.
"""

import hashlib
import os
from abc import ABC, abstractmethod

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from randomgen import ChaCha

KEY_BYTES = 32


class Randomness(ABC):
    """A source of keys, masks, shares and noise."""

    @abstractmethod
    def key(self) -> bytes:
        """A fresh key of 32 bytes; two calls never return the same one."""

    def bytes(self, length: int) -> bytes:
        """`length` random bytes."""
        encryptor = Cipher(ChaCha20(self.key(), bytes(16)), mode=None).encryptor()
        return encryptor.update(bytes(length))

    def generator(self) -> np.random.Generator:
        """A NumPy generator over a fresh ChaCha20 stream."""
        return np.random.Generator(ChaCha(key=int.from_bytes(self.key(), "little")))


class OsRandomness(Randomness):
    """Keys from the operating system's source."""

    def key(self) -> bytes:
        """32 bytes that nobody can repeat."""
        return os.urandom(KEY_BYTES)


class SeededRandomness(Randomness):
    """Keys derived from a seed and labels. They are reproducible, so they protect nothing."""

    def __init__(self, *labels: int | str) -> None:
        self._root = digest(*labels)
        self._drawn = 0

    def key(self) -> bytes:
        """The next key of the sequence."""
        self._drawn += 1
        return hashlib.sha256(self._root + self._drawn.to_bytes(8, "little")).digest()


def digest(*labels: int | str) -> bytes:
    """SHA-256 of labels, injective: `("1", 2)` and `("12",)` differ, and so do `1` and `"1"`."""
    return hashlib.sha256(repr(labels).encode()).digest()


def seed_from(*labels: int | str) -> int:
    """A 63-bit seed for a statistical generator (training order, cohorts), from a run's seed and labels."""
    return int.from_bytes(digest(*labels)[:8], "little") >> 1
