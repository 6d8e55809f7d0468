"""Figures of TenSEAL's tutorials, measured with TenSEAL: sizes of ciphertexts and contexts, precision of a sum.

Source: TenSEAL, tutorials/"Tutorial 3 - Benchmarks.ipynb", whose values are uniform in [-10, 10], and whose KB and MB
are 1,024 and 1,024^2 bytes.
"""

import random
import statistics
from collections.abc import Sequence
from typing import Any

CIPHERTEXTS = 101  # compressed sizes of ciphertexts differ by up to 1.5 %
VALUES = 1000
KIB = 1024


def tenseal_ciphertext(
    poly_modulus_degree: int, coeff_modulus_bits: Sequence[int], scale_bits: int
) -> dict[str, float]:
    """KiB of a serialised CKKS vector of 1,000 floats: the mean over ciphertexts."""
    context = _context(poly_modulus_degree, coeff_modulus_bits)
    values = _values(-10, 10)
    sizes = [len(_vector(context, values, scale_bits).serialize()) for _ in range(CIPHERTEXTS)]
    return {"ciphertext (KiB)": statistics.fmean(sizes) / KIB}


def tenseal_context(poly_modulus_degree: int, coeff_modulus_bits: Sequence[int]) -> dict[str, float]:
    """Sizes of a serialised context that holds one kind of key: medians over fresh keys."""
    sizes = [_context_bytes(poly_modulus_degree, coeff_modulus_bits) for _ in range(3)]  # Galois keys are slow to make
    kib = {kind: statistics.median(size[kind] for size in sizes) / KIB for kind in sizes[0]}
    return {
        "public key (KiB)": kib["public_key"],
        "secret key (KiB)": kib["secret_key"],
        "Galois keys (MiB)": kib["galois_keys"] / KIB,
        "relinearisation keys (KiB)": kib["relin_keys"],
    }


def tenseal_precision(poly_modulus_degree: int, coeff_modulus_bits: Sequence[int], scale_bits: int) -> dict[str, float]:
    """Correct bits after the point in the sum of a vector and itself: the median over values in [2, 4]."""
    import numpy as np

    values = _values(2, 4)
    vector = _vector(_context(poly_modulus_degree, coeff_modulus_bits), values, scale_bits)
    errors = np.abs(np.array((vector + vector).decrypt()) - 2 * np.array(values))
    return {"right bits of a sum": float(np.median(np.floor(-np.log2(errors))))}


def _values(low: float, high: float) -> list[float]:
    return [random.uniform(low, high) for _ in range(VALUES)]


def _context(poly_modulus_degree: int, coeff_modulus_bits: Sequence[int]) -> Any:
    import tenseal as ts  # takes as long to load as all other imports together

    return ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree,
        coeff_mod_bit_sizes=list(coeff_modulus_bits),
        encryption_type=ts.ENCRYPTION_TYPE.ASYMMETRIC,
    )


def _vector(context: Any, values: list[float], scale_bits: int) -> Any:
    import tenseal as ts

    return ts.ckks_vector(context, values, 2.0**scale_bits)


def _context_bytes(poly_modulus_degree: int, coeff_modulus_bits: Sequence[int]) -> dict[str, int]:
    context = _context(poly_modulus_degree, coeff_modulus_bits)
    context.generate_galois_keys()
    kinds = ("public_key", "secret_key", "galois_keys", "relin_keys")
    return {kind: len(context.serialize(**{f"save_{other}": other == kind for other in kinds})) for kind in kinds}
