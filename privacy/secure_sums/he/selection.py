"""Selective encryption: a part of each update is encrypted, the rest travels in the clear and is summed beside it.

Jin et al. 2023 (FedML-HE, arXiv 2303.10837, section 2.4) encrypt the parameters that are most sensitive, as the
clients find by a map that is summed under encryption before the first round, or some at random; FedPHE sparsifies
likewise. What is in the clear is not protected at all: this is a published trade, here to be measured.

Shapes: D is the length of the vector that a spec declares, U of the update in it, K of what is encrypted of the update.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ConfigError, MalformedContribution
from privacy.randomness import SeededRandomness
from privacy.secure_sums.vectors import Segment, Sum, Vector, VectorSpec

CHOICES = ("random", "sensitivity")


def check_fraction(fraction: float, by: str) -> None:
    """Refuse what is no share, or no way to choose.

    Raises:
        ConfigError: naming the key.
    """
    if not 0 < fraction <= 1:
        raise ConfigError.of("secure_sum.encrypt_fraction", fraction, "must lie above 0 and be at most 1")
    if by not in CHOICES:
        raise ConfigError.of("secure_sum.encrypt_by", by, f"allowed are {', '.join(CHOICES)}")
    if fraction == 1 and by != CHOICES[0]:
        raise ConfigError.of("secure_sum.encrypt_by", by, "belongs to secure_sum.encrypt_fraction below 1")


@lru_cache(maxsize=8)
def protected_spec(spec: VectorSpec, fraction: float) -> VectorSpec:
    """The vector that is left to encrypt: so much of the update, and all that comes after it.

    Raises:
        ConfigError: the contributions are residues, whose noise is shared among the clients: no part may be seen alone.
    """
    if fraction == 1:
        return spec
    if spec.modulus_bits is not None:
        allowed = "shares of integer noise protect a sum, not what one client sends in the clear: encrypt all of it"
        raise ConfigError.of("secure_sum.encrypt_fraction", fraction, allowed)
    update = spec.segments[0]
    kept = replace(update, length=max(1, math.ceil(fraction * update.length)))
    return replace(spec, segments=(kept, *spec.segments[1:]))


def clear_spec(spec: VectorSpec, fraction: float) -> VectorSpec:
    """What travels in the clear: the rest of the update."""
    update = spec.segments[0]
    left = update.length - protected_spec(spec, fraction).segments[0].length
    return replace(spec, segments=(Segment("open part of the update", left, update.bound),))


@dataclass(frozen=True)
class Selection:
    """Which values of an update are encrypted: True in `encrypted_U`."""

    encrypted_U: NDArray[np.bool_]

    @classmethod
    def from_bytes(cls, bits: bytes, spec: VectorSpec, fraction: float) -> "Selection":
        """What `to_bytes` gave.

        Raises:
            MalformedContribution: another length, or another number of values than the fraction says.
        """
        length = spec.segments[0].length
        wanted = protected_spec(spec, fraction).segments[0].length
        if len(bits) != -(-length // 8):
            raise MalformedContribution(f"positions of {length} values take {-(-length // 8)} bytes, got {len(bits)}")
        encrypted_U = np.unpackbits(np.frombuffer(bits, np.uint8), count=length).astype(bool)
        if encrypted_U.sum() != wanted:
            raise MalformedContribution(f"{encrypted_U.sum()} values would be encrypted, {wanted} are to be")
        return cls(encrypted_U)

    def to_bytes(self) -> bytes:
        """A bit a value."""
        return np.packbits(self.encrypted_U).tobytes()

    @cached_property
    def _protected_D(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.encrypted_U)

    def split(self, vector_D: Vector) -> tuple[Vector, Vector]:
        """What is encrypted (K values of the update and all behind it), and what is not, shape (U - K,)."""
        update_U, rest = np.split(vector_D, [len(self.encrypted_U)])
        return np.concatenate([update_U[self._protected_D], rest]), update_U[~self.encrypted_U]

    def merge(self, protected: Sum, clear: Sum) -> Sum:
        """The sum of whole vectors, shape (D,), from the sums of both parts."""
        chosen, rest = np.split(protected, [len(self._protected_D)])
        update_U = np.empty(len(self.encrypted_U))
        update_U[self._protected_D] = chosen
        update_U[~self.encrypted_U] = clear
        return np.concatenate([update_U, rest])


@lru_cache(maxsize=2)
def at_random(length: int, count: int) -> Selection:
    """So many of the values of an update, the same ones for everybody and in every round: others would add up."""
    generator = SeededRandomness("selective encryption", length, count).generator()
    return _of(generator.permutation(length)[:count], length)


def most_sensitive(sensitivity_U: NDArray[np.floating], count: int) -> Selection:
    """The values with the largest sensitivities; of equal ones the first."""
    order_U = np.argsort(-sensitivity_U, kind="stable")
    return _of(order_U[:count], len(sensitivity_U))


def _of(chosen: NDArray[np.intp], length: int) -> Selection:
    encrypted_U = np.zeros(length, bool)
    encrypted_U[chosen] = True
    return Selection(encrypted_U)
