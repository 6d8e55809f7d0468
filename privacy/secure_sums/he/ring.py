"""SEAL contexts and their ciphertexts as messages, for either scheme. No Galois keys: a sum needs none.

Shapes: C ciphertexts of a message, P polynomials of one (2, or 1 beside a seed), K primes, N coefficients; R = K * N.
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
    """What one parameter set means: its SEAL context, its primes, and its ciphertexts as bytes. See `ring`."""

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
        """BFV's t."""
        return plain_modulus(self.degree, self.parameters.plain_modulus_bits or 0)

    @cached_property
    def encoder(self) -> Any:
        """SEAL's encoder of the scheme."""
        return (sealapi.CKKSEncoder if self.parameters.scheme == "ckks" else sealapi.BatchEncoder)(self.context)

    @cached_property
    def ciphertext(self) -> SealLayout:
        """How SEAL writes a ciphertext of this set."""
        ckks = self.parameters.scheme == "ckks"
        scale = 2.0 ** (self.parameters.scale_bits or 0)
        return ciphertext_layout(self.context.first_parms_id(), ckks, self.degree, self.moduli, scale)

    @cached_property
    def plaintext(self) -> SealLayout:
        """How SEAL writes an encoded plaintext of CKKS."""
        scale = 2.0 ** (self.parameters.scale_bits or 0)
        return plaintext_layout(self.context.first_parms_id(), self.degree, self.moduli, scale)

    @cached_property
    def secret_key(self) -> SealLayout:
        """How SEAL writes a secret key."""
        return plaintext_layout(self.context.key_parms_id(), self.degree, self.all_moduli, 1.0)

    @cached_property
    def public_key(self) -> SealLayout:
        """How SEAL writes a public key."""
        return ciphertext_layout(self.context.key_parms_id(), True, self.degree, self.all_moduli, 1.0)

    @cached_property
    def _fingerprint(self) -> bytes:
        return hashlib.sha256(repr(self.parameters).encode()).digest()[:_FINGERPRINT_BYTES]

    @cached_property
    def _polynomial_bytes(self) -> int:
        return sum(self.degree * packed_bits(modulus) // 8 for modulus in self.moduli)

    def message(self, raws: Iterable[RawPolynomials]) -> bytes:
        """Ciphertexts as one run of bytes; all of them with a seed, or none."""
        if not self.parameters.dense:
            return b"".join(self.ciphertext.compressed_file(raw) for raw in raws)
        return self._fingerprint + b"".join(self._pack(raw) for raw in raws)

    def _pack(self, raw: RawPolynomials) -> bytes:
        rows = (pack(row_N, packed_bits(q)) for row_KN in raw.residues_PKN for row_N, q in self._by_prime(row_KN))
        return b"".join(rows) + (raw.seed or b"")

    def _by_prime(self, rows_KN: Residues) -> Iterator[tuple[Residues, int]]:
        return zip(rows_KN, self.moduli, strict=True)

    def parse(self, message: bytes, ciphertexts: int) -> Iterator[RawPolynomials]:
        """Take a message of so many ciphertexts apart, one after the other.

        Raises:
            MalformedContribution: it is not one, or one of other parameters.
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
            raise MalformedContribution("ciphertexts of other parameters")
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
        """The ciphertext in SEAL."""
        loaded = sealapi.Ciphertext()
        load(loaded, self.context, self.ciphertext.file(raw))
        return loaded

    def raw(self, cipher: Any) -> RawPolynomials:
        """A ciphertext out of SEAL."""
        return self.ciphertext.parse(save(cipher))

    def draw_mask(self, key: bytes, ciphertexts: int) -> Residues:
        """Uniform residues modulo q from a 32-byte key, shape (C, R): the first N of a row modulo the first prime."""
        rows = [
            uniform(mac(key, [b"prime", bytes([index])]), ciphertexts * self.degree, q).reshape(ciphertexts, -1)
            for index, q in enumerate(self.moduli)
        ]
        return np.concatenate(rows, axis=1)

    def add_masks(self, left_CR: Residues, right_CR: Residues) -> Residues:
        """Their sum modulo q."""
        return add_mod(left_CR, right_CR, np.repeat(np.array(self.moduli, np.uint64), self.degree))

    def masked(self, raw: RawPolynomials, mask_R: Residues, sign: int = 1) -> RawPolynomials:
        """The same ciphertext with the mask added to its plaintext, or with sign -1 taken off.

        A ciphertext decrypts to c0 + c1 s: what is added to c0 is added to the plaintext. CKKS plaintexts are in NTT
        form; the transform is a bijection modulo q, so residues that are uniform here are uniform coefficients too.
        """
        step, change = ("mask", add_mod) if sign > 0 else ("unmask", subtract_mod)
        with span(step):
            mask_KN = mask_R.reshape(len(self.moduli), self.degree)
            residues_PKN = raw.residues_PKN.copy()
            residues_PKN[0] = change(residues_PKN[0], mask_KN, np.array(self.moduli, np.uint64)[:, None])
        return RawPolynomials(residues_PKN, raw.seed)


@lru_cache(maxsize=16)
def ring(parameters: HeParameters) -> SealRing:
    """The ring of a parameter set, made once in a process.

    Raises:
        ConfigError: SEAL has no such primes, or wants other parameters.
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
    """The largest prime of so many bits that is 1 modulo 2N, so that BFV has N slots.

    Raises:
        ConfigError: there is none.
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
    """Residues, added. Of a total below the modulus, which is below 2^63, subtracting it wraps to something larger."""
    total = left + right
    reduced: Residues = np.minimum(total, total - modulus)
    return reduced


def subtract_mod(left: Residues, right: Residues, modulus: NDArray[np.uint64] | np.uint64) -> Residues:
    """Residues, subtracted. A difference below 0 wraps to something larger than with the modulus added."""
    difference = left - right
    reduced: Residues = np.minimum(difference, difference + modulus)
    return reduced
