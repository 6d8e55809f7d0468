"""Keys, encryption, addition and decryption of messages, for either scheme.

SEAL seeds its own generator from the operating system for every key and ciphertext. A fixed seed would give every
ciphertext the same second polynomial, so randomness is not an argument here.

Shapes: C ciphertexts of a message, P polynomials of a ciphertext (2, or 1 with a seed), K primes, N coefficients;
R = K * N.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from tenseal import sealapi

from privacy.errors import MalformedContribution
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import ring
from privacy.secure_sums.he.seal_files import RawPolynomials, Residues, SealLayout, load, save
from privacy.spans import note, span


class Keys(NamedTuple):
    """A fresh key pair; each half is the bytes that `DecryptionKey` or `EncryptionKey` takes."""

    secret: bytes
    public: bytes


def generate_keys(parameters: HeParameters) -> Keys:
    """Make a secret key and its public key, from the operating system's randomness."""
    context = ring(parameters).context
    generator = sealapi.KeyGenerator(context)
    public = sealapi.PublicKey()
    generator.create_public_key(public)
    return Keys(save(generator.secret_key()), save(public))


def public_key_of(parameters: HeParameters, secret: bytes) -> bytes:
    """Make another public key for a secret key: SEAL makes each with fresh noise.

    Raises:
        MalformedContribution: the bytes are not a secret key.
    """
    here = ring(parameters)
    generator = sealapi.KeyGenerator(here.context, _load_key(sealapi.SecretKey(), parameters, here.secret_key, secret))
    public = sealapi.PublicKey()
    generator.create_public_key(public)
    return save(public)


def _load_key(key: Any, parameters: HeParameters, layout: SealLayout, data: bytes) -> Any:
    load(key, ring(parameters).context, layout.file(layout.parse(data)))
    return key


class EncryptionKey:
    """A key for encryption: a public key, or the secret key that the clients share (seeded ciphertexts, half as long).

    Raises:
        MalformedContribution: the bytes are not such a key.
    """

    def __init__(self, parameters: HeParameters, data: bytes, symmetric: bool) -> None:
        here = ring(parameters)
        empty, layout = (sealapi.SecretKey(), here.secret_key) if symmetric else (sealapi.PublicKey(), here.public_key)
        self._encryptor = sealapi.Encryptor(here.context, _load_key(empty, parameters, layout, data))
        self._ring = here
        self._symmetric = symmetric

    def encrypt(
        self, plaintexts: Iterable[Any], mask_CR: Residues | None = None, zeros: Iterable[RawPolynomials] | None = None
    ) -> bytes:
        """Return a message of one ciphertext for each SEAL plaintext, with the mask added modulo q (CKKS).

        `zeros` are encryptions of zero, as many as plaintexts, that no other message holds. A plaintext added to one is
        a fresh encryption of it: SEAL's own is a fresh encryption of zero, to which the plaintext is added.
        """
        with span("serialise"):  # excludes the spans inside: plaintexts are made and encrypted one by one
            message = self._message(plaintexts, mask_CR, zeros)
        note("ciphertext_bytes", len(message))
        return message

    def _message(
        self, plaintexts: Iterable[Any], mask_CR: Residues | None, zeros: Iterable[RawPolynomials] | None
    ) -> bytes:
        if zeros is not None:
            raws = (self._counted(zero, plaintext) for zero, plaintext in zip(zeros, plaintexts, strict=True))
        else:
            files = (save(self._encrypt(plaintext)) for plaintext in plaintexts)
            if mask_CR is None and not self._ring.parameters.dense:
                return b"".join(files)  # SEAL's own files are sent, as the published systems do
            raws = (self._ring.ciphertext.parse(file) for file in files)
        if mask_CR is not None:
            raws = (self._ring.masked(raw, mask_R) for raw, mask_R in zip(raws, mask_CR, strict=True))
        return self._ring.message(raws)

    def _counted(self, zero: RawPolynomials, plaintext: Any) -> RawPolynomials:
        note("ciphertexts", 1)
        return self._ring.added(zero, plaintext)

    def zeros(self, count: int) -> list[RawPolynomials]:
        """Return fresh encryptions of zero."""
        zero = self._ring.zero()
        return [self._ring.raw(self._encrypt(zero)) for _ in range(count)]

    def _encrypt(self, plaintext: Any) -> Any:
        note("ciphertexts", 1)
        with span("encrypt"):
            if self._symmetric:
                return self._encryptor.encrypt_symmetric(plaintext)
            cipher = sealapi.Ciphertext()
            self._encryptor.encrypt(plaintext, cipher)
            return cipher


@lru_cache(maxsize=4)  # SEAL takes milliseconds to load a key, as long as the encryption of a small model
def encryption_key(parameters: HeParameters, data: bytes, symmetric: bool) -> EncryptionKey:
    """Return a key for encryption, loaded once in a process."""
    return EncryptionKey(parameters, data, symmetric)


def encrypted_zeros(parameters: HeParameters, data: bytes, symmetric: bool, count: int) -> list[RawPolynomials]:
    """Return fresh encryptions of zero under the key whose bytes are `data`, for `EncryptionKey.encrypt`."""
    return encryption_key(parameters, data, symmetric).zeros(count)


class DecryptionKey:
    """A secret key for decryption.

    Raises:
        MalformedContribution: the bytes are not a secret key.
    """

    def __init__(self, parameters: HeParameters, secret: bytes) -> None:
        here = ring(parameters)
        key = _load_key(sealapi.SecretKey(), parameters, here.secret_key, secret)
        self._decryptor = sealapi.Decryptor(here.context, key)

    def decrypt(self, cipher: Any) -> Any:
        """Return the SEAL plaintext of a SEAL ciphertext."""
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(cipher, plaintext)
        return plaintext


class CiphertextSum:
    """The server's half of the sum: it adds messages as they arrive, without a key."""

    def __init__(self, parameters: HeParameters, ciphertexts: int) -> None:
        self._ring = ring(parameters)
        self._ciphertexts = ciphertexts
        self._totals: list[Any] = []

    def add(self, message: bytes) -> None:
        """Add one contribution completely, or not at all.

        Raises:
            MalformedContribution: it is not a message of the expected number of ciphertexts under these parameters.
        """
        with span("add"):
            ciphers = [self._ring.cipher(raw) for raw in self._ring.parse(message, self._ciphertexts)]
            for cipher, total in zip(ciphers, self._totals, strict=False):  # there is no total before the first
                self._add(cipher, total)
            self._totals = ciphers

    def _add(self, cipher: Any, total: Any) -> None:
        try:
            self._ring.evaluator.add_inplace(cipher, total)
        except RuntimeError as error:  # two contributions made to cancel each other's second polynomial
            raise MalformedContribution(f"SEAL refuses a sum: {error}") from error

    def message(self) -> bytes:
        """Return the sum so far as a message, after at least one contribution."""
        assert self._totals
        with span("serialise"):
            return self._ring.message(map(self._ring.raw, self._totals))


def residues(parameters: HeParameters, message: bytes, ciphertexts: int) -> Residues:
    """Return all residues of a message, shape (C, P, K, N): uniform modulo each prime if the message is encrypted.

    Raises:
        MalformedContribution: the bytes are not such a message.
    """
    return np.stack([raw.residues_PKN for raw in ring(parameters).parse(message, ciphertexts)])
