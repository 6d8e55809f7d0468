"""Reals to CKKS ciphertexts and back (Cheon, Kim, Kim and Song 2017), for sums of a known cohort.

The last real of each ciphertext (in a dense set the imaginary part of its last slot) is reserved: each client puts the
bound there, and the opener expects the bound times the number of contributions. This check catches accidents, not
attacks: an upload that is counted twice in place of another passes.

Shapes: D values of a vector, C ciphertexts, V values in each (beside the reserved one), N coefficients, K primes;
R = K * N.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from privacy.checks import positive
from privacy.errors import ConfigError, MalformedContribution
from privacy.secure_sums.declarations import Encoding
from privacy.secure_sums.he.ciphers import DecryptionKey, EncryptionKey
from privacy.secure_sums.he.declarations import plaintext_encodings
from privacy.secure_sums.he.noise_bounds import noise_variance
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import SealRing, ring
from privacy.secure_sums.he.seal_files import RawPolynomials, Residues
from privacy.spans import each, span

Floats = NDArray[np.float64]

# Numbers of deviations that an error exceeds with probability 2^-108. The noise under a public key is d s: in a slot, a
# Gaussian times |s(zeta)|, whose square is exponential over the keys. So that noise has the distribution of Laplace,
# with the tail exp(-53 sqrt 2); the tail of the Gaussian is erfc(12 / sqrt 2).
_GAUSSIAN_TAIL = 12.0
_LAPLACE_TAIL = 53.0
_RELATIVE = 2.0**-40  # rounding error of SEAL's transforms in float64, relative to the largest sum, with a margin


@dataclass(frozen=True)
class Flooding:
    """Gaussian noise for an opening: its standard deviation in a coefficient, and its generator."""

    deviation: float
    generator: np.random.Generator


@dataclass(frozen=True)
class Ckks:
    """CKKS for sums of at most `cohort` vectors whose values are at most `bound` in absolute value. See `of`."""

    parameters: HeParameters
    symmetric: bool
    cohort: int
    bound: float

    @classmethod
    def of(cls, parameters: HeParameters, symmetric: bool, cohort: int, bound: float) -> "Ckks":
        """Return the scheme with the set's scale, or with the largest one, 2^floor(log2(q / (4 cohort bound))).

        A coefficient of a sum is at most sqrt(2) cohort bound scale, so below q/2 with room for the noise.

        Raises:
            ConfigError: the bound or cohort is not finite and positive, or a sum could wrap modulo q.
        """
        positive("bound", bound)
        positive("cohort", cohort)
        modulus = ring(parameters).modulus
        limit = math.floor(math.log2(modulus / (4 * cohort * bound)))
        if limit < 1 or (parameters.scale_bits or 1) > limit:
            raise ConfigError.of(
                "scale_bits",
                parameters.scale_bits,
                f"a sum of {cohort} values up to {bound:g} wraps above 2^{limit} (log2 of q / (4 cohort bound), "
                f"q = 2^{math.log2(modulus):.1f}): "
                "take fewer values, a lower bound, or more bits in coeff_modulus_bits",
            )
        return cls(parameters.with_scale(parameters.scale_bits or limit), symmetric, cohort, bound)

    @property
    def _ring(self) -> SealRing:
        return ring(self.parameters)

    @property
    def scale(self) -> float:
        """The factor by which a value is multiplied."""
        return 2.0 ** (self.parameters.scale_bits or 0)

    @property
    def values_per_ciphertext(self) -> int:
        """V: N - 1 in complex slots, N/2 - 1 in real slots."""
        degree = self.parameters.poly_modulus_degree
        return (degree if self.parameters.dense else degree // 2) - 1

    def ciphertexts(self, length: int) -> int:
        """Return C for a vector of `length` values."""
        return -(-length // self.values_per_ciphertext)

    def error_deviation(self, contributors: int, flooding: float = 0.0) -> float:
        """Return the standard deviation of the error in the values of an opened sum."""
        return self._spread(contributors * noise_variance(self.parameters, self.symmetric) + flooding**2)

    def tolerance(self, contributors: int, flooding: float = 0.0) -> float:
        """Return a bound on the error of an opened sum, from the tails above (2^-108 each)."""
        noise = (_GAUSSIAN_TAIL if self.symmetric else _LAPLACE_TAIL) * self.error_deviation(contributors)
        flood = _GAUSSIAN_TAIL * self._spread(flooding**2)
        return noise + flood + _RELATIVE * contributors * self.bound

    def _spread(self, variance: float) -> float:
        """Convert a variance of the coefficients to a deviation of the values: each part of a slot sums all N."""
        return math.sqrt(variance * self.parameters.poly_modulus_degree / 2) / self.scale

    def draw_mask(self, key: bytes, length: int) -> Residues:
        """Draw uniform residues modulo q from a 32-byte key, for a vector of `length` values, shape (C, R)."""
        return self._ring.draw_mask(key, self.ciphertexts(length))

    def add_masks(self, left_CR: Residues, right_CR: Residues) -> Residues:
        """Return the sum of two masks modulo q."""
        return self._ring.add_masks(left_CR, right_CR)

    def encrypt(
        self,
        values_D: Floats,
        key: EncryptionKey,
        mask_CR: Residues | None = None,
        zeros: Iterable[RawPolynomials] | None = None,
    ) -> bytes:
        """Return a message of C ciphertexts, the mask added to their plaintexts modulo q; `zeros`: see the key.

        Raises:
            MalformedContribution: a value is beyond the bound, or is not a number.
        """
        with span("encode"):
            peak = float(np.abs(values_D).max(initial=0))
            if not peak <= self.bound:
                raise MalformedContribution(f"a value to encrypt reaches {peak:g}, over the bound of {self.bound:g}")
            plaintexts = self.plaintexts(values_D, self.bound)
        return key.encrypt(each("encode", plaintexts), mask_CR, zeros)

    def plaintexts(self, values_D: Floats, check: float) -> Iterator[Any]:
        """Return SEAL's plaintexts of a vector, with `check` as the reserved value."""
        rows_CV = np.full((self.ciphertexts(len(values_D)), self.values_per_ciphertext + 1), check)
        padding = np.zeros(rows_CV[:, :-1].size - len(values_D))
        rows_CV[:, :-1] = np.concatenate([values_D, padding]).reshape(len(rows_CV), -1)
        return (self._encode(row_V.view(np.complex128) if self.parameters.dense else row_V) for row_V in rows_CV)

    def written(self, values_D: Floats) -> list[Encoding]:
        """Return the encoding of a vector by prime, over all its plaintexts."""
        return plaintext_encodings(self.parameters, self.plaintexts(values_D, self.bound))

    def _encode(self, slots: NDArray[Any]) -> Any:
        plaintext = sealapi.Plaintext()
        self._ring.encoder.encode(slots.tolist(), self.scale, plaintext)
        return plaintext

    def open(
        self,
        message: bytes,
        key: DecryptionKey,
        contributors: int,
        length: int,
        mask_CR: Residues | None = None,
        flooding: Flooding | None = None,
    ) -> Floats:
        """Return the sum of `contributors` contributions, shape (D,), after subtracting the sum of their masks.

        Raises:
            MalformedContribution: not a message of this set, or a reserved value that is not the contributors' sum.
        """
        raws = self._ring.parse(message, self.ciphertexts(length))
        if mask_CR is not None:
            raws = (self._ring.masked(raw, mask_R, sign=-1) for raw, mask_R in zip(raws, mask_CR, strict=True))
        with span("open"):
            rows_CV = np.stack([self._decrypt(self._ring.cipher(raw), key, flooding) for raw in raws])
        with span("decode"):
            self._check(rows_CV[:, -1], contributors, flooding.deviation if flooding else 0.0)
            return rows_CV[:, :-1].reshape(-1)[:length]

    def _decrypt(self, cipher: Any, key: DecryptionKey, flooding: Flooding | None) -> Floats:
        if flooding is not None:
            self._ring.evaluator.add_plain_inplace(cipher, self._flood(flooding))
        half = self.parameters.poly_modulus_degree // 2
        plaintext = key.decrypt(cipher)
        with span("decode"):
            slots = np.fromiter(self._ring.encoder.decode_complex(plaintext), np.complex128, half)
        return slots.view(np.float64) if self.parameters.dense else slots.real

    def _flood(self, flooding: Flooding) -> Any:
        """Draw a plaintext of Gaussian noise, independent in each coefficient.

        Parts of slots with sqrt(N/2) times the deviation make independent coefficients of this deviation.
        """
        degree = self.parameters.poly_modulus_degree
        gaussians = flooding.generator.standard_normal(degree) * (flooding.deviation * math.sqrt(degree / 2))
        return self._encode((gaussians / self.scale).view(np.complex128))

    def _check(self, reserved_C: Floats, contributors: int, flooding: float) -> None:
        expected = contributors * self.bound
        wrong_C = np.flatnonzero(~(np.abs(reserved_C - expected) <= self.tolerance(contributors, flooding)))
        if len(wrong_C):
            raise MalformedContribution(
                f"ciphertext {wrong_C[0]} of the sum holds {reserved_C[wrong_C[0]]:g} where {contributors} "
                f"contributions add up to {expected:g}: it was damaged, or is another sum"
            )

    def flooding_deviation(self, opened: int, tolerance: float, security_bits: int = 30) -> float:
        """Return the deviation of the noise that hides a sum's own noise: sqrt(12 tau) 2^(s/2) noise.

        Here tau is the number of ciphertexts opened under one key, and noise the deviation of a sum of `cohort`
        contributions. Li, Micciancio, Schultz and Sorrell 2022 (eprint 2022/816), in the form of OpenFHE's
        NOISE_FLOODING_DECRYPT.

        Raises:
            ConfigError: the error of a sum would exceed the tolerance; the line shows the arithmetic.
        """
        noise = math.sqrt(self.cohort * noise_variance(self.parameters, self.symmetric))
        deviation = math.sqrt(12 * opened) * 2 ** (security_bits / 2) * noise
        error = self.tolerance(self.cohort, deviation)
        if error > tolerance:
            raise ConfigError.of(
                "secure_sum.flooding_bits",
                security_bits,
                f"flooding by sqrt(12 * {opened}) * 2^({security_bits}/2) * {noise:.1f} = 2^{math.log2(deviation):.1f} "
                f"at a scale of 2^{self.parameters.scale_bits} is an error of up to {error:.2g} in a sum, "
                f"{tolerance:.2g} is allowed: take more bits in coeff_modulus_bits, or raise flooding_tolerance",
            )
        return deviation
