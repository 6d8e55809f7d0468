"""Vectors as fixed-point numbers in a ring of integers, and as additive shares in that ring.

A value x is encoded as round(x 2^f) modulo 2^k; k is 8, 16, 32 or 64, the smallest in which no sum of the cohort can
wrap. The shares of a vector are uniform, except that their sum is the vector. Where the parties only add shares, a
narrow ring is enough. An upload then has k/8 bytes per value for any number of parties: all shares but one are keys,
which are expanded.

Shapes: D is the length of the vector that the spec declares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.errors import ConfigError, MalformedContribution
from privacy.randomness import KEY_BYTES, Randomness
from privacy.secure_sums.vectors import Sum, Vector, VectorSpec

Elements = NDArray[np.unsignedinteger[Any]]  # elements of the ring, little-endian

WIDTHS = (8, 16, 32, 64)
MOST_FRACTIONAL_BITS = 52  # precision of a float64
_BLOCK_BYTES = 1 << 17  # bytes of a key stream at a time, so that they stay in the cache


@dataclass(frozen=True)
class ShareRing:
    """The integers modulo 2^bits, with the encoding of the vectors of a spec. See `of`."""

    spec: VectorSpec
    fractional_bits: int
    bits: int

    @classmethod
    def of(cls, spec: VectorSpec, fractional_bits: int, key: str) -> "ShareRing":
        """The narrowest ring that holds every sum of the cohort; `key` is the sum's configuration.

        For residues (a spec with `modulus_bits`) the ring need not hold sums: their modulus divides that of the ring.

        Raises:
            ConfigError: fractional bits out of range, a segment without a bound, or sums that fit no ring.
        """
        if spec.modulus_bits is not None:
            return cls(spec, 0, next(bits for bits in WIDTHS if bits >= spec.modulus_bits))
        if not 1 <= fractional_bits <= MOST_FRACTIONAL_BITS:
            raise ConfigError.of(f"{key}.fractional_bits", fractional_bits, f"must be from 1 to {MOST_FRACTIONAL_BITS}")
        spec.require_bounds(key)
        needed = needed_bits(spec, fractional_bits)
        if needed > WIDTHS[-1]:
            allowed = f"a sum of {spec.cohort_size} takes {needed} bits, {WIDTHS[-1]} at most; lower it or {key}.bound"
            raise ConfigError.of(f"{key}.fractional_bits", fractional_bits, allowed)
        return cls(spec, fractional_bits, next(bits for bits in WIDTHS if bits >= needed))

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The NumPy type of an element."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def tolerance(self) -> float:
        """The largest change of a value of one contribution by rounding."""
        return 0.0 if self.spec.modulus_bits is not None else 0.5 * 2.0**-self.fractional_bits

    def encode(self, vector_D: Vector) -> Elements:
        """Encode a vector that the spec allows, shape (D,)."""
        if self.spec.modulus_bits is not None:
            return vector_D.astype(self.dtype)
        scaled_D = vector_D * np.float64(2.0**self.fractional_bits)  # exact: a power of two
        return np.rint(scaled_D, out=scaled_D).astype(np.int64).astype(self.dtype)

    def decode(self, sum_D: Elements) -> Sum:
        """Decode a sum of encoded vectors, shape (D,), to float64, or to residues."""
        if self.spec.modulus_bits is not None:
            return sum_D.astype(np.int64) & ((1 << self.spec.modulus_bits) - 1)
        signed_D = sum_D.view(sum_D.dtype.str.replace("u", "i"))
        return signed_D * np.float64(2.0**-self.fractional_bits)

    def split(self, values_D: Elements, parties: int, whole: int, randomness: Randomness) -> list[bytes]:
        """A share for each party, as bytes: a fresh key, and for the party `whole` the vector minus the key streams.

        All shares but one are independent of the values. If a key is missing, its stream masks the vector; if the
        vector is missing, only keys are left. This holds for ideal streams; ChaCha20's are indistinguishable from them.
        """
        assert 0 <= whole < parties
        rest_D = values_D.copy()
        payloads = [randomness.key() for _ in range(parties)]
        for party, key in enumerate(payloads):
            if party != whole:
                _combine(np.subtract, rest_D, key)
        payloads[whole] = rest_D.tobytes()
        return payloads

    def add_share(self, sum_D: Elements, payload: bytes, whole: bool) -> None:
        """Add one party's share from `split`, in place. `whole` is True where the share is the vector, not a key.

        Raises:
            MalformedContribution: the share has another length.
        """
        self.check_share(payload, whole)
        if whole:
            np.add(sum_D, np.frombuffer(payload, self.dtype), out=sum_D)
        else:
            _combine(np.add, sum_D, payload)

    def check_share(self, payload: bytes, whole: bool) -> None:
        """Check that the bytes have the length of one party's share from `split`.

        Raises:
            MalformedContribution: the share has another length.
        """
        length = self.dtype.itemsize * self.spec.length if whole else KEY_BYTES
        if len(payload) != length:
            raise MalformedContribution(f"a share must have {length} bytes, got {len(payload)}")


def needed_bits(spec: VectorSpec, fractional_bits: int) -> int:
    """The number of bits of a signed sum over the whole cohort, for a spec of bounded floats."""
    largest = round(max(segment.bound for segment in spec.segments) * 2.0**fractional_bits) + 1
    return (spec.cohort_size * largest).bit_length() + 1


def _combine(operation: np.ufunc, values_D: Elements, key: bytes) -> None:
    """Add a key's ChaCha20 stream to the values, or subtract it, in place, without an array of the vector's length."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros = memoryview(bytes(_BLOCK_BYTES))
    block = np.empty(_BLOCK_BYTES // values_D.itemsize, values_D.dtype)
    for start in range(0, len(values_D), len(block)):
        part = values_D[start : start + len(block)]
        words = block[: len(part)]
        stream.update_into(zeros[: words.nbytes], words.view(np.uint8).data)
        operation(part, words, out=part)
