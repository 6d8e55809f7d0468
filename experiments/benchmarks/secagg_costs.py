"""What a round of secure aggregation costs, whoever's it is: processor time and bytes, of the server and a client."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from privacy.addresses import Address
from privacy.secure_sums.vectors import Sum, Vector

GONE_FROM = "mask"  # who drops out has shared its secrets, and sends no vector: the dearest time to be gone


@dataclass(frozen=True)
class SecAggCase:
    """So many clients with vectors of so many values up to 1, of which a share drops out."""

    clients: int
    parameters: int
    dropout: float

    @property
    def gone(self) -> frozenset[int]:
        """Who drops out: the same ones for everybody who is compared."""
        count = round(self.dropout * self.clients)
        return frozenset(np.random.default_rng(self.clients).permutation(self.clients)[:count].tolist())

    def update(self, client: int) -> Vector:
        """Shape (parameters,), in float32."""
        return np.random.default_rng(client).uniform(-1, 1, self.parameters).astype(np.float32)

    def exact(self) -> Sum:
        """The sum over who is left."""
        total = np.zeros(self.parameters)
        for client in sorted(set(range(self.clients)) - self.gone):
            total += self.update(client)
        return total


@dataclass
class Costs:
    """Of one round. Processor time is that of the process, over all its threads."""

    server_s: float = 0.0
    clients_s: dict[int, float] = field(default_factory=dict)
    up_bytes: dict[int, int] = field(default_factory=dict)
    down_bytes: dict[int, int] = field(default_factory=dict)
    payload_bytes: int = 0  # of one masked vector

    @contextmanager
    def of_client(self, client: int) -> Iterator[None]:
        """The block is a client's."""
        start_s = time.process_time()
        yield
        self.clients_s[client] = self.clients_s.get(client, 0.0) + time.process_time() - start_s

    @contextmanager
    def of_server(self) -> Iterator[None]:
        """The block is the server's; it counts also when it raises, as a generator does that ends."""
        start_s = time.process_time()
        try:
            yield
        finally:
            self.server_s += time.process_time() - start_s

    def passed(self, client: int, down_bytes: int, up_bytes: int) -> None:
        """One round trip."""
        self.down_bytes[client] = self.down_bytes.get(client, 0) + down_bytes
        self.up_bytes[client] = self.up_bytes.get(client, 0) + up_bytes

    def client_s(self, gone: frozenset[int]) -> float:
        """Of one that is there to the end, in the mean."""
        return float(np.mean([taken_s for client, taken_s in self.clients_s.items() if client not in gone]))

    def bytes_of(self, gone: frozenset[int]) -> tuple[float, float]:
        """Up and down, of one that is there to the end, in the mean."""
        up, down = (
            float(np.mean([size for client, size in sizes.items() if client not in gone]))
            for sizes in (self.up_bytes, self.down_bytes)
        )
        return up, down


def number(address: Address) -> int:
    """3 of `client/3`."""
    return int(address.partition("/")[2])
