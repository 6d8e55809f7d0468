"""What the records of an upload are, as a secure sum declares it: the null distribution of each, for the witness.

Where protection is on, a protected record says nothing of what is in it: it consists of numbers that are uniform. Each
kind here names that distribution. What a box holds is declared by what the client put into it, since nobody but its
receiver can look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from privacy.uniformity import Numbers


class Declared:
    """A record of an upload: its numbers are uniform, and `searched` is in what no plaintext may show beside itself."""

    numbers: Sequence[Numbers] = ()
    searched: Sequence[bytes] = ()


@dataclass(frozen=True)
class Open(Declared):
    """May be read by whoever carries it; it is not looked at."""


@dataclass(frozen=True)
class Fixed(Declared):
    """A tag, key, signature or hash of so many bytes: too few to hold an update."""

    length_bytes: int


@dataclass(frozen=True)
class Uniform(Declared):
    """Numbers, each uniform modulo its modulus, as a masked vector or a ciphertext is. `searched` is it unzipped."""

    numbers: Sequence[Numbers]
    searched: Sequence[bytes] = ()


@dataclass(frozen=True)
class Boxed(Declared):
    """A sealed box, so uniform bytes, `overhead_bytes` longer than what is in it, which is uniform, too."""

    inside: bytes
    overhead_bytes: int
    numbers: Sequence[Numbers]

    @property
    def searched(self) -> Sequence[bytes]:  # type: ignore[override]
        """What is in the box."""
        return (self.inside,)


Declarations = Mapping[str, Declared]


@dataclass(frozen=True)
class Encoding:
    """A vector as the sum writes it before it protects it: integers of so many bits, shape (D,)."""

    values_D: NDArray[Any]
    bits: int


@dataclass(frozen=True)
class Rehearsal:
    """A second protection of a vector, which nobody is sent, and what it opens to again.

    `vector_D` is what was protected, `opened_D` what came out, and `tolerance` how far it may be off; `masks` are what
    hides the vector inside an encryption.
    """

    declared: Declarations
    vector_D: NDArray[Any]
    opened_D: NDArray[Any]
    tolerance: float
    masks: Sequence[Numbers] = ()
