"""The declared kinds of an upload's records: a secure sum states each record's null distribution, for the witness.

With protection on, a protected record reveals nothing of its content: it consists of uniform numbers. Each kind here
names that distribution. The content of a box is declared by the client that filled it, since only the box's receiver
can open it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from privacy.uniformity import Numbers


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
