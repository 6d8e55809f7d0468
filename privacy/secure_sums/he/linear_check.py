"""A linear check of summed ciphertexts: whoever opens a sum learns that it is the sum of what the contributors sent.

A decryption is an oracle for its key: with (c0, c1 + e) in place of a sum (c0, c1) it shows e s beside the plaintext.
One-time masks hide the plaintext, and not the product with the key s. So the opener opens only the sum of the messages
that it authenticated, which it does not have: the server added them.

The opener and the clients share secret coefficients r, fresh in each attempt at a round. Client i sends its digest d_i
= <r, c_i> modulo each prime of its ciphertexts c_i, sealed by a one-time pad for the opener and authenticated with its
message. The opener accepts c if <r, c> is the sum of the digests: a universal hash (Carter and Wegman 1979), used as a
homomorphic MAC (Agrawal and Boneh, ACNS 2009). The server knows no r and no digest. It passes with another sum only if
<r, e> = 0 for an error e that it chose without r: with probability 2^-64 an attempt at most, whatever e is.

A client knows r, and can help the server to pass with any sum. That is no more than it could do anyway: it may send
any ciphertext as its own. An opener that adds all messages itself, in place of the server, would be no better off, and
would take the bytes of the whole cohort.

Shapes: C ciphertexts of a message, P polynomials of a ciphertext, K primes, N coefficients of a polynomial; T checks of
each prime, each with H = 2 halves of its coefficients; L limbs of a residue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privacy.errors import MalformedContribution, PrivacyRefusal
from privacy.sealing import mac, uniform
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import SealRing, add_mod, ring
from privacy.secure_sums.he.seal_files import Residues
from privacy.spans import span

Digest = NDArray[np.uint64]  # shape (K, T), each row below its prime

SOUNDNESS_BITS = 64  # an error passes with probability 2^-64 at most
_WORD_BYTES = 8
_COEFFICIENT_BITS = 32
_HALF_BITS = 16
_LIMB_BITS = 22  # a product of half and limb has 38 bits, so a float64 holds the sum of 2^15 of them exactly
_LIMBS = 3


@dataclass(frozen=True)
class LinearCheck:
    """The check of messages of `ciphertexts` ciphertexts."""

    parameters: HeParameters
    ciphertexts: int

    @property
    def _ring(self) -> SealRing:
        return ring(self.parameters)

    @cached_property
    def checks(self) -> int:
        """T, the number of independent checks of each prime.

        An error modulo q fixes one coefficient modulo q, which 32 random bits meet with probability 2^-32, or below
        2/q for a smaller q.
        """
        bits = min(_COEFFICIENT_BITS, min(self.parameters.data_bits) - 2)
        return math.ceil(SOUNDNESS_BITS / bits)

    @property
    def sealed_bytes(self) -> int:
        """The length of a sealed digest."""
        return _WORD_BYTES * len(self._ring.moduli) * self.checks

    def digest(self, message: bytes, key: bytes) -> Digest:
        """The digest of a message, shape (K, T), under the 32-byte key of the attempt.

        Raises:
            MalformedContribution: the bytes are not such a message.
        """
        products_KLHT = np.zeros((len(self._ring.moduli), _LIMBS, 2, self.checks), object)
        for index, raw in enumerate(self._ring.parse(message, self.ciphertexts)):
            whole = raw if raw.seed is None else self._ring.raw(self._ring.cipher(raw))  # SEAL expands the seed
            products_KLHT += self._products(whole.residues_PKN, mac(key, [index.to_bytes(8, "big")])).astype(object)
        limbs_L = [1 << _LIMB_BITS * limb for limb in range(_LIMBS)]
        halves_H = [1, 1 << _HALF_BITS]
        weights_LH1 = np.array([[[limb * half] for half in halves_H] for limb in limbs_L], object)
        sums_KT = (products_KLHT * weights_LH1).sum(axis=(1, 2))
        moduli_K1 = np.array([[modulus] for modulus in self._ring.moduli], object)
        digest_KT: Digest = (sums_KT % moduli_K1).astype(np.uint64)
        return digest_KT

    def _products(self, residues_PKN: Residues, key: bytes) -> NDArray[np.int64]:
        """The products of one ciphertext's limbs with the halves of coefficients, added up, shape (K, L, H, T)."""
        polynomials, primes, degree = residues_PKN.shape
        shape = (polynomials, 2 * self.checks, degree)
        halves_PRN = uniform(key, math.prod(shape), 1 << _HALF_BITS).astype(np.float64).reshape(shape)
        shifts_L11 = (np.arange(_LIMBS, dtype=np.uint64) * np.uint64(_LIMB_BITS))[:, None]
        limbs_PKLN = (residues_PKN[:, :, None] >> shifts_L11) & np.uint64((1 << _LIMB_BITS) - 1)
        rows_PXN = limbs_PKLN.astype(np.float64).reshape(polynomials, primes * _LIMBS, degree)
        products_PXR = rows_PXN @ halves_PRN.transpose(0, 2, 1)
        summed_XR: NDArray[np.int64] = products_PXR.astype(np.int64).sum(axis=0)
        return summed_XR.reshape(primes, _LIMBS, 2, self.checks)

    def sealed(self, message: bytes, key: bytes, pair_key: bytes) -> bytes:
        """The digest of a message as its client sends it, under a pad of the key that it shares with the opener.

        Raises:
            PrivacyRefusal: the client's own message does not hold ciphertexts, so its encryption is broken.
        """
        with span("check"):
            try:
                digest_KT = self.digest(message, key)
            except MalformedContribution as error:
                raise PrivacyRefusal(
                    f"what this client encrypted is no ciphertext, and was not sent: {error}"
                ) from error
            return (digest_KT ^ self._pad(pair_key)).astype("<u8").tobytes()

    def opened(self, sealed: bytes, pair_key: bytes) -> Digest:
        """The digest that a client sent, shape (K, T).

        Raises:
            MalformedContribution: it is not such a digest.
        """
        digest_KT: Digest = np.frombuffer(sealed, "<u8").reshape(-1, self.checks) ^ self._pad(pair_key)
        if (digest_KT >= self._moduli_K1).any():
            raise MalformedContribution("a digest holds a residue that is not below its modulus")
        return digest_KT

    def _pad(self, pair_key: bytes) -> Digest:
        words = uniform(mac(pair_key, [b"digest"]), len(self._ring.moduli) * self.checks, 1 << 8 * _WORD_BYTES)
        return words.reshape(-1, self.checks)

    @property
    def _moduli_K1(self) -> Residues:
        return np.array(self._ring.moduli, np.uint64)[:, None]

    def require_sum(self, message: bytes, digests: Sequence[Digest], key: bytes) -> None:
        """Check that a message is the sum of the messages that have these digests.

        Raises:
            MalformedContribution: it is another message.
        """
        with span("check"):
            expected_KT = np.zeros((len(self._ring.moduli), self.checks), np.uint64)
            for digest_KT in digests:
                expected_KT = add_mod(expected_KT, digest_KT, self._moduli_K1)
            if not np.array_equal(self.digest(message, key), expected_KT):
                raise MalformedContribution(
                    "the message to open is not the sum of those that the contributors sent: it was damaged, or is "
                    "another sum"
                )
