"""Unsigned integers to BFV ciphertexts and back (Brakerski 2012; Fan and Vercauteren 2012), for exact sums of a cohort.

Each of the N batched slots holds an integer modulo a prime t. Several values lie in one slot, each with room for the
carries of `cohort` additions, so that no sum runs into its neighbour. The last slot is reserved: each client puts 1
there, and the opener expects the number of contributions. This check catches accidents, not attacks.

Shapes: D values of a vector, C ciphertexts, N slots, S values in one slot.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from privacy.errors import ConfigError, MalformedContribution
from privacy.sealing import uniform
from privacy.secure_sums.declarations import Numbers, Uniform
from privacy.secure_sums.he.ciphers import DecryptionKey, EncryptionKey
from privacy.secure_sums.he.declarations import declared
from privacy.secure_sums.he.noise_bounds import check_bfv
from privacy.secure_sums.he.parameters import MAX_PRIME_BITS, HeParameters
from privacy.secure_sums.he.ring import SealRing, add_mod, plain_modulus, ring, subtract_mod
from privacy.secure_sums.he.seal_files import Residues
from privacy.spans import each, span

Unsigned = NDArray[np.uint64]


@dataclass(frozen=True)
class Bfv:
    """BFV for sums of at most `cohort` vectors of integers below 2^value_bits. See `of`."""

    parameters: HeParameters
    symmetric: bool
    cohort: int
    value_bits: int

    @classmethod
    def of(
        cls, parameters: HeParameters, symmetric: bool, cohort: int, value_bits: int, length: int, rounds: int
    ) -> "Bfv":
        """Return the scheme with the set's plain modulus, or with the one that packs the most values per slot.

        The chosen modulus is one under which all sums of a run decrypt.

        Raises:
            ConfigError: no value fits, or a sum of `length` values in `rounds` rounds may decrypt wrongly
                (`check_bfv`).
        """
        scheme = cls(parameters, symmetric, cohort, value_bits)
        if parameters.plain_modulus_bits is not None:
            return scheme._checked(length, rounds)
        most = min(MAX_PRIME_BITS, sum(parameters.data_bits) - 2) // scheme.bits_per_value
        for values in range(most, 1, -1):
            try:
                return scheme._holding(values)._checked(length, rounds)
            except ConfigError:
                continue  # fewer values leave more room for the noise
        return scheme._holding(1)._checked(length, rounds)

    def _holding(self, values: int) -> "Bfv":
        """Return the same scheme with the least plain modulus that holds `values` values in a slot."""
        degree = self.parameters.poly_modulus_degree
        bits = max(values * self.bits_per_value, degree.bit_length() + 1)
        bits += plain_modulus(degree, min(bits, MAX_PRIME_BITS)) <= self._largest_slot(values)
        return replace(self, parameters=self.parameters.with_plain_modulus(bits))

    def _checked(self, length: int, rounds: int) -> "Bfv":
        if self.values_per_slot == 0:
            raise ConfigError.of(
                "plain_modulus_bits",
                self.parameters.plain_modulus_bits,
                f"a sum of {self.cohort} values of {self.value_bits} bits takes {self.bits_per_value} bits, "
                f"and must stay below {self._ring.plain_modulus}",
            )
        check_bfv(self.parameters, self.cohort, self.ciphertexts(length) * rounds, self.symmetric)
        return self

    @property
    def _ring(self) -> SealRing:
        return ring(self.parameters)

    @property
    def bits_per_value(self) -> int:
        """Bits of a sum of `cohort` values: value_bits, and the carries."""
        return (self.cohort * ((1 << self.value_bits) - 1)).bit_length()

    @property
    def values_per_slot(self) -> int:
        """S, the largest number of values per slot that stays below t in every sum."""
        most = self._ring.plain_modulus.bit_length() // self.bits_per_value
        return most if self._largest_slot(most) < self._ring.plain_modulus else most - 1

    def _largest_slot(self, values: int) -> int:
        largest = self.cohort * ((1 << self.value_bits) - 1)
        return sum(largest << (index * self.bits_per_value) for index in range(values))

    @property
    def values_per_ciphertext(self) -> int:
        """Values of one ciphertext: S in every slot but the reserved one."""
        return (self.parameters.poly_modulus_degree - 1) * self.values_per_slot

    def ciphertexts(self, length: int) -> int:
        """Return C for a vector of `length` values."""
        return -(-length // self.values_per_ciphertext)

    @property
    def _modulus(self) -> np.uint64:
        return np.uint64(self._ring.plain_modulus)

    def draw_mask(self, key: bytes, length: int) -> Residues:
        """Draw uniform residues modulo t from a 32-byte key, for a vector of `length` values, shape (C, N)."""
        count = self.ciphertexts(length)
        degree = self.parameters.poly_modulus_degree
        return uniform(key, count * degree, self._ring.plain_modulus).reshape(count, degree)

    def declared(self, message: bytes, length: int) -> Uniform:
        """Return the declaration of a message of `length` values: residues that are uniform.

        Raises:
            MalformedContribution: the bytes are not a message of this set and length.
        """
        return declared(self.parameters, message, self.ciphertexts(length))

    def mask_numbers(self, mask_CN: Residues) -> list[Numbers]:
        """Return a mask as numbers that are uniform modulo t."""
        return [Numbers("mask", mask_CN, self._ring.plain_modulus)]

    def add_masks(self, left_CN: Residues, right_CN: Residues) -> Residues:
        """Return the sum of two masks modulo t."""
        return add_mod(left_CN, right_CN, self._modulus)

    def encrypt(self, values_D: Unsigned, key: EncryptionKey, mask_CN: Residues | None = None) -> bytes:
        """Return a message of C ciphertexts, the mask added to their slots modulo t.

        Raises:
            MalformedContribution: a value has more than `value_bits` bits, and would run into its neighbour.
        """
        with span("encode"):
            if int(values_D.max(initial=0)) >> self.value_bits:
                raise MalformedContribution(f"a value to encrypt is {values_D.max()}, over {self.value_bits} bits")
            slots_CN = self.slots(values_D, 1)
        if mask_CN is not None:
            assert mask_CN.shape == slots_CN.shape
            with span("mask"):
                slots_CN = add_mod(slots_CN, mask_CN, self._modulus)
        return key.encrypt(each("encode", self.plaintexts(slots_CN)))

    def slots(self, values_D: Unsigned, check: int) -> Unsigned:
        """Return the integers in the slots, shape (C, N), the reserved slot last."""
        count = self.ciphertexts(len(values_D))
        degree = self.parameters.poly_modulus_degree
        packed = self.values_per_slot
        padding = np.zeros(count * self.values_per_ciphertext - len(values_D), np.uint64)
        values_CNS = np.concatenate([values_D, padding]).reshape(count, degree - 1, packed)
        slots_CN = np.full((count, degree), check, np.uint64)
        slots_CN[:, :-1] = (values_CNS << self._shifts).sum(axis=2, dtype=np.uint64)
        return slots_CN

    @property
    def _shifts(self) -> Unsigned:
        return np.arange(self.values_per_slot, dtype=np.uint64) * np.uint64(self.bits_per_value)

    def plaintexts(self, slots_CN: Unsigned) -> Iterator[Any]:
        """Yield SEAL's plaintexts of the slots, one for each ciphertext."""
        for slots_N in slots_CN:
            plaintext = sealapi.Plaintext()
            self._ring.encoder.encode(slots_N.tolist(), plaintext)
            yield plaintext

    def open(
        self, message: bytes, key: DecryptionKey, contributors: int, length: int, mask_CN: Residues | None = None
    ) -> Unsigned:
        """Return the exact sum of `contributors` contributions, shape (D,), after subtracting the sum of their masks.

        Raises:
            MalformedContribution: not a message of this set, or a reserved slot that does not count the contributors.
        """
        raws = self._ring.parse(message, self.ciphertexts(length))
        with span("open"):
            slots_CN = np.stack([self._decrypt(self._ring.cipher(raw), key) for raw in raws])
        if mask_CN is not None:
            assert mask_CN.shape == slots_CN.shape
            with span("unmask"):
                slots_CN = subtract_mod(slots_CN, mask_CN, self._modulus)
        wrong_C = np.flatnonzero(slots_CN[:, -1] != contributors)
        if len(wrong_C):
            raise MalformedContribution(
                f"ciphertext {wrong_C[0]} of the sum counts {slots_CN[wrong_C[0], -1]} contributions, not "
                f"{contributors}: it was damaged, or is another sum"
            )
        with span("decode"):
            return self._unpack(slots_CN[:, :-1])[:length]

    def _decrypt(self, cipher: Any, key: DecryptionKey) -> Unsigned:
        plaintext = key.decrypt(cipher)
        with span("decode"):
            slots = self._ring.encoder.decode_uint64(plaintext)
            return np.fromiter(slots, np.uint64, self.parameters.poly_modulus_degree)

    def _unpack(self, slots_CN: Unsigned) -> Unsigned:
        mask = np.uint64((1 << self.bits_per_value) - 1)
        return ((slots_CN[:, :, None] >> self._shifts) & mask).reshape(-1)
