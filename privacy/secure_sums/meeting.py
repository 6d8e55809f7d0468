"""How the parties of a secure sum reach one another without the server: what a protocol asks for, and what it gets."""

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
    """The parties of a protocol, as one of them reaches them. What they are sent is signed, and no secret."""

    @abstractmethod
    def exchange(self, message: bytes) -> list[bytes]:
        """Send every other party a message and take one from each: in the order of the roles, one's own among them.

        Raises:
            PeerLost: a party did not answer in time, or is gone; it is named.
        """

    @abstractmethod
    def costs(self) -> Mapping[str, float]:
        """What passed between the parties since this was last asked, `stage.metric` as in a report."""


@dataclass(frozen=True)
class Meeting:
    """Who meets, the parties in the order of their ranks, where, and how long they wait for one another.

    The `dealer` is a process of its own, which the server sends nothing; None where nothing is dealt, or where party 0
    deals (`insecure_provider`), which can then read everything. `rendezvous` is `tcp://HOST:PORT`, the address at which
    the first of them waits for the others; None leaves it to whoever starts them all on one machine. What passes
    between them is not encrypted: beyond loopback it needs `tunnel`, the network interface of an encrypted tunnel, to
    which they are then confined.

    Raises:
        ConfigError: a time that is none, no such address, or one beyond loopback without a tunnel.
    """

    parties: tuple["Address", ...]
    timeout_s: float
    rendezvous: str | None = None
    tunnel: str | None = None
    dealer: "Address | None" = None
    insecure_provider: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
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
        """Everybody, by rank: the parties, and the dealer after them."""
        return self.parties if self.dealer is None else (*self.parties, self.dealer)

    @property
    def patience_s(self) -> float:
        """How long a party waits for another: less than the server waits for it, so that it can say who is missing."""
        return 0.75 * self.timeout_s


def reason(error: Exception) -> str:
    """An error of gloo as a part of one line of ours, without its file, line and advice."""
    return re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).partition(". ")[0]


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
