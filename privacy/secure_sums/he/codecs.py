"""Messages of clients under one-time masks, their addition, and the opening of the sum: CKKS, BFV, and masks alone.

Every scheme here has the same steps: `encrypt` a vector under a mask, add messages without any key, and `open` the sum
with the sum of the masks. Each message also carries a check value: every client adds it, and the opener checks its sum.

Shapes: D is the length of the vector that the spec declares; the shape of a mask depends on the scheme.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import MalformedContribution
from privacy.randomness import Randomness
from privacy.sealing import uniform
from privacy.secure_sums.contract import Ahead
from privacy.secure_sums.declarations import Encoding, Numbers, Uniform
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ciphers import CiphertextSum, DecryptionKey, EncryptionKey, encrypted_zeros, encryption_key
from privacy.secure_sums.he.ckks import Ckks, Flooding
from privacy.secure_sums.he.declarations import declared, mask_numbers
from privacy.secure_sums.he.linear_check import LinearCheck
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.seal_files import RawPolynomials
from privacy.secure_sums.packing import pack_words, unpack_words
from privacy.secure_sums.vectors import Sum, Vector, VectorSpec
from privacy.spans import span

Mask = NDArray[np.uint64]


class Adder(Protocol):
    """The server's half of the sum: it adds messages as they arrive, without a key."""

    def add(self, message: bytes) -> None:
        """Add one contribution completely, or raise MalformedContribution and add nothing."""

    def message(self) -> bytes:
        """Return the sum so far, as a message."""


class CipherScheme(ABC):
    """One way to encrypt, add and open the vectors of a spec."""

    parameters: HeParameters | None  # parameters of the encryption under the masks; None without encryption
    tolerance: float  # the largest error that the scheme adds to one contribution
    check: LinearCheck | None  # the check that ties a sum to its contributions; None without a key to protect

    @abstractmethod
    def draw_mask(self, key: bytes) -> Mask:
        """Draw the uniform mask of a vector from a 32-byte key."""

    @abstractmethod
    def add_masks(self, left: Mask, right: Mask) -> Mask:
        """Return the sum of two masks."""

    @abstractmethod
    def encrypt(self, vector_D: Vector, key: bytes, mask: Mask | None, ahead: Ahead | None = None) -> bytes:
        """Return the message of a vector that the spec allows; `ahead` encrypts zeros, to which it is added."""

    @abstractmethod
    def adder(self) -> Adder:
        """Return an empty sum."""

    @abstractmethod
    def open(
        self, message: bytes, secret: bytes, contributors: int, mask: Mask | None, randomness: Randomness | None = None
    ) -> Sum:
        """Return the sum of `contributors` contributions, shape (D,); `randomness` is for the flooding noise.

        Raises:
            MalformedContribution: the bytes are not such a message, or the check value does not count the contributors.
        """

    @abstractmethod
    def declared(self, message: bytes) -> Uniform:
        """Return a message as uniform numbers.

        Raises:
            MalformedContribution: the bytes are not such a message.
        """

    @abstractmethod
    def numbers_of_mask(self, mask: Mask) -> Sequence[Numbers]:
        """Return a mask as uniform numbers."""

    @abstractmethod
    def encodings(self, vector_D: Vector) -> Iterable[Encoding]:
        """Return the encodings of a vector before protection."""


def _encryption_key(scheme: Ckks | Bfv, key: bytes) -> EncryptionKey:
    return encryption_key(scheme.parameters, key, scheme.symmetric)


def _zeros(scheme: Ckks, key: bytes, length: int, ahead: Ahead | None) -> list[RawPolynomials] | None:
    """Return encryptions of zero for a vector of this length; None where nothing encrypts them ahead."""
    if ahead is None:
        return None
    with span("wait"):
        return ahead.take(encrypted_zeros, scheme.parameters, key, scheme.symmetric, scheme.ciphertexts(length))


@lru_cache(maxsize=2)
def _decryption_key(scheme: Ckks | Bfv, secret: bytes) -> DecryptionKey:
    return DecryptionKey(scheme.parameters, secret)


@dataclass(frozen=True)
class _CkksScheme(CipherScheme):
    """Reals, each segment in units of its bound."""

    spec: VectorSpec
    ckks: Ckks
    flooding: float = 0.0  # deviation of the noise that an opening adds to each coefficient

    @property
    def parameters(self) -> HeParameters:  # type: ignore[override]
        """The parameters of CKKS."""
        return self.ckks.parameters

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """The largest error of a sum over the whole cohort: CKKS's tolerance times the largest bound."""
        largest = max(segment.bound for segment in self.spec.segments)
        return self.ckks.tolerance(self.spec.cohort_size, self.flooding) * largest

    @cached_property
    def check(self) -> LinearCheck:  # type: ignore[override]
        """The check of CKKS ciphertexts."""
        return LinearCheck(self.ckks.parameters, self.ckks.ciphertexts(self.spec.length))

    def draw_mask(self, key: bytes) -> Mask:
        return self.ckks.draw_mask(key, self.spec.length)

    def add_masks(self, left: Mask, right: Mask) -> Mask:
        return self.ckks.add_masks(left, right)

    def encrypt(self, vector_D: Vector, key: bytes, mask: Mask | None, ahead: Ahead | None = None) -> bytes:
        with span("encode"):
            values_D = vector_D / self.spec.bounds_D
        zeros = _zeros(self.ckks, key, self.spec.length, ahead)
        return self.ckks.encrypt(values_D, _encryption_key(self.ckks, key), mask, zeros)

    def adder(self) -> Adder:
        return CiphertextSum(self.ckks.parameters, self.ckks.ciphertexts(self.spec.length))

    def open(
        self, message: bytes, secret: bytes, contributors: int, mask: Mask | None, randomness: Randomness | None = None
    ) -> Sum:
        key = _decryption_key(self.ckks, secret)
        flooding = None
        if self.flooding:
            assert randomness is not None
            flooding = Flooding(self.flooding, randomness.generator())
        return self.ckks.open(message, key, contributors, self.spec.length, mask, flooding) * self.spec.bounds_D

    def declared(self, message: bytes) -> Uniform:
        return declared(self.ckks.parameters, message, self.ckks.ciphertexts(self.spec.length))

    def numbers_of_mask(self, mask: Mask) -> Sequence[Numbers]:
        return mask_numbers(self.ckks.parameters, mask)

    def encodings(self, vector_D: Vector) -> Iterable[Encoding]:
        return self.ckks.written(vector_D / self.spec.bounds_D)


@dataclass(frozen=True)
class _BfvScheme(CipherScheme):
    """Integers, several in each slot."""

    fixed: FixedPoint
    bfv: Bfv

    @property
    def parameters(self) -> HeParameters:  # type: ignore[override]
        """The parameters of BFV, with the chosen plain modulus."""
        return self.bfv.parameters

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """The error of rounding; sums are exact."""
        return self.fixed.tolerance

    @cached_property
    def check(self) -> LinearCheck:  # type: ignore[override]
        """The check of BFV ciphertexts."""
        return LinearCheck(self.bfv.parameters, self.bfv.ciphertexts(self.fixed.spec.length))

    def draw_mask(self, key: bytes) -> Mask:
        return self.bfv.draw_mask(key, self.fixed.spec.length)

    def add_masks(self, left: Mask, right: Mask) -> Mask:
        return self.bfv.add_masks(left, right)

    def encrypt(self, vector_D: Vector, key: bytes, mask: Mask | None, ahead: Ahead | None = None) -> bytes:  # noqa: ARG002
        return self.bfv.encrypt(self.fixed.encode(vector_D), _encryption_key(self.bfv, key), mask)

    def adder(self) -> Adder:
        return CiphertextSum(self.bfv.parameters, self.bfv.ciphertexts(self.fixed.spec.length))

    def open(
        self,
        message: bytes,
        secret: bytes,
        contributors: int,
        mask: Mask | None,
        randomness: Randomness | None = None,  # noqa: ARG002
    ) -> Sum:
        key = _decryption_key(self.bfv, secret)
        return self.fixed.decode(self.bfv.open(message, key, contributors, self.fixed.spec.length, mask), contributors)

    def declared(self, message: bytes) -> Uniform:
        return self.bfv.declared(message, self.fixed.spec.length)

    def numbers_of_mask(self, mask: Mask) -> Sequence[Numbers]:
        return self.bfv.mask_numbers(mask)

    def encodings(self, vector_D: Vector) -> Iterable[Encoding]:
        return (Encoding(self.fixed.encode(vector_D), self.fixed.value_bits),)


@dataclass(frozen=True)
class _PadScheme(CipherScheme):
    """Integers under masks alone, modulo 2^bits, packed; the last integer counts the contributions.

    No linear check: an opening is the difference between what the server sent and the sum of the masks. The server
    knows the former, so any request tells it that one sum of masks, which the sum of the contributions tells as well.
    """

    fixed: FixedPoint
    parameters = None
    check = None

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """The error of rounding; sums are exact."""
        return self.fixed.tolerance

    @cached_property
    def bits(self) -> int:
        """Bits of the modulus: those of a sum, or of the residues' modulus, which needs no bits for carries."""
        return self.fixed.spec.modulus_bits or self.fixed.sum_bits

    @property
    def _modulus_mask(self) -> np.uint64:
        return np.uint64((1 << self.bits) - 1)

    @property
    def _count(self) -> int:
        return self.fixed.spec.length + 1

    def draw_mask(self, key: bytes) -> Mask:
        return uniform(key, self._count, 1 << self.bits)

    def add_masks(self, left: Mask, right: Mask) -> Mask:
        return (left + right) & self._modulus_mask

    def encrypt(self, vector_D: Vector, key: bytes, mask: Mask | None, ahead: Ahead | None = None) -> bytes:  # noqa: ARG002
        assert mask is not None, "the mask is the only protection"
        with span("encode"):
            values = np.append(self.fixed.encode(vector_D), np.uint64(1))
        with span("mask"):
            masked = (values + mask) & self._modulus_mask
        with span("serialise"):
            return pack_words(masked, self.bits)

    def adder(self) -> Adder:
        return _WordSum(self._count, self.bits)

    def open(
        self,
        message: bytes,
        secret: bytes,  # noqa: ARG002
        contributors: int,
        mask: Mask | None,
        randomness: Randomness | None = None,  # noqa: ARG002
    ) -> Sum:
        assert mask is not None
        with span("open"):
            words = unpack_words(message, self._count, self.bits)
        with span("unmask"):
            total = (words - mask) & self._modulus_mask
        if int(total[-1]) != contributors & int(self._modulus_mask):
            raise MalformedContribution(
                f"the sum counts {total[-1]} contributions, not {contributors}: it was damaged, or is another sum"
            )
        return self.fixed.decode(total[:-1], contributors)

    def declared(self, message: bytes) -> Uniform:
        return Uniform((Numbers.of("masked values", unpack_words(message, self._count, self.bits), 1 << self.bits),))

    def numbers_of_mask(self, mask: Mask) -> Sequence[Numbers]:
        return (Numbers.of("mask", mask, 1 << self.bits),)

    def encodings(self, vector_D: Vector) -> Iterable[Encoding]:
        return (Encoding(self.fixed.encode(vector_D), self.bits),)


class _WordSum:
    """A sum of packed integers modulo 2^bits."""

    def __init__(self, count: int, bits: int) -> None:
        self._total = np.zeros(count, np.uint64)
        self._bits = bits

    def add(self, message: bytes) -> None:
        with span("add"):
            self._total += unpack_words(message, len(self._total), self._bits)

    def message(self) -> bytes:
        with span("serialise"):
            return pack_words(self._total & np.uint64((1 << self._bits) - 1), self._bits)


def sum_of_masks(scheme: CipherScheme, masks: Iterable[Mask]) -> Mask:
    """Return the sum of at least one mask; an iterator `masks` may draw each mask only when it is added."""
    with span("unmask"):
        return reduce(scheme.add_masks, masks)


@dataclass(frozen=True)
class FloodingRule:
    """The noise that hides the noise of an opened sum: its bits of security, and its largest allowed error."""

    bits: int
    tolerance: float  # largest error of an opened sum, in units of the bound


@lru_cache(maxsize=4)
def ckks_scheme(
    spec: VectorSpec, parameters: HeParameters, symmetric: bool, flooding: FloodingRule | None = None
) -> CipherScheme:
    """Return CKKS at the scale that the cohort allows; `flooding` assumes that a key opens one sum only.

    Raises:
        ConfigError: a segment has no bound, a sum may wrap under the parameters, or flooding exceeds its tolerance.
    """
    spec.require_bounds("secure_sum")
    ckks = Ckks.of(parameters, symmetric, spec.cohort_size, 1.0)
    if flooding is None:
        return _CkksScheme(spec, ckks)
    opened = ckks.ciphertexts(spec.length)
    return _CkksScheme(spec, ckks, ckks.flooding_deviation(opened, flooding.tolerance, flooding.bits))


@lru_cache(maxsize=4)
def bfv_scheme(
    spec: VectorSpec, parameters: HeParameters, symmetric: bool, value_bits: int, rounds: int
) -> CipherScheme:
    """Return BFV for which any sum of the whole run decrypts wrongly with probability at most 2^-64.

    Raises:
        ConfigError: a segment has no bound, or the parameters have no room for the values.
    """
    fixed = FixedPoint.of(spec, value_bits, "secure_sum")
    bfv = Bfv.of(parameters, symmetric, spec.cohort_size, fixed.value_bits, spec.length, rounds)
    return _BfvScheme(fixed, bfv)


@lru_cache(maxsize=4)
def pad_scheme(spec: VectorSpec, value_bits: int) -> CipherScheme:
    """Return masks alone, without encryption.

    Raises:
        ConfigError: a segment has no bound, or sums need more than 64 bits.
    """
    return _PadScheme(FixedPoint.of(spec, value_bits, "secure_sum"))
