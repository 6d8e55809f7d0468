"""The examples of one pass: those of several clients, one behind the other, and where each client's parameters are.

Shapes: M examples of all clients of a pass, N clients of a stack.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from privacy.errors import PrivacyRefusal

Stack = Sequence[torch.Tensor]  # parameters of the clients, each (N, ...)


class Unstackable(PrivacyRefusal):
    """The model uses a trained parameter in a way that is not measured here; the message is a clause.

    A trial finds most before any training. A model that does so later, for instance by its values, ends its clients.
    """


@dataclass(frozen=True)
class Segment:
    """The examples `begin` to `end` of a pass, which belong to one client of the stack."""

    client: int
    begin: int
    end: int

    @property
    def rows(self) -> slice:
        """The examples as a slice of M."""
        return slice(self.begin, self.end)


@dataclass(frozen=True)
class Parts:
    """The clients' parameters, and the segments of a pass in order; they cover all of its M examples."""

    stack: Stack
    segments: Sequence[Segment]

    @property
    def examples(self) -> int:
        """M, the number of examples."""
        return self.segments[-1].end

    def within(self, rows: slice) -> Iterator[Segment]:
        """Yield the segments of a range of the examples, with places that count from the range's first."""
        for one in self.segments:
            begin = max(one.begin, rows.start)
            end = min(one.end, rows.stop)
            if begin < end:
                yield Segment(one.client, begin - rows.start, end - rows.start)

    @cached_property
    def owners_M(self) -> torch.Tensor:
        """The client of each example, int64."""
        owners = [torch.full((one.end - one.begin,), one.client) for one in self.segments]
        return torch.cat(owners).to(self.stack[0].device)


def segments_of(sizes: Sequence[tuple[int, int]]) -> list[Segment]:
    """Return the segments of a pass, from pairs of a client and its number of examples; one without any has none."""
    segments = []
    begin = 0
    for client, size in sizes:
        if size:
            segments.append(Segment(client, begin, begin + size))
        begin += size
    return segments
