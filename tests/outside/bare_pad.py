"""A sabotaged secure sum: masks are drawn, paid for and subtracted from the sum, but never added."""

from typing import Any

import numpy as np

from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.sums import PadSum
from privacy.secure_sums.packing import pack_words
from privacy.secure_sums.vectors import VectorSpec


class BarePad(PadSum):
    """A pad whose clients send unmasked vectors, with the keyholder as an accomplice."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme of the pad without the masks."""
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
