"""Selective encryption: a part of each update is encrypted, the rest travels in the clear and is summed beside it.

Jin et al. 2023 (FedML-HE, arXiv 2303.10837, section 2.4) encrypt the most sensitive parameters, or a random selection.
The sensitivities are a map that is summed over the clients under encryption before the first round. FedPHE sparsifies
in a similar way. The cleartext part is not protected at all: this is a published trade-off, which can be measured here.

Shapes: D is the length of the vector that a spec declares, U that of its update, K that of the update's encrypted part.
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
    """Refuse an invalid fraction, or an unknown way to choose the encrypted part.

    Raises:
        ConfigError: a value is refused; the message names the key.
    """
    if not 0 < fraction <= 1:
        raise ConfigError.of("secure_sum.encrypt_fraction", fraction, "must lie above 0 and be at most 1")
    if by not in CHOICES:
        raise ConfigError.of("secure_sum.encrypt_by", by, f"allowed are {', '.join(CHOICES)}")
    if fraction == 1 and by != CHOICES[0]:
        raise ConfigError.of("secure_sum.encrypt_by", by, "belongs to secure_sum.encrypt_fraction below 1")


@lru_cache(maxsize=8)
def protected_spec(spec: VectorSpec, fraction: float) -> VectorSpec:
    """The spec of the encrypted part: the given fraction of the update, and all segments after it.

    Raises:
        ConfigError: the contributions are residues. Their noise is shared among the clients, so a part of one client's
            contribution must not be visible.
    """
    if fraction == 1:
        return spec
    if spec.modulus_bits is not None:
        allowed = "shares of integer noise protect a sum, not one client's values in the clear: encrypt all of them"
        raise ConfigError.of("secure_sum.encrypt_fraction", fraction, allowed)
    update = spec.segments[0]
    kept = replace(update, length=max(1, math.ceil(fraction * update.length)))
    return replace(spec, segments=(kept, *spec.segments[1:]))


def clear_spec(spec: VectorSpec, fraction: float) -> VectorSpec:
    """The spec of the cleartext part: the rest of the update."""
    update = spec.segments[0]
    left = update.length - protected_spec(spec, fraction).segments[0].length
    return replace(spec, segments=(Segment("open part of the update", left, update.bound),))


@dataclass(frozen=True)
class Selection:
    """The choice of the encrypted values of an update: True in `encrypted_U`."""

    encrypted_U: NDArray[np.bool_]

    @classmethod
    def from_bytes(cls, bits: bytes, spec: VectorSpec, fraction: float) -> "Selection":
        """The selection that `to_bytes` wrote.

        Raises:
            MalformedContribution: the data have another length, or select another number of values than the fraction.
        """
        length = spec.segments[0].length
        wanted = protected_spec(spec, fraction).segments[0].length
        if len(bits) != -(-length // 8):
            raise MalformedContribution(f"positions of {length} values take {-(-length // 8)} bytes, got {len(bits)}")
        encrypted_U = np.unpackbits(np.frombuffer(bits, np.uint8), count=length).astype(bool)
        if encrypted_U.sum() != wanted:
            raise MalformedContribution(f"{encrypted_U.sum()} values would be encrypted, {wanted} are needed")
        return cls(encrypted_U)

    def to_bytes(self) -> bytes:
        """The selection as bytes, one bit per value."""
        return np.packbits(self.encrypted_U).tobytes()

    @cached_property
    def _protected_D(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.encrypted_U)

    def split(self, vector_D: Vector) -> tuple[Vector, Vector]:
        """The encrypted part (K values of the update and all values behind it) and the cleartext part, (U - K,)."""
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
    """A random selection of `count` values of an update.

    It is the same for all clients and rounds: different selections would reveal more values over time.
    """
    generator = SeededRandomness("selective encryption", length, count).generator()
    return _of(generator.permutation(length)[:count], length)


def most_sensitive(sensitivity_U: NDArray[np.floating], count: int) -> Selection:
    """The selection of the values with the largest sensitivities; among equal ones the first."""
    order_U = np.argsort(-sensitivity_U, kind="stable")
    return _of(order_U[:count], len(sensitivity_U))


def _of(chosen: NDArray[np.intp], length: int) -> Selection:
    encrypted_U = np.zeros(length, bool)
    encrypted_U[chosen] = True
    return Selection(encrypted_U)
