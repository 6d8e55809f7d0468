"""SEAL contexts and their ciphertexts as messages, for either scheme. No Galois keys: a sum does not need them.

Shapes: C ciphertexts of a message, P polynomials of a ciphertext (2, or 1 with a seed), K primes, N coefficients;
R = K * N.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from privacy.errors import ConfigError, MalformedContribution
from privacy.sealing import mac, uniform
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.seal_files import (
    SEED_BYTES,
    RawPolynomials,
    Residues,
    SealLayout,
    ciphertext_layout,
    load,
    packed_bits,
    plaintext_layout,
    save,
)
from privacy.secure_sums.packing import pack, unpack
from privacy.spans import span

_FINGERPRINT_BYTES = 8


class SealRing:
    """The ring of one parameter set: its SEAL context, its primes, and its ciphertexts as bytes. See `ring`."""

    def __init__(self, parameters: HeParameters) -> None:
        self.parameters = parameters
        self.degree = parameters.poly_modulus_degree
        self.context = _context(parameters)
        self.all_moduli = _moduli(parameters)
        self.moduli = self.all_moduli[: len(parameters.data_bits)]
        self.evaluator = sealapi.Evaluator(self.context)

    @cached_property
    def modulus(self) -> int:
        """q, the product of the primes that a ciphertext carries."""
        return int(np.prod(np.array(self.moduli, object)))

    @cached_property
    def plain_modulus(self) -> int:
        """The plain modulus t of BFV."""
        return plain_modulus(self.degree, self.parameters.plain_modulus_bits or 0)

    @cached_property
    def encoder(self) -> Any:
        """SEAL's encoder of the scheme."""
        return (sealapi.CKKSEncoder if self.parameters.scheme == "ckks" else sealapi.BatchEncoder)(self.context)

    @cached_property
    def ciphertext(self) -> SealLayout:
        """The layout of SEAL's file of a ciphertext of this set."""
        ckks = self.parameters.scheme == "ckks"
        scale = 2.0 ** (self.parameters.scale_bits or 0)
        return ciphertext_layout(self.context.first_parms_id(), ckks, self.degree, self.moduli, scale)

    @cached_property
    def plaintext(self) -> SealLayout:
        """The layout of SEAL's file of an encoded CKKS plaintext."""
        scale = 2.0 ** (self.parameters.scale_bits or 0)
        return plaintext_layout(self.context.first_parms_id(), self.degree, self.moduli, scale)

    @cached_property
    def secret_key(self) -> SealLayout:
        """The layout of SEAL's file of a secret key."""
        return plaintext_layout(self.context.key_parms_id(), self.degree, self.all_moduli, 1.0)

    @cached_property
    def public_key(self) -> SealLayout:
        """The layout of SEAL's file of a public key."""
        return ciphertext_layout(self.context.key_parms_id(), True, self.degree, self.all_moduli, 1.0)

    @cached_property
    def _fingerprint(self) -> bytes:
        return hashlib.sha256(repr(self.parameters).encode()).digest()[:_FINGERPRINT_BYTES]

    @cached_property
    def _polynomial_bytes(self) -> int:
        return sum(self.degree * packed_bits(modulus) // 8 for modulus in self.moduli)

    def message(self, raws: Iterable[RawPolynomials]) -> bytes:
        """Return ciphertexts as one run of bytes; either all of them have a seed, or none has."""
        if not self.parameters.dense:
            return b"".join(self.ciphertext.compressed_file(raw) for raw in raws)
        return self._fingerprint + b"".join(self._pack(raw) for raw in raws)

    def _pack(self, raw: RawPolynomials) -> bytes:
        rows = (pack(row_N, packed_bits(q)) for row_KN in raw.residues_PKN for row_N, q in self._by_prime(row_KN))
        return b"".join(rows) + (raw.seed or b"")

    def _by_prime(self, rows_KN: Residues) -> Iterator[tuple[Residues, int]]:
        return zip(rows_KN, self.moduli, strict=True)

    def parse(self, message: bytes, ciphertexts: int) -> Iterator[RawPolynomials]:
        """Yield the ciphertexts of a message of `ciphertexts` ciphertexts.

        Raises:
            MalformedContribution: the bytes are not such a message, or have other parameters.
        """
        if not isinstance(message, bytes):
            raise MalformedContribution(f"ciphertexts must be bytes, got {type(message).__name__}")
        return self._unpack(message, ciphertexts) if self.parameters.dense else self._files(message, ciphertexts)

    def _unpack(self, message: bytes, ciphertexts: int) -> Iterator[RawPolynomials]:
        one = self._polynomial_bytes
        sizes = {_FINGERPRINT_BYTES + ciphertexts * size: size for size in (one + SEED_BYTES, 2 * one)}
        if len(message) not in sizes:
            raise MalformedContribution(
                f"{ciphertexts} ciphertexts take {' or '.join(map(str, sizes))} bytes, got {len(message)}"
            )
        if not message.startswith(self._fingerprint):
            raise MalformedContribution("the ciphertexts have other parameters")
        size = sizes[len(message)]
        for start in range(_FINGERPRINT_BYTES, len(message), size):
            yield self._unpack_one(message[start : start + size])

    def _unpack_one(self, body: bytes) -> RawPolynomials:
        seeded = len(body) < 2 * self._polynomial_bytes
        rows = []
        at = 0
        for modulus in self.moduli * (1 if seeded else 2):
            end = at + self.degree * packed_bits(modulus) // 8
            rows.append(unpack(body[at:end], packed_bits(modulus)))
            at = end
        residues_PKN = np.stack(rows).reshape(-1, len(self.moduli), self.degree)
        return RawPolynomials(self.ciphertext.check(residues_PKN), body[at:] if seeded else None)

    def _files(self, message: bytes, ciphertexts: int) -> Iterator[RawPolynomials]:
        start = 0
        for _ in range(ciphertexts):
            size = int.from_bytes(message[start + 8 : start + 16], "little")
            if not 0 < size <= self.ciphertext.max_file_bytes:
                raise MalformedContribution(f"a ciphertext of {size} bytes, {self.ciphertext.max_file_bytes} at most")
            yield self.ciphertext.parse(message[start : start + size])
            start += size
        if start != len(message):
            raise MalformedContribution(f"{len(message) - start} bytes after the last of {ciphertexts} ciphertexts")

    def cipher(self, raw: RawPolynomials) -> Any:
        """Load a ciphertext into SEAL."""
        loaded = sealapi.Ciphertext()
        load(loaded, self.context, self.ciphertext.file(raw))
        return loaded

    def raw(self, cipher: Any) -> RawPolynomials:
        """Return a ciphertext of SEAL as its residues."""
        return self.ciphertext.parse(save(cipher))

    def zero(self) -> Any:
        """Return SEAL's plaintext of zero (CKKS)."""
        plaintext = sealapi.Plaintext()
        self.encoder.encode([0.0], 2.0 ** (self.parameters.scale_bits or 0), plaintext)
        return plaintext

    def added(self, raw: RawPolynomials, plaintext: Any) -> RawPolynomials:
        """Return a ciphertext with a SEAL plaintext added to what it encrypts (CKKS)."""
        return self._plus(raw, self.plaintext.parse(save(plaintext)).residues_PKN[0])

    def draw_mask(self, key: bytes, ciphertexts: int) -> Residues:
        """Draw uniform residues modulo q from a 32-byte key, shape (C, R): the first N of a row modulo prime 0."""
        rows = [
            uniform(mac(key, [b"prime", bytes([index])]), ciphertexts * self.degree, q).reshape(ciphertexts, -1)
            for index, q in enumerate(self.moduli)
        ]
        return np.concatenate(rows, axis=1)

    def add_masks(self, left_CR: Residues, right_CR: Residues) -> Residues:
        """Return the sum of two masks modulo q."""
        return add_mod(left_CR, right_CR, np.repeat(np.array(self.moduli, np.uint64), self.degree))

    def masked(self, raw: RawPolynomials, mask_R: Residues, sign: int = 1) -> RawPolynomials:
        """Return the ciphertext with the mask added to its plaintext, or subtracted if `sign` is -1.

        A ciphertext decrypts to c0 + c1 s, so adding to c0 adds to the plaintext. CKKS plaintexts are in NTT form. The
        transform is a bijection modulo q, so uniform residues in NTT form are uniform coefficients too.
        """
        with span("mask" if sign > 0 else "unmask"):
            return self._plus(raw, mask_R.reshape(len(self.moduli), self.degree), sign)

    def _plus(self, raw: RawPolynomials, change_KN: Residues, sign: int = 1) -> RawPolynomials:
        change = add_mod if sign > 0 else subtract_mod
        residues_PKN = raw.residues_PKN.copy()
        residues_PKN[0] = change(residues_PKN[0], change_KN, np.array(self.moduli, np.uint64)[:, None])
        return RawPolynomials(residues_PKN, raw.seed)


@lru_cache(maxsize=16)
def ring(parameters: HeParameters) -> SealRing:
    """Return the ring of a parameter set, made once in a process.

    Raises:
        ConfigError: SEAL has no such primes, or refuses the parameters.
    """
    return SealRing(parameters)


def _moduli(parameters: HeParameters) -> tuple[int, ...]:
    bits = parameters.coeff_modulus_bits
    try:
        primes = sealapi.CoeffModulus.Create(parameters.poly_modulus_degree, list(bits))
    except (RuntimeError, ValueError) as error:
        raise ConfigError.of("coeff_modulus_bits", list(bits), f"SEAL finds no such primes ({error})") from error
    return tuple(prime.value() for prime in primes)


def plain_modulus(degree: int, bits: int) -> int:
    """Return the largest prime of `bits` bits that is 1 modulo 2N, so that BFV has N slots.

    Raises:
        ConfigError: there is no such prime.
    """
    try:
        return int(sealapi.PlainModulus.Batching(degree, bits).value())
    except (RuntimeError, ValueError) as error:
        raise ConfigError.of("plain_modulus_bits", bits, f"SEAL finds no such prime ({error})") from error


def _context(parameters: HeParameters) -> Any:
    scheme = sealapi.SCHEME_TYPE.CKKS if parameters.scheme == "ckks" else sealapi.SCHEME_TYPE.BFV
    settings = sealapi.EncryptionParameters(scheme)
    settings.set_poly_modulus_degree(parameters.poly_modulus_degree)
    settings.set_coeff_modulus([sealapi.Modulus(value) for value in _moduli(parameters)])
    if parameters.scheme == "bfv":
        bits = parameters.plain_modulus_bits or 0
        settings.set_plain_modulus(plain_modulus(parameters.poly_modulus_degree, bits))
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ConfigError.of("secure_sum.parameters", parameters, f"SEAL: {context.parameters_error_message()}")
    return context


def add_mod(left: Residues, right: Residues, modulus: NDArray[np.uint64] | np.uint64) -> Residues:
    """Add residues modulo a modulus below 2^63: if the total is below it, the subtraction wraps to a larger value."""
    total = left + right
    reduced: Residues = np.minimum(total, total - modulus)
    return reduced


def subtract_mod(left: Residues, right: Residues, modulus: NDArray[np.uint64] | np.uint64) -> Residues:
    """Subtract residues: a difference below 0 wraps to a larger value than the difference plus the modulus."""
    difference = left - right
    reduced: Residues = np.minimum(difference, difference + modulus)
    return reduced
