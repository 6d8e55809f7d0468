"""Connections between the parties of a secure sum, without the server: the requirements, and the interface to them."""

import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from privacy.checks import positive
from privacy.errors import ConfigError

if TYPE_CHECKING:
    from privacy.addresses import Address


class Peers(ABC):
    """The connection of one party to all parties of a protocol. Messages are signed, and they are not secret."""

    @abstractmethod
    def exchange(self, message: bytes) -> list[bytes]:
        """Send a message to every other party and receive one from each.

        Returns the messages of all parties, the own one included, in the order of the roles.

        Raises:
            PeerLost: a party did not answer in time, or is gone; the message names it.
        """

    @abstractmethod
    def costs(self) -> Mapping[str, float]:
        """The traffic between the parties since the last call, by `stage.metric` as in a report."""


@dataclass(frozen=True)
class Meeting:
    """The members of a meeting, in the order of their ranks, its address, and the time they wait for one another.

    The `dealer` is a separate process, to which the server sends nothing. It is None where nothing is dealt, or where
    party 0 deals (`insecure_provider`) and can then read everything. `rendezvous` is `tcp://HOST:PORT`, the address at
    which the first member waits for the others; None leaves the choice to the process that starts all members on one
    machine. The traffic between the members is not encrypted: beyond loopback it needs `tunnel`, the network interface
    of an encrypted tunnel, and the members then use this interface only.

    Raises:
        ConfigError: an invalid time or address, or an address beyond loopback without a tunnel.
    """

    parties: tuple["Address", ...]
    timeout_s: float
    rendezvous: str | None = None
    tunnel: str | None = None
    dealer: "Address | None" = None
    insecure_provider: bool = False

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        positive("secure_sum.timeout_s", self.timeout_s)
        if self.rendezvous is None:
            if self.tunnel is not None:
                raise ConfigError.of("secure_sum.tunnel", self.tunnel, "needs secure_sum.rendezvous=tcp://HOST:PORT")
            return
        host, _ = self.address
        if self.tunnel is None and not is_loopback(host):
            allowed = "would pass sums of shares in cleartext: name an encrypted tunnel's interface, secure_sum.tunnel"
            raise ConfigError.of("secure_sum.rendezvous", self.rendezvous, allowed)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        try:
            parts = urlsplit(str(self.rendezvous))
            host = parts.hostname
            port = parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.scheme != "tcp" or parts.path or parts.query:
            raise ConfigError.of("secure_sum.rendezvous", self.rendezvous, "must be tcp://HOST:PORT")
        return host, port

    @property
    def members(self) -> tuple["Address", ...]:
        """All members by rank: the parties, then the dealer."""
        return self.parties if self.dealer is None else (*self.parties, self.dealer)

    @property
    def patience_s(self) -> float:
        """The time for which a party waits for another, in seconds.

        It is shorter than the server's own wait, so that the party can still report which one is missing.
        """
        return 0.75 * self.timeout_s


def reason(error: Exception) -> str:
    """The text of a gloo error as a part of one line, without its file, line and advice."""
    return re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).partition(". ")[0]


def is_loopback(host: str) -> bool:
    """True where a host name or address always means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
