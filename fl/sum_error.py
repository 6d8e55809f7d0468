"""The error of a secure sum, in test mode: its distance from the plain sum of the contributions sent in the clear.

Shapes: D is the length of the vector that is summed.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal
from privacy.secure_sums.vectors import OrderedSum, Sum, Total, Vector, VectorSpec


class SumError(NamedTuple):
    """The error of one sum over its D values: largest absolute error, root mean square, and largest allowed error."""

    largest: float
    rms: float
    allowed: float

    def metrics(self) -> dict[str, float]:
        """Return the figures by the metrics of their rows. Without an allowed error there is no ratio."""
        found = {"sum_error": self.largest, "sum_error_rms": self.rms, "sum_error_allowed": self.allowed}
        return found | ({"sum_error_ratio": self.largest / self.allowed} if self.allowed else {})


class ClearContributions(AbstractContextManager["ClearContributions"]):
    """The clients' contributions in the clear to one attempt, while the block runs.

    Only the end of an attempt determines the contributors of the sum, and memory should hold one vector at a time. So
    the vectors wait in an unnamed file in `folder`, which ends with this process.
    """

    def __init__(self, spec: VectorSpec, folder: Path) -> None:
        self._spec = spec
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 (closed below)
        self._starts: dict[Address, int] = {}

    def __exit__(self, *_: object) -> None:
        """Delete the contributions."""
        self._file.close()

    def take(self, address: Address, vector: object) -> None:
        """Keep one contribution of shape (D,).

        Raises:
            MalformedContribution: the vector does not fit the spec.
        """
        checked = self._spec.check(vector)
        self._starts[address] = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(checked).data)

    def sum_of(self, survivors: Sequence[Address]) -> Sum:
        """Sum the survivors' contributions in order, shape (D,): in float64, or exactly modulo 2^k for residues."""
        total = OrderedSum(survivors, self._spec)
        for address in survivors:
            total.add(address, self._read(address))
        return total.close()

    def _read(self, address: Address) -> Vector:
        dtype = self._spec.dtype
        self._file.seek(self._starts[address])
        return np.frombuffer(self._file.read(self._spec.length * dtype.itemsize), dtype)

    def error_of(self, total: Total, cohort: Sequence[Address], tolerance: float) -> SumError:
        """Return the error of an opened sum, where each contribution may be off by `tolerance`."""
        off_D = self.sum_of([address for address in cohort if address in total.survivors])
        off_D[:-1] -= total.update_D
        off_D[-1] -= off_D.dtype.type(total.weight)
        if self._spec.modulus_bits is None:
            np.abs(off_D, out=off_D)
        else:  # the distance of residues is the shorter way around
            off_D &= (1 << self._spec.modulus_bits) - 1
            np.minimum(off_D, (1 << self._spec.modulus_bits) - off_D, out=off_D)
        squares = np.square(off_D, dtype=np.float64)
        return SumError(float(off_D.max()), math.sqrt(float(squares.mean())), len(total.survivors) * tolerance)


def require_within(error: SumError, total: Total, name: str) -> None:
    """Refuse a sum whose error is above its own tolerance.

    Raises:
        PrivacyRefusal: the error is above the tolerance, or not a number.
    """
    if not error.largest <= error.allowed:
        raise PrivacyRefusal(
            f"secure_sum={name}: the sum of {len(total.survivors)} contributions is off by {error.largest:.3g}, "
            f"its tolerance allows {error.allowed:.3g}"
        )
