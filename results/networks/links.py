"""Links between the roles of a round: profiles, and a model of the transfer time over them.

`results/networks/NAME.yaml` holds one profile. All figures of this module are modelled, not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from privacy.addresses import DEALER, KEYHOLDER, SERVER
from privacy.errors import ConfigError

FOLDER = Path(__file__).parent
PLACES = {SERVER: 0, KEYHOLDER: 1, DEALER: 2}  # index into a profile's places
BYTES_PER_S = 1e6 / 8  # bytes a second in 1 Mbit/s


@dataclass
class Link:
    """A machine's own link, in Mbit/s of payload: simultaneous sends share the uplink, receives the downlink."""

    up_mbps: float = MISSING
    down_mbps: float = MISSING


@dataclass
class MachinePair:
    """The path between two machines, in both directions; None means no limit."""

    rtt_ms: float = MISSING
    mbps: float | None = None


@dataclass
class Profile:
    """One network. Roles are the keyholder, the parties and their dealer.

    Either all are `rtt_ms` apart, or they are spread over `places`, with paths `between` two and `within` one.
    """

    title: str = MISSING
    source: str = MISSING
    server: Link = field(default_factory=Link)
    client: Link = field(default_factory=Link)
    role: Link = field(default_factory=Link)
    rtt_ms: float = 0.0
    places: list[str] = field(default_factory=list)
    within: MachinePair = field(default_factory=lambda: MachinePair(0.0))
    between: dict[str, MachinePair] = field(default_factory=dict)
    # bytes that TCP sends before the first reply: ten segments of 1,448 bytes (RFC 6928); null for no slow start
    initial_window_bytes: float | None = 14_480.0


@dataclass(frozen=True)
class Network:
    """A profile, looked up by the addresses of sender and receiver."""

    name: str
    profile: Profile

    def link(self, address: str) -> Link:
        """The link of an address."""
        kind = address.partition("/")[0]
        return {SERVER: self.profile.server, "client": self.profile.client}.get(kind, self.profile.role)

    def rtt_s(self, a: str, b: str) -> float:
        """The round-trip time between two addresses, in seconds."""
        return self._pair(a, b).rtt_ms / 1e3

    def bytes_per_s(self, sender: str, receiver: str, share: float = 1.0) -> float:
        """The rate between two addresses, given their share of the server's link at either end."""
        up = self.link(sender).up_mbps
        down = self.link(receiver).down_mbps
        up = up * share if sender == SERVER else up
        down = down * share if receiver == SERVER else down
        between = self._pair(sender, receiver).mbps
        return BYTES_PER_S * min(up, down, *(() if between is None else (between,)))

    def transfer_s(self, size: float, sender: str, receiver: str, share: float = 1.0) -> float:
        """Seconds from the departure of the first byte to the arrival of the last one; see `transfer_s` below."""
        rate = self.bytes_per_s(sender, receiver, share)
        rtt_s = self.rtt_s(sender, receiver)
        return transfer_s(size, rate, rtt_s, self.profile.initial_window_bytes)

    def exchange_s(self, down: Mapping[str, float], up: Mapping[str, float]) -> float:
        """Seconds of one simultaneous round trip of the server with several addresses, until the last reply.

        Transfers share the server's link in proportion to their sizes, so that they end together. This is no slower
        than equal shares, and as fast as the link and the slowest path allow.

        Args:
            down: bytes from the server, by address.
            up: bytes of the replies; an address without an entry has dropped out; waiting for it is not modelled.
        """
        down_bytes = sum(down.values())
        up_bytes = sum(up.values())
        times = [
            self.transfer_s(size, SERVER, address, size / down_bytes if size else 1.0)
            + (self.transfer_s(up[address], address, SERVER, up[address] / up_bytes if up[address] else 1.0))
            for address, size in down.items()
            if address in up
        ]
        return max(times, default=0.0)

    def _pair(self, a: str, b: str) -> MachinePair:
        if not self.profile.places:
            return MachinePair(self.profile.rtt_ms)
        one = self._place(a)
        other = self._place(b)
        return self.profile.within if one == other else self._pairs[frozenset((one, other))]

    def _place(self, address: str) -> str:
        kind, _, number = address.partition("/")
        places = self.profile.places
        return places[(PLACES[kind] if kind in PLACES else int(number)) % len(places)]

    @cached_property
    def _pairs(self) -> dict[frozenset[str], MachinePair]:
        return {frozenset(key.split("-")): pair for key, pair in self.profile.between.items()}


def transfer_s(size: float, bytes_per_s: float, rtt_s: float, window: float | None) -> float:
    """Seconds from the departure of the first byte to the arrival of the last one, over an idle TCP connection.

    The sender waits one round trip for acknowledgements per window. The window starts at `window` bytes and doubles
    (slow start: RFC 5681, section 3.1) until it covers the path or the remaining bytes. None means no slow start.
    """
    waited_s = 0.0
    while window is not None and window < min(size, bytes_per_s * rtt_s):
        waited_s = waited_s + rtt_s
        size = size - window
        window = 2 * window
    return rtt_s / 2 + waited_s + size / bytes_per_s


def names() -> list[str]:
    """The names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Network:
    """Load a profile by its name, or from a user's file by its path.

    Raises:
        ConfigError: there is no such profile, or its file holds an invalid key or value.
    """
    file = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if file.suffix != ".yaml" or not file.is_file():
        raise ConfigError.of("--network", name, f"allowed are {', '.join(names())}, or a file of the same format")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Profile), OmegaConf.load(file))
        profile = cast(Profile, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError.of("--network", name, f"{file.name}: {' '.join(str(error).split())}") from error
    return Network(file.stem, _checked(name, profile))


def _checked(name: str, profile: Profile) -> Profile:
    """Check a profile; raises ConfigError for rates that would divide by 0, and for a missing pair of places."""
    links = (profile.server, profile.client, profile.role)
    rates = [rate for link in links for rate in (link.up_mbps, link.down_mbps)]
    pairs = [profile.within, *profile.between.values()]
    rates += [pair.mbps for pair in pairs if pair.mbps is not None]
    if min(rates) <= 0 or min(pair.rtt_ms for pair in pairs) < 0 or profile.rtt_ms < 0:
        raise ConfigError.of("--network", name, "rates must be above 0, and round trips at least 0")
    if (window := profile.initial_window_bytes) is not None and window <= 0:
        raise ConfigError.of("--network", name, "initial_window_bytes must be above 0, or null")
    there = {frozenset(key.split("-")) for key in profile.between}
    missing = [f"{a}-{b}" for a in profile.places for b in profile.places if a < b and frozenset((a, b)) not in there]
    if missing:
        raise ConfigError.of("--network", name, f"between lacks {', '.join(missing)}")
    return profile
