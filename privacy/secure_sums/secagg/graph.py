"""Who masks with whom: a regular graph of as few neighbours as will do, which no server chooses.

Bell, Bonawitz, Gascon, Lepoint and Raykova 2020 ("Secure Single-Server Aggregation with (Poly)Logarithmic Overhead"):
clients stand in a random ring, each beside k/2 others on either side (a Harary graph), and k and the threshold t of
Shamir's sharing are such that, but with the probabilities that the configuration states, none of this happens:

    clients that collude and clients that drop out cut the ring in two, and the server learns the sum of a part
    a client has so many colluding neighbours that they reach t (curious), or would if the server told the honest ones
    two stories, so that some release one of its secrets and some the other: 2t > k + colluding (malicious)
    a client has fewer than t neighbours left, and its mask stays on

The first two count for security, the third for correctness. The counts are hypergeometric, and a union bound runs over
all clients; Google's open implementation (federated-compute, `graph_parameter_finder`) finds the same k and t. In a
cohort below `SMALL`, or where no k will do, everybody is everybody's neighbour and has a share of its own secrets, too,
and t is as large as the drop-outs to withstand allow (Bonawitz et al. 2017, section 6.2).

The ring is a permutation that a hash of the closed list of round keys names. A server that colludes with clients can
leave out keys or make new ones until a ring suits it: the bound holds for each that it tries.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from privacy.addresses import Address
from privacy.errors import ConfigError, TooFewContributors

MALICIOUS = "malicious"
CURIOUS = "curious"
SERVERS = (MALICIOUS, CURIOUS)
SMALL = 32  # clients; for fewer a sparse graph saves little, and rates of them round to nobody
MOST_BAD = 0.9  # of a cohort; beyond it nothing but everybody would do
_MARGIN = 1e-12  # so that 0.05 of 100 clients are five

KEY = "secure_sum"

Masses = NDArray[np.float64]


@dataclass(frozen=True)
class GraphPlan:
    """For a cohort of so many."""

    count: int
    degree: int  # k
    threshold: int  # t, of shares and of signatures
    least: int  # clients that must be left, or the graph may be cut

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.degree == self.count - 1

    @property
    def holders(self) -> int:
        """Of shares of a client's secrets: its neighbours, and in a complete graph itself."""
        return self.count if self.complete else self.degree


@dataclass(frozen=True)
class Bounds:
    """What a cohort is to withstand, as shares of it, and how surely, in bits.

    Raises:
        ConfigError: rates or bits that nothing can meet.
    """

    dropout_rate: float
    collusion_rate: float
    server: str
    security_bits: int
    correctness_bits: int

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.server not in SERVERS:
            raise ConfigError.of(f"{KEY}.server", self.server, f"allowed are {', '.join(SERVERS)}")
        for name in ("dropout_rate", "collusion_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError.of(f"{KEY}.{name}", getattr(self, name), "must be at least 0 and below 1")
        for name in ("security_bits", "correctness_bits"):
            if not 1 <= getattr(self, name) <= 128:
                raise ConfigError.of(f"{KEY}.{name}", getattr(self, name), "must be from 1 to 128")
        drops = 2 if self.server == MALICIOUS else 1
        if self.collusion_rate + drops * self.dropout_rate > MOST_BAD + _MARGIN:
            counted = "collusion_rate and twice dropout_rate" if drops == 2 else "collusion_rate and dropout_rate"
            allowed = f"{counted} must be at most {MOST_BAD} together (secure_sum.server={self.server})"
            raise ConfigError.of(f"{KEY}.dropout_rate", self.dropout_rate, allowed)

    def plan(self, count: int, cohort: int) -> GraphPlan:
        """The fewest neighbours that will do for so many of a cohort, and the threshold.

        Those who collude are a share of the cohort, however many of the others the server says are not there.

        Raises:
            TooFewContributors: so few that all but one may collude.
        """
        return _plan(self, count, self.colluding(max(count, cohort)))

    def coalition(self, plan: GraphPlan) -> int:
        """With so many of a client's neighbours the server gets both of its secrets.

        They have t shares of each, or, where it lies to the others, who give it one of the two each, with these t.
        """
        return plan.threshold if self.server == CURIOUS else max(2 * plan.threshold - plan.holders, 1)

    def assumption(self, plan: GraphPlan) -> str:
        """Who must not collude in a cohort like that."""
        if plan.count == 1:
            return "the server is trusted: a cohort of one client has nobody to hide among"
        honest = "the server follows the protocol: it" if self.server == CURIOUS else "the server"
        return f"{honest} does not collude with {self.coalition(plan)} of a client's {plan.degree} neighbours"

    def caveats(self, plan: GraphPlan) -> list[str]:
        """Whole sentences about what a cohort like that does not withstand."""
        told = f"It takes {plan.threshold} neighbours where the server follows the protocol."
        left = f"Of a cohort of {plan.count}, {plan.least} must be left, or the round is refused."
        chosen = (
            "A server that colludes with clients can try keys until a graph suits it: each one does with probability "
            f"2^-{self.security_bits} at most (secure_sum.collusion_rate={self.collusion_rate:g})."
        )
        lies = self.server == MALICIOUS and plan.count > 1
        return [*([told] if lies else []), left, *([] if plan.complete else [chosen])]

    def fewest(self, count: int, colluding: int) -> tuple[int, int] | None:
        """The least degree below that of a complete graph that will do, with its threshold."""
        for degree in range(2, count - 1, 2):
            threshold = self.threshold(count, degree, colluding)
            if threshold is not None:
                return degree, threshold
        return None

    def majority(self, count: int, colluding: int) -> int:
        """The threshold among all clients: as high as the drop-outs to withstand allow, and safe in any case."""
        dropping = math.ceil(self.dropout_rate * count - _MARGIN)
        safe = colluding + 1 if self.server == CURIOUS else (count + colluding) // 2 + 1
        return max(safe, count - dropping, min(2, count))

    def colluding(self, count: int) -> int:
        """How many clients collude, at most."""
        return math.floor((self.collusion_rate + _MARGIN) * count)

    def dropping(self, count: int) -> int:
        """How many clients drop out, at most."""
        return math.floor((self.dropout_rate + _MARGIN) * count)

    def threshold(self, count: int, degree: int, colluding: int) -> int | None:
        """The least t for so many neighbours, where there is one that is both safe and enough."""
        each = 2.0 ** -(self.security_bits + 1) / count  # half of it is for a cut
        if _cut(count, degree, colluding + self.dropping(count)) >= each * count:
            return None
        beyond = _tail(_hypergeometric(count, colluding, degree))  # P(at least i collude)
        most_bad = int(np.argmax(beyond[1:] <= each))
        least = most_bad if self.server == CURIOUS else math.ceil((most_bad + degree - 1) / 2)
        fewer = _tail(_hypergeometric(count, count - self.dropping(count), degree)[::-1])[::-1]  # P(under i are left)
        most = int(np.argmax(fewer >= 2.0**-self.correctness_bits / count)) - 1  # shares that there are
        threshold = max(least + 1, 2)
        return threshold if threshold <= min(most, degree) else None


@lru_cache(maxsize=256)
def _plan(bounds: Bounds, count: int, colluding: int) -> GraphPlan:
    if 0 < colluding > count - 2:
        raise TooFewContributors(f"{count} clients take part, and {colluding} of their cohort may collude")
    sparse = bounds.fewest(count, colluding) if count >= SMALL else None
    if sparse is not None:
        return GraphPlan(count, *sparse, count - bounds.dropping(count))
    threshold = bounds.majority(count, colluding)
    return GraphPlan(count, count - 1, threshold, threshold)


def _cut(count: int, degree: int, bad: int) -> float:
    """The probability that so many clients cut the ring, at most.

    They would have to be k/2 neighbours in a row at two places: n (n - k - 1) / 2 pairs of places, and for each the
    probability that these k are all among the bad.
    """
    if degree > bad:
        return 0.0
    bad = min(bad, count)
    pairs = math.log(count) + math.log(count - degree - 1) - math.log(2)
    return math.exp(min(0.0, pairs + float(_log_choose(bad, degree) - _log_choose(count, degree))))


def _hypergeometric(count: int, marked: int, drawn: int) -> Masses:
    """The probability of 0, 1, ... marked ones among so many drawn, shape (drawn + 1,)."""
    found = np.arange(drawn + 1)
    possible = (found <= marked) & (drawn - found <= count - marked)
    logs = np.full(drawn + 1, -np.inf)
    i = found[possible]
    logs[possible] = _log_choose(marked, i) + _log_choose(count - marked, drawn - i) - _log_choose(count, drawn)
    return np.asarray(np.exp(logs))


def _tail(masses: Masses) -> Masses:
    """Sums from each place to the end, and 0 behind it: small ones first."""
    return np.append(np.cumsum(masses[::-1])[::-1], 0.0)


def _log_choose(n: int, k: int | NDArray[np.int64]) -> Masses:
    return np.asarray(gammaln(n + 1) - gammaln(np.asarray(k) + 1) - gammaln(n - np.asarray(k) + 1))


class NeighbourRing:
    """The graph of a closed list of clients: `digest` names the list, with its keys."""

    def __init__(self, clients: Sequence[Address], digest: bytes, plan: GraphPlan) -> None:
        assert plan.count == len(clients)
        self.plan = plan
        self._order = sorted(clients, key=lambda client: hashlib.sha256(digest + client.encode()).digest())
        self._place = {client: place for place, client in enumerate(self._order)}

    def neighbours(self, client: Address) -> list[Address]:
        """With whom a client masks, by their distance around the ring."""
        if self.plan.complete:
            return [other for other in self._order if other != client]
        place = self._place[client]
        half = self.plan.degree // 2
        steps = (*range(-half, 0), *range(1, half + 1))
        return [self._order[(place + step) % self.plan.count] for step in steps]

    def holders(self, client: Address) -> list[Address]:
        """Who has a share of a client's secrets, in the order of the shares."""
        return list(self._order) if self.plan.complete else self.neighbours(client)
