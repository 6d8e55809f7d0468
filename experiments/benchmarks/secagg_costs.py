"""The cost of a round of any secure aggregation: processor time and bytes, of the server and of a client."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from privacy.addresses import Address
from privacy.secure_sums.vectors import Sum, Vector

GONE_FROM = "mask"  # clients drop out after sharing their secrets and before sending a vector: the costliest moment


@dataclass(frozen=True)
class SecAggCase:
    """A number of clients, the length of their vectors (values up to 1), and the share of clients that drops out."""

    clients: int
    parameters: int
    dropout: float

    @property
    def gone(self) -> frozenset[int]:
        """The clients that drop out, the same for all compared protocols."""
        count = round(self.dropout * self.clients)
        return frozenset(np.random.default_rng(self.clients).permutation(self.clients)[:count].tolist())

    def update(self, client: int) -> Vector:
        """A client's update, shape (parameters,), float32."""
        return np.random.default_rng(client).uniform(-1, 1, self.parameters).astype(np.float32)

    def exact(self) -> Sum:
        """The exact sum over the clients that stay."""
        total = np.zeros(self.parameters)
        for client in sorted(set(range(self.clients)) - self.gone):
            total += self.update(client)
        return total


@dataclass
class Costs:
    """Costs of one round. Processor time is that of the process, over all its threads."""

    server_s: float = 0.0
    clients_s: dict[int, float] = field(default_factory=dict)
    up_bytes: dict[int, int] = field(default_factory=dict)
    down_bytes: dict[int, int] = field(default_factory=dict)
    payload_bytes: int = 0  # size of one masked vector

    @contextmanager
    def of_client(self, client: int) -> Iterator[None]:
        """Charge the time of the block to a client."""
        start_s = time.process_time()
        yield
        self.clients_s[client] = self.clients_s.get(client, 0.0) + time.process_time() - start_s

    @contextmanager
    def of_server(self) -> Iterator[None]:
        """Charge the time of the block to the server, also where it raises, as a generator does at its end."""
        start_s = time.process_time()
        try:
            yield
        finally:
            self.server_s += time.process_time() - start_s

    def passed(self, client: int, down_bytes: int, up_bytes: int) -> None:
        """Count the bytes of one round trip of a client."""
        self.down_bytes[client] = self.down_bytes.get(client, 0) + down_bytes
        self.up_bytes[client] = self.up_bytes.get(client, 0) + up_bytes

    def client_s(self, gone: frozenset[int]) -> float:
        """Mean seconds of a client that stays to the end."""
        return float(np.mean([taken_s for client, taken_s in self.clients_s.items() if client not in gone]))

    def bytes_of(self, gone: frozenset[int]) -> tuple[float, float]:
        """Mean bytes up and down of a client that stays to the end."""
        up, down = (
            float(np.mean([size for client, size in sizes.items() if client not in gone]))
            for sizes in (self.up_bytes, self.down_bytes)
        )
        return up, down


def number(address: Address) -> int:
    """The number in an address: 3 of `client/3`."""
    return int(address.partition("/")[2])
