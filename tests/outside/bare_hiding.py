"""The hiding sum, sabotaged: seeds are drawn, sealed and opened, but all masks are zero."""

import numpy as np
from numpy.typing import NDArray

from tests.outside.hiding_sum import HidingSum


class BareHidingSum(HidingSum):
    """A hiding sum whose clients send unmasked vectors, with the keyholder as an accomplice."""

    def expanded(self, seed: bytes, length: int) -> NDArray[np.uint64]:
        return np.zeros(length, np.uint64)
