"""The declared kinds of an upload's records: a secure sum states each record's null distribution, for the witness.

With protection on, a protected record reveals nothing of its content: it consists of uniform numbers. Each kind here
names that distribution. The content of a box is declared by the client that filled it, since only the box's receiver
can open it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.uint64]
LONG = 1 << 16  # the first test takes all numbers of a series, the other tests at most so many


@dataclass(frozen=True)
class Numbers:
    """Integers in [0, modulus), shape (R, N), that are uniform and independent where protection is on."""

    name: str
    values_RN: Integers
    modulus: int

    @classmethod
    def of(cls, name: str, values: NDArray[Any], modulus: int) -> "Numbers":
        """Numbers of any unsigned type, in one row or several."""
        return cls(name, np.atleast_2d(values).astype(np.uint64, copy=False), modulus)

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> "Numbers":
        """The bytes of a key, seed or share, as numbers."""
        return cls.of(name, np.frombuffer(data, np.uint8), 256)

    def difference(self, left: Integers, right: Integers) -> Integers:
        """The difference `left` - `right`, modulo the modulus."""
        if self.modulus == 1 << 64:
            return left - right
        modulus = np.uint64(self.modulus)
        # below 2^63 the sum cannot wrap; above it every modulus in use is a power of two
        return (left + (modulus - right)) % modulus if self.modulus < 1 << 63 else (left - right) & (modulus - 1)

    def series(self) -> Iterator[tuple[str, Integers]]:
        """The series of these numbers that must be uniform, each with a name in words."""
        yield self.name, self.values_RN.reshape(-1)
        row_N = self.values_RN[0, :LONG]
        if len(row_N) > 1:
            yield f"the differences of successive {self.name}", self.difference(row_N[1:], row_N[:-1])
        if len(self.values_RN) > 1:
            columns = max(1, LONG // len(self.values_RN))
            some_RN = self.values_RN[:, :columns]
            between = self.difference(some_RN[1:], some_RN[:-1]).reshape(-1)
            yield f"the differences of {self.name} between ciphertexts", between


class Declared:
    """A record of an upload: its `numbers` are uniform, and `searched` are bytes in which no plaintext may appear.

    `searched` is in addition to the record itself.
    """

    numbers: Sequence[Numbers] = ()
    searched: Sequence[bytes] = ()


@dataclass(frozen=True)
class Open(Declared):
    """A record that every carrier may read; the witness does not check it."""


@dataclass(frozen=True)
class Fixed(Declared):
    """A tag, key, signature or hash of `length_bytes` bytes: too few to hold an update."""

    length_bytes: int


@dataclass(frozen=True)
class Uniform(Declared):
    """Numbers, each uniform modulo its modulus: a masked vector or a ciphertext. `searched` is the record unzipped."""

    numbers: Sequence[Numbers]
    searched: Sequence[bytes] = ()


@dataclass(frozen=True)
class Boxed(Declared):
    """A sealed box: uniform bytes, `overhead_bytes` longer than its content, which is uniform too."""

    inside: bytes
    overhead_bytes: int
    numbers: Sequence[Numbers]

    @property
    def searched(self) -> Sequence[bytes]:  # type: ignore[override]
        """The content of the box."""
        return (self.inside,)


Declarations = Mapping[str, Declared]


@dataclass(frozen=True)
class Encoding:
    """The encoding of a vector before protection: integers of `bits` bits, shape (D,)."""

    values_D: NDArray[Any]
    bits: int


@dataclass(frozen=True)
class Rehearsal:
    """A second protection of a vector, which is never sent, and its opening.

    `vector_D` is the protected vector, `opened_D` the opened one, and `tolerance` their largest allowed difference;
    `masks` are the masks that hide the vector inside an encryption.
    """

    declared: Declarations
    vector_D: NDArray[Any]
    opened_D: NDArray[Any]
    tolerance: float
    masks: Sequence[Numbers] = ()
