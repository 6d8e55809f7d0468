"""The graph of clients that mask with one another: regular, with as few neighbours as are safe, not chosen by a server.

Bell, Bonawitz, Gascon, Lepoint and Raykova 2020 ("Secure Single-Server Aggregation with (Poly)Logarithmic Overhead"):
clients are placed in a random ring, and the k/2 clients on either side of a client are its neighbours (a Harary graph).
The degree k and the threshold t of Shamir's sharing are chosen so that each of these failures has at most the
probability in the configuration:

    colluding clients and dropped clients cut the ring in two, so the server learns the sum of a part
    the colluding neighbours of a client reach t (curious); or they reach it when the server sends different lists to
    the honest neighbours, so that some release one of its secrets and some the other: 2t > k + colluding (malicious)
    fewer than t neighbours of a client are left, so its mask cannot be removed

The first two count for security, the third for correctness. The counts are hypergeometric, and a union bound runs over
all clients; Google's open implementation (federated-compute, `graph_parameter_finder`) finds the same k and t. In a
cohort below `SMALL`, or where no k is safe, the graph is complete, and a client also holds a share of its own secrets.
Then t is as large as the tolerated drop-outs allow (Bonawitz et al. 2017, section 6.2).

A server closes the list of the clients that take part, and could close it over few: it says that the others did not
advertise. So k, t and the number of clients that must be left are those of the whole cohort, whose size clients know
from their configuration. A list that is too short for them is refused. On a shorter list k and t are the whole
cohort's or more, since as many colluding clients may be among fewer: the coalition that reads an update never gets
smaller. Fewer clients can still drop out after such a list, since whoever is not on it has dropped out already.

The ring is a permutation that is derived from a hash of the closed list of round keys. A server that colludes with
clients can leave out keys or make new ones until a ring suits it: the bound holds for each ring that it tries.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.addresses import Address
from privacy.errors import ConfigError, TooFewContributors

MALICIOUS = "malicious"
CURIOUS = "curious"
SERVERS = (MALICIOUS, CURIOUS)
SMALL = 32  # number of clients; for fewer a sparse graph saves little, and small rates round to no client
MOST_BAD = 0.9  # share of a cohort; above it only the complete graph would be safe
_MARGIN = 1e-12  # rounding margin, so that 0.05 of 100 clients are five

KEY = "secure_sum"

Masses = NDArray[np.float64]


@dataclass(frozen=True)
class GraphPlan:
    """The parameters of the graph for a cohort of `count` clients."""

    count: int
    degree: int  # k
    threshold: int  # t: number of shares, and of signatures
    least: int  # least number of clients of the cohort that must be left, or the graph may be cut

    @property
    def complete(self) -> bool:
        """True where all clients are neighbours of one another."""
        return self.degree == self.count - 1

    @property
    def holders(self) -> int:
        """The number of holders of shares of a client's secrets: its neighbours, and in a complete graph itself."""
        return self.count if self.complete else self.degree


@dataclass(frozen=True)
class Bounds:
    """The drop-outs and collusion that a cohort must withstand, as shares of it, and the failure bounds in bits.

    Raises:
        ConfigError: the rates or bits are out of range.
    """

    dropout_rate: float
    collusion_rate: float
    server: str
    security_bits: int
    correctness_bits: int

    def __post_init__(self) -> None:
        """Refuse invalid values."""
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
        """Neighbours and threshold for a list of `count` clients of a cohort.

        The number of colluding clients is a share of the whole cohort, even if the server reports that others dropped.

        Raises:
            TooFewContributors: more clients of the cohort are missing than may drop out, or all but one may collude.
        """
        whole = _whole(self, cohort)
        if count < whole.least:
            raise TooFewContributors(f"{count} contributors are left of {cohort}, {whole.least} are needed")
        return whole if count == cohort else _shorter(self, count, whole)

    def lengths(self, cohort: int, minimum: int) -> range:
        """The lengths of the lists that clients accept, where a sum takes at least `minimum` contributors."""
        return range(min(max(minimum, _whole(self, cohort).least), cohort), cohort + 1)

    def reading(self, plan: GraphPlan, minimum: int = 1) -> int:
        """The least number of colluding neighbours of a client with which the server reads its update on one list.

        Together they have t shares of both of its secrets. A curious server takes them from the colluding neighbours. A
        malicious server also gets one share from each honest neighbour, of either secret: it says to some of them that
        the client survived, and to others that it did not, for which its list must have one client to spare. Or the
        colluding clients are all other contributors to a sum, at least `minimum` of them.
        """
        least = max(minimum, plan.least)
        lies = self.server == MALICIOUS and plan.count > least
        both = 2 * plan.threshold - plan.holders if lies else plan.threshold
        return min(both, least - 1, plan.degree)

    def coalition(self, cohort: int, minimum: int = 1) -> int:
        """The least of `reading` over all lists of a cohort that clients accept."""
        return min(self.reading(self.plan(count, cohort), minimum) for count in self.lengths(cohort, minimum))

    def fewest(self, count: int, colluding: int) -> tuple[int, int] | None:
        """The least safe degree below that of a complete graph, with its threshold; None where there is none."""
        return self._sparse(count, 2, Risks(colluding, self.dropping(count)))

    def shorter(self, count: int, whole: GraphPlan) -> GraphPlan:
        """The plan for a list of fewer clients than the whole cohort, whose plan is `whole`."""
        if whole.complete:
            return replace(whole, count=count, degree=count - 1)
        risks = Risks(self.colluding(whole.count), count - whole.least)
        sparse = self._sparse(count, whole.degree, risks)
        if sparse is not None:
            return GraphPlan(count, *sparse, whole.least)
        return GraphPlan(count, count - 1, self.majority(count, risks), whole.least)

    def _sparse(self, count: int, fewest: int, risks: "Risks") -> tuple[int, int] | None:
        for degree in range(fewest, count - 1, 2):
            threshold = self.threshold(count, degree, risks)
            if threshold is not None:
                return degree, threshold
        return None

    def majority(self, count: int, risks: "Risks") -> int:
        """The threshold in a complete graph: as high as tolerated drop-outs allow, and at least the secure value."""
        colluding = risks.colluding
        safe = colluding + 2 if self.server == CURIOUS else (count + colluding) // 2 + 1
        return min(max(safe, count - risks.dropping), count)

    def colluding(self, count: int) -> int:
        """The largest number of clients that collude."""
        return math.floor((self.collusion_rate + _MARGIN) * count)

    def dropping(self, count: int) -> int:
        """The largest number of clients that drop out."""
        return math.floor((self.dropout_rate + _MARGIN) * count)

    def threshold(self, count: int, degree: int, risks: "Risks") -> int | None:
        """The least t for this degree that is secure and meets the correctness bound; None where there is none."""
        each = 2.0 ** -(self.security_bits + 1) / count  # the other half of the bound is for a cut
        if _cut(count, degree, risks.colluding + risks.dropping) >= each * count:
            return None
        beyond = _tail(_hypergeometric(count, risks.colluding, degree))  # P(at least i collude)
        most_bad = int(np.argmax(beyond[1:] <= each))
        least = most_bad if self.server == CURIOUS else math.ceil((most_bad + degree - 1) / 2)
        fewer = _tail(_hypergeometric(count, count - risks.dropping, degree)[::-1])[::-1]  # P(under i are left)
        most = int(np.argmax(fewer >= 2.0**-self.correctness_bits / count)) - 1  # number of shares that are left
        threshold = max(least + 1, 2)
        return threshold if threshold <= min(most, degree) else None


@dataclass(frozen=True)
class Risks:
    """The largest numbers of clients on a list that collude, and that drop out."""

    colluding: int
    dropping: int


@lru_cache(maxsize=256)
def _whole(bounds: Bounds, cohort: int) -> GraphPlan:
    colluding = bounds.colluding(cohort)
    if 0 < colluding > cohort - 2:
        raise TooFewContributors(f"{cohort} clients take part, and {colluding} of their cohort may collude")
    sparse = bounds.fewest(cohort, colluding) if cohort >= SMALL else None
    if sparse is not None:
        return GraphPlan(cohort, *sparse, cohort - bounds.dropping(cohort))
    dropping = math.ceil(bounds.dropout_rate * cohort - _MARGIN)
    threshold = bounds.majority(cohort, Risks(colluding, dropping))
    return GraphPlan(cohort, cohort - 1, threshold, threshold)


@lru_cache(maxsize=1024)
def _shorter(bounds: Bounds, count: int, whole: GraphPlan) -> GraphPlan:
    return bounds.shorter(count, whole)


def _cut(count: int, degree: int, bad: int) -> float:
    """An upper bound on the probability that `bad` clients cut the ring.

    A cut needs k/2 bad clients in a row at two places. The bound counts n (n - k - 1) / 2 pairs of places, each with
    the probability that these k clients are all bad.
    """
    if degree > bad:
        return 0.0
    bad = min(bad, count)
    pairs = math.log(count) + math.log(count - degree - 1) - math.log(2)
    return math.exp(min(0.0, pairs + float(_log_choose(bad, degree) - _log_choose(count, degree))))


def _hypergeometric(count: int, marked: int, drawn: int) -> Masses:
    """The probabilities of 0, 1, ... marked clients among `drawn` of `count` clients, shape (drawn + 1,)."""
    found = np.arange(drawn + 1)
    possible = (found <= marked) & (drawn - found <= count - marked)
    logs = np.full(drawn + 1, -np.inf)
    i = found[possible]
    logs[possible] = _log_choose(marked, i) + _log_choose(count - marked, drawn - i) - _log_choose(count, drawn)
    return np.asarray(np.exp(logs))


def _tail(masses: Masses) -> Masses:
    """The sums from each place to the end, then a 0. Small terms are added first."""
    return np.append(np.cumsum(masses[::-1])[::-1], 0.0)


def _log_choose(n: int, k: int | NDArray[np.int64]) -> Masses:
    from scipy.special import gammaln  # small cohorts do not need it

    return np.asarray(gammaln(n + 1) - gammaln(np.asarray(k) + 1) - gammaln(n - np.asarray(k) + 1))


class NeighbourRing:
    """The graph of a closed list of clients. `digest` is the hash of the list with its keys."""

    def __init__(self, clients: Sequence[Address], digest: bytes, plan: GraphPlan) -> None:
        assert plan.count == len(clients)
        self.plan = plan
        self._order = sorted(clients, key=lambda client: hashlib.sha256(digest + client.encode()).digest())
        self._place = {client: place for place, client in enumerate(self._order)}

    def neighbours(self, client: Address) -> list[Address]:
        """The clients with which a client masks, in the order of their distance around the ring."""
        if self.plan.complete:
            return [other for other in self._order if other != client]
        place = self._place[client]
        half = self.plan.degree // 2
        steps = (*range(-half, 0), *range(1, half + 1))
        return [self._order[(place + step) % self.plan.count] for step in steps]

    def holders(self, client: Address) -> list[Address]:
        """The clients that hold a share of a client's secrets, in the order of the shares."""
        return list(self._order) if self.plan.complete else self.neighbours(client)
