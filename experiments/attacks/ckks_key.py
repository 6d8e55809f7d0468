"""The IND-CPA-D attack on CKKS (Li and Micciancio 2021, eprint 2020/1533), as a control: it must work if unprotected.

An adversary with a ciphertext (c0, c1) and its decryption m, including the noise, solves c0 + c1 s = m for the key s.

Shapes: D values of an opened vector, K primes, N coefficients.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from privacy.errors import ConfigError
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import SealRing, ring
from privacy.secure_sums.he.seal_files import RawPolynomials, Residues, SealLayout, ciphertext_layout, load, save

Ternary = NDArray[np.int8]

_DEVIATIONS = 12  # searched range in deviations of the reserved value's error, which the opener does not publish


def recover_key(scheme: Ckks | Bfv, message: bytes, opened_D: NDArray[Any], contributors: int) -> Ternary | None:
    """Return the secret key's coefficients, shape (N,), from a sum's message and its opening; None if the attack fails.

    The attack uses the first ciphertext, which the opened values must fill. It recognises success without an oracle: a
    key is ternary, and the result of a wrong guess is ternary with probability (3/q)^N.

    Raises:
        ConfigError: the set has real slots, for which None would prove nothing: the attack on such a set needs two
            ciphertexts under one key.
        MalformedContribution: the message is not of this scheme and length.
    """
    here = ring(scheme.parameters)
    if not scheme.parameters.dense:
        raise ConfigError.of("dense", False, "openings of real slots show half of the noise: attack a dense set")
    raw = next(here.parse(message, scheme.ciphertexts(len(opened_D))))
    for plaintext in _guesses(scheme, opened_D[: scheme.values_per_ciphertext], contributors):
        key_N = ternary(coefficients(scheme.parameters, _solve(here, raw, plaintext)), here.moduli[0])
        if key_N is not None:
            return key_N
    return None


def secret_coefficients(parameters: HeParameters, secret: bytes) -> Ternary:
    """Return the coefficients of a secret key, shape (N,): the target of the attack.

    Raises:
        MalformedContribution: the bytes are not a secret key of this set.
    """
    here = ring(parameters)
    key_N = here.secret_key.parse(secret).residues_PKN[0, 0]
    ternary_N = ternary(coefficients(parameters, key_N), here.moduli[0])
    assert ternary_N is not None
    return ternary_N


def secret_key(parameters: HeParameters, key_N: Ternary) -> bytes:
    """Return the key of these coefficients, in the form of `DecryptionKey`: it decrypts as the original key does."""
    here = ring(parameters)
    moduli = np.array(here.moduli, np.int64)[:, None]
    residues_KN = (key_N.astype(np.int64) % moduli).astype(np.uint64)
    key_PKN = np.zeros((1, len(here.all_moduli), here.degree), np.uint64)  # decryption needs no special prime
    key_PKN[0, : len(here.moduli)] = _transform(here, residues_KN, forth=True)
    return here.secret_key.compressed_file(RawPolynomials(key_PKN))


def _guesses(scheme: Ckks | Bfv, opened_V: NDArray[Any], contributors: int) -> Iterator[Any]:
    """Yield candidate plaintexts. A coefficient is an integer, so re-encoding the opened reals restores it.

    In CKKS the opened reserved value has an error: it changes no coefficient by more than 2 scale/N times the error.
    """
    if isinstance(scheme, Bfv):
        yield from scheme.plaintexts(scheme.slots(opened_V, contributors))
        return
    step = scheme.parameters.poly_modulus_degree / (4 * scheme.scale)  # half a unit in a coefficient
    steps = math.ceil(_DEVIATIONS * scheme.error_deviation(contributors) / step)
    for guess in sorted(range(-steps, steps + 1), key=abs):
        yield from scheme.plaintexts(opened_V, contributors * scheme.bound + guess * step)


def _solve(here: SealRing, raw: RawPolynomials, plaintext: Any) -> Residues:
    """Return the key, -(c0 - m) / c1 modulo the first prime, for each of N points of the transform separately."""
    cipher = here.cipher(raw)
    here.evaluator.sub_plain_inplace(cipher, plaintext)
    if here.parameters.scheme == "bfv":
        here.evaluator.transform_to_ntt_inplace(cipher)
    c0_KN, c1_KN = _layout(here, ntt=True).parse(save(cipher)).residues_PKN
    q = here.moduli[0]
    points = zip(c0_KN[0].tolist(), c1_KN[0].tolist(), strict=True)
    return np.array([-a * pow(b, -1, q) % q if b else 0 for a, b in points], np.uint64)


def coefficients(parameters: HeParameters, transformed_N: Residues) -> Residues:
    """Return SEAL's inverse number-theoretic transform modulo the first prime, shape (N,)."""
    here = ring(parameters)
    residues_KN = np.zeros((len(here.moduli), here.degree), np.uint64)
    residues_KN[0] = transformed_N
    first_N: Residues = _transform(here, residues_KN, forth=False)[0]
    return first_N


def _transform(here: SealRing, residues_KN: Residues, forth: bool) -> Residues:
    """Return SEAL's transform, forward or inverse, of a polynomial modulo each prime.

    SEAL transforms ciphertexts only: the polynomial stands in both places of one.
    """
    cipher = sealapi.Ciphertext()
    load(cipher, here.context, _layout(here, ntt=not forth).file(RawPolynomials(np.stack([residues_KN, residues_KN]))))
    if forth:
        here.evaluator.transform_to_ntt_inplace(cipher)
    else:
        here.evaluator.transform_from_ntt_inplace(cipher)
    transformed_KN: Residues = _layout(here, ntt=forth).parse(save(cipher)).residues_PKN[0]
    return transformed_KN


def _layout(here: SealRing, ntt: bool) -> SealLayout:
    scale = 2.0 ** (here.parameters.scale_bits or 0)
    return ciphertext_layout(here.context.first_parms_id(), ntt, here.degree, here.moduli, scale)


def ternary(residues_N: Residues, modulus: int) -> Ternary | None:
    """Return residues as the coefficients of a key, shape (N,); None if one of them is not -1, 0 or 1."""
    centred_N = residues_N.astype(np.int64)
    centred_N[centred_N > modulus // 2] -= modulus
    return centred_N.astype(np.int8) if np.abs(centred_N).max() <= 1 else None
