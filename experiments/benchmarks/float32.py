"""The sum without protection behind the interface of a scheme: the baseline of homomorphic and masked sums."""

import numpy as np
from numpy.typing import NDArray

from privacy.secure_sums.he.codecs import Adder, Mask
from privacy.secure_sums.vectors import Sum, Vector


class Float32:
    """The sum without protection: float32 as bytes, added in place."""

    tolerance = 1e-6

    def encrypt(self, vector_D: Vector, key: bytes, mask: Mask | None) -> bytes:  # noqa: ARG002
        """The vector as float32 bytes."""
        return vector_D.tobytes()

    def adder(self) -> Adder:
        """An empty sum."""
        return _Float32Sum()

    def open(self, message: bytes, secret: bytes, contributors: int, mask: Mask | None) -> Sum:  # noqa: ARG002
        """The sum in float64."""
        return np.frombuffer(message, np.float32).astype(np.float64)


class _Float32Sum:
    def __init__(self) -> None:
        self._total_D: NDArray[np.float32] | None = None

    def add(self, message: bytes) -> None:
        values_D = np.frombuffer(message, np.float32)
        if self._total_D is None:
            self._total_D = values_D.copy()
        else:
            self._total_D += values_D

    def message(self) -> bytes:
        assert self._total_D is not None
        return self._total_D.tobytes()
