"""A sabotaged secure sum: masks are drawn, paid for, taken off the sum, and never put on."""

from typing import Any

import numpy as np

from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.sums import PadSum
from privacy.secure_sums.packing import pack_words
from privacy.secure_sums.vectors import VectorSpec


class BarePad(PadSum):
    """Sends what it should hide; the keyholder is in the plot."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """As it is, but for the masks."""
        return _Bare(super().scheme(spec))  # type: ignore[return-value]


class _Bare:
    def __init__(self, honest: Any) -> None:
        self._honest = honest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def draw_mask(self, key: bytes) -> Any:
        return np.zeros_like(self._honest.draw_mask(key))

    def encrypt(self, vector_D: Any, key: bytes, mask: Any) -> bytes:
        return pack_words(np.append(self._honest.fixed.encode(vector_D), np.uint64(1)), self._honest.bits)
