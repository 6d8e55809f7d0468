"""Schemes with keys, made once, and the steps of a sum from its contributions to its opening."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from privacy.randomness import SeededRandomness
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ciphers import CiphertextSum, DecryptionKey, EncryptionKey, Keys, generate_keys
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.parameters import named
from privacy.secure_sums.he.seal_files import Residues


@dataclass(frozen=True)
class Setup:
    scheme: Ckks | Bfv
    keys: Keys
    encryption: EncryptionKey
    decryption: DecryptionKey

    def __str__(self) -> str:
        parameters = self.scheme.parameters
        primes = "-".join(map(str, parameters.coeff_modulus_bits))
        return f"{parameters.scheme}-{primes}-{'shared' if self.scheme.symmetric else 'public'}"


def with_keys(scheme: Ckks | Bfv) -> Setup:
    keys = generate_keys(scheme.parameters)
    data = keys.secret if scheme.symmetric else keys.public
    encryption = EncryptionKey(scheme.parameters, data, scheme.symmetric)
    return Setup(scheme, keys, encryption, DecryptionKey(scheme.parameters, keys.secret))


@cache
def ckks(name: str = "lean", symmetric: bool = True, cohort: int = 10) -> Setup:
    return with_keys(Ckks.of(named(name, "ckks", symmetric), symmetric, cohort, 1.0))


@cache
def bfv(symmetric: bool = True, cohort: int = 16, value_bits: int = 16) -> Setup:
    scheme = Bfv.of(named("lean", "bfv", symmetric), symmetric, cohort, value_bits, length=10**6, rounds=1000)
    return with_keys(scheme)


def generator(*labels: int | str) -> np.random.Generator:
    return SeededRandomness("he", *labels).generator()


def mask_key(*labels: int | str) -> bytes:
    return SeededRandomness("he", *labels).key()


def uploads(setup: Setup, vectors: list[np.ndarray], masked: bool) -> tuple[list[bytes], Residues | None]:
    """One message for each vector, and the sum of their masks."""
    masks = [setup.scheme.draw_mask(mask_key("mask", i), len(v)) for i, v in enumerate(vectors)] if masked else []
    messages = [
        setup.scheme.encrypt(vector, setup.encryption, masks[index] if masked else None)
        for index, vector in enumerate(vectors)
    ]
    total = masks[0] if masked else None
    for mask in masks[1:]:
        total = setup.scheme.add_masks(total, mask)
    return messages, total


def added(setup: Setup, messages: list[bytes], length: int) -> bytes:
    total = CiphertextSum(setup.scheme.parameters, setup.scheme.ciphertexts(length))
    for message in messages:
        total.add(message)
    return total.message()


def opened(setup: Setup, vectors: list[np.ndarray], masked: bool = True) -> np.ndarray:
    messages, mask = uploads(setup, vectors, masked)
    message = added(setup, messages, len(vectors[0]))
    return setup.scheme.open(message, setup.decryption, len(vectors), len(vectors[0]), mask)


def reals(count: int, length: int) -> list[np.ndarray]:
    return [generator("reals", i).uniform(-1, 1, length) for i in range(count)]


def integers(count: int, length: int, bits: int) -> list[np.ndarray]:
    return [generator("integers", i).integers(0, 1 << bits, length, np.uint64) for i in range(count)]


def chi_square_ratio(residues: np.ndarray, modulus: int, bins: int = 256) -> float:
    """Chi-square over its degrees of freedom: near 1 where residues are uniform."""
    counts = np.bincount((residues.reshape(-1).astype(object) * bins // modulus).astype(np.int64), minlength=bins)
    expected = counts.sum() / bins
    return float(((counts - expected) ** 2 / expected).sum() / (bins - 1))
