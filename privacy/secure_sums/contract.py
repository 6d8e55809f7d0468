"""The secure sum: the server learns the sum of the survivors' contributions, and nothing else.

A protocol does no I/O. `server` is a generator that yields one `Exchange` a round trip and is sent the list of
respondents; `respond` is everybody else's half. Shapes: D is the length of the vector that `VectorSpec` declares.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.addresses import Address
from privacy.errors import (
    DuplicateSender,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    UnknownSender,
    shown,
)
from privacy.randomness import Randomness
from privacy.sealing import Header, Identity, Roster
from privacy.secure_sums.declarations import Declarations, Encoding, Open, Rehearsal
from privacy.secure_sums.meeting import Meeting, Peers
from privacy.secure_sums.trust import EVERYTHING, Trust
from privacy.secure_sums.vectors import Total, Vector, VectorSpec

if TYPE_CHECKING:
    from privacy.noise.parties import PartyNoise

Value = NDArray[np.generic] | bytes | int | float | str
Records = Mapping[str, Value]
Contribution = Callable[[], Vector]  # trains when called, and only then


@dataclass
class Exchange:
    """One round trip: send `outbox`, hand each reply to `receive` as it arrives.

    `collect` marks the stage that asks clients for their contribution: the driver attaches the global model. Who has
    not answered after `timeout_s` seconds, where the protocol gives them, is not waited for any longer.
    """

    stage: str
    outbox: Mapping[Address, Records]
    receive: Callable[[Address, Records], None]
    collect: bool = False
    timeout_s: float | None = None
    names: Collection[str] | None = None  # of the records that an answer may hold, where the protocol says so
    _answered: set[Address] = field(default_factory=set, init=False, repr=False)

    def deliver(self, address: Address, records: Records) -> None:
        """Hand one reply to the protocol.

        Raises:
            ProtocolError: an unknown or repeated sender, or whatever the protocol finds wrong with the records.
        """
        if address not in self.outbox:
            raise UnknownSender(f"{address} was not asked at stage {self.stage}")
        if address in self._answered:
            raise DuplicateSender(f"{address} has already answered stage {self.stage}")
        more = () if self.names is None else sorted(records.keys() - set(self.names))
        if more:
            raise MalformedContribution(f"stage {self.stage} has no record {shown(more[0])}")
        self.receive(address, records)
        self._answered.add(address)

    def respondents(self) -> list[Address]:
        """Who has answered validly, in the order of the outbox."""
        return [address for address in self.outbox if address in self._answered]


class Store(ABC):
    """What a role keeps longer than a round, durably and to itself."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """What was put under a name; None if nothing was."""

    @abstractmethod
    def put(self, name: str, value: bytes) -> None:
        """Keep a value; it is on disk when this returns."""

    @abstractmethod
    def claim(self, name: str) -> bool:
        """Whether this name is claimed for the first time ever; the claim is on disk when this returns."""


@dataclass
class Credentials:
    """What a role has from set-up: its own private keys, everybody's public ones, a store, and ways to its peers."""

    identity: Identity
    roster: Roster
    store: Store
    peers: Peers | None = None  # where the protocol's `meeting` says so


Flow = Generator[Exchange, list[Address], Total]
SetupFlow = Generator[Exchange, list[Address], None]


@dataclass
class Participant:
    """Who answers: one role in one attempt at one round. `memory` is flat, serialisable and lasts one round."""

    address: Address
    run: str  # hash of the configuration
    round: int
    attempt: str  # fresh for each try, so that no key, mask or nonce is ever derived twice
    spec: VectorSpec
    memory: MutableMapping[str, Value]
    randomness: Randomness
    credentials: Credentials | None = None  # where the protocol's `pinned` says so
    noise: Randomness | None = None  # of what this role adds to a sum; None: `randomness`
    device: str = "cpu"  # to compute on
    inside: dict[str, bytes] = field(default_factory=dict, repr=False)  # what it sealed, by record, for the witness

    @property
    def own(self) -> Credentials:
        """The credentials.

        Raises:
            PrivacyRefusal: there are none.
        """
        if self.credentials is None:
            raise PrivacyRefusal(f"{self.address} has no keys: the roster was not set up")
        return self.credentials

    def header(self, purpose: str, sender: Address, receiver: Address) -> Header:
        """What binds a signature, box or key to this attempt."""
        return Header(purpose, self.run, self.round, self.attempt, "", sender, receiver)


class SecureSum(ABC):
    """One protocol.

    `exact` says that it can sum residues modulo a power of two; `hides`, that the server learns nothing but the sum;
    `pinned`, that it needs a roster; `surveys`, that clients contribute the sensitivities of their data at set-up;
    `stages` are those of a round at which clients are asked, where it says so; `roles` are the parties beside clients
    and server, `meeting` how they reach one another, where they must; `noise` what they add to the sum, where they do;
    `additive`, that what is opened is the sum, `uniform`, that it needs equal weights; `bound` the largest value of an
    update, where its range is limited; `caveats` are whole sentences about what it does not protect.
    """

    name: str
    assumption: str
    exact: bool = False
    hides: bool = False
    pinned: bool = False
    surveys: bool = False
    stages: tuple[str, ...] = ()
    roles: tuple[Address, ...] = ()
    meeting: Meeting | None = None
    bound: float = math.inf
    additive: bool = True
    uniform: bool = False
    caveats: tuple[str, ...] = ()
    noise: "PartyNoise | None" = None

    @property
    def label(self) -> str:
        """For tables."""
        return self.name

    def trust(self, spec: VectorSpec) -> Trust:  # noqa: ARG002
        """Who holds and sees what. One that does not say is taken to protect nothing."""
        return EVERYTHING

    def tolerance(self, spec: VectorSpec) -> float:  # noqa: ARG002
        """How far it may be off for each contribution, in absolute terms.

        Raises:
            ConfigError: it cannot carry such a vector.
        """
        return 0.0

    def setup(self, roles: Sequence[Address], spec: VectorSpec) -> SetupFlow:  # noqa: ARG002
        """Once a run: key distribution. Empty unless a protocol needs it."""
        yield from ()

    @abstractmethod
    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """The server's half of one round.

        Raises:
            TooFewContributors: when the cohort, or what is left of it, is below `spec.min_contributors`.
        """

    @abstractmethod
    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """Everyone else's half: the answer of `me` at `stage`.

        Raises:
            ProtocolError: an unknown stage, or records that the protocol does not allow.
        """

    # ---- for the witness, at a client that has just answered with its contribution

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:  # noqa: ARG002
        """How each record is distributed where protection is on.

        Raises:
            ProtocolError: a record is not what this protocol sends.
            PrivacyRefusal: the protocol hides something and does not say how.
        """
        if self.hides:
            raise PrivacyRefusal(f"secure_sum={self.name} declares nothing of what it sends: the witness cannot check")
        return dict.fromkeys(records, Open())

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:  # noqa: ARG002
        """The vector as it is written before it is protected."""
        return ()

    def rehearse(
        self,
        stage: str,  # noqa: ARG002
        inbound: Records,  # noqa: ARG002
        me: Participant,  # noqa: ARG002
        vector_D: Vector,  # noqa: ARG002
        sent: Records,  # noqa: ARG002
    ) -> Rehearsal | None:
        """Protect a vector once more, as in what is `sent`, and open it again.

        `me` is a double, whose memory and store nobody sees.
        """
        return None


def require_contributors(contributors: Sequence[Address], spec: VectorSpec) -> None:
    """Refuse a sum over fewer than `min_contributors` (and over nobody)."""
    needed = max(1, spec.min_contributors)
    if len(contributors) < needed:
        raise TooFewContributors(
            f"{len(contributors)} contributors are left of {spec.cohort_size}, {needed} are needed"
        )


def bytes_of(records: Records, name: str) -> bytes:
    """A byte string among the records of a message.

    Raises:
        MalformedContribution: it is missing, or something else.
    """
    value = records.get(name)
    if not isinstance(value, bytes):
        raise MalformedContribution(f"{name} must be bytes, got {type(value).__name__}")
    return value


def unknown_stage(stage: str) -> ProtocolError:
    """The error for a stage that a protocol does not have."""
    return ProtocolError(f"no stage is called {shown(stage)}")
