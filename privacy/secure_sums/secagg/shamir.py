"""Shamir's secret sharing (1979) of a secret among n holders: any t of them can rebuild it, and fewer learn nothing.

Neither `cryptography` nor the standard library has it. PyCryptodome does, over GF(2^128), sixteen bytes at a time and
bit by bit in Python. It takes 90 ms for the two secrets of a client among 72 holders; this module takes half a
millisecond. It uses polynomials over the integers modulo 2^256 - 189, the largest prime below 2^256, so elements are as
long as a key. A random key is not below the prime with probability 2^-248. Points are small integers, so each step of
an evaluation multiplies by one machine word, and a single reduction at the end is enough.

The running time of Python's integers depends on their values: a process on the same processor can observe this, a peer
cannot.

Shapes: n holders are numbered from 1 to n.
"""

import math
from collections.abc import Mapping

from privacy.randomness import KEY_BYTES, Randomness

PRIME = (1 << 256) - 189
SHARE_BYTES = 32


def split(secret: bytes, threshold: int, holders: int, randomness: Randomness) -> list[bytes]:
    """A share for each holder, in order: points of a random polynomial of degree t - 1 with the secret at 0."""
    assert 1 <= threshold <= holders
    coefficients = [_element(secret), *(_uniform(randomness) for _ in range(threshold - 1))]
    coefficients.reverse()
    return [_evaluate(coefficients, holder).to_bytes(SHARE_BYTES, "big") for holder in range(1, holders + 1)]


def combine(shares: Mapping[int, bytes], holders: int) -> bytes:
    """The secret, rebuilt from at least t shares, by the number of their holder among n.

    Lagrange's coefficient of holder i at 0 is the product of j / (j - i) over all other present holders j. Over all of
    1 to n it is (-1)^(i-1) C(n, i); the factors of missing holders are divided out of that. So a product has only as
    many factors as there are missing holders.
    """
    missing = [holder for holder in range(1, holders + 1) if holder not in shares]
    total = 0
    for holder, share in shares.items():
        weight = math.prod(absent - holder for absent in missing) * math.comb(holders, holder)
        total += (weight if holder % 2 else -weight) * int.from_bytes(share, "big")
    secret = total * pow(math.prod(missing), -1, PRIME) % PRIME
    return secret.to_bytes(KEY_BYTES, "big")


def _element(secret: bytes) -> int:
    element = int.from_bytes(secret, "big")
    assert len(secret) == KEY_BYTES
    assert element < PRIME
    return element


def _uniform(randomness: Randomness) -> int:
    while (element := int.from_bytes(randomness.key(), "big")) >= PRIME:
        pass
    return element


def _evaluate(coefficients: list[int], point: int) -> int:
    """Evaluate a polynomial by Horner's rule, from the highest coefficient on."""
    value = 0
    for coefficient in coefficients:
        value = value * point + coefficient
    return value % PRIME
