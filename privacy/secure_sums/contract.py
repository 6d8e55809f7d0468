"""The secure sum: the server learns the sum of the survivors' contributions, and nothing else.

A protocol does no I/O. `server` is a generator: it yields one `Exchange` per round trip, and receives the list of
respondents. `respond` is the half of every other role. Shapes: D is the length of the vector of a `VectorSpec`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

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
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.traits import Carries, Needs, Parties, Withstands
from privacy.secure_sums.trust import EVERYTHING, UNSAID, Trust
from privacy.secure_sums.vectors import Total, Vector, VectorSpec

T = TypeVar("T", bound=np.generic)
W = TypeVar("W")
Value = NDArray[np.generic] | bytes | int | float | str
Records = Mapping[str, Value]
Contribution = Callable[[], Vector]  # the call trains the model
Pay = Callable[[Collection[Address]], None]  # charges these clients in the ledger of the caller's own; it may refuse


@dataclass
class Exchange:
    """One round trip: the driver sends `outbox` and passes each reply to `receive` as it arrives.

    `collect` marks the stage that asks clients for their contribution: the driver attaches the global model, and sets
    `given` to its digest. If the protocol sets `timeout_s`, the driver stops waiting after so many seconds.
    """

    stage: str
    outbox: Mapping[Address, Records]
    receive: Callable[[Address, Records], None]
    collect: bool = False
    timeout_s: float | None = None
    names: Collection[str] | None = None  # record names that an answer may hold; None: any
    given: bytes = b""  # digest of what the driver gives for training at the stage that collects
    _answered: set[Address] = field(default_factory=set, init=False, repr=False)

    def deliver(self, address: Address, records: Records) -> None:
        """Pass one reply to the protocol.

        Raises:
            ProtocolError: the sender is unknown or has answered before, or the protocol refuses the records.
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
        """The addresses that have answered validly, in the order of the outbox."""
        return [address for address in self.outbox if address in self._answered]


class Store(ABC):
    """The durable private store of a role, which outlives a round."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """The value that was put under a name; None if there is none."""

    @abstractmethod
    def put(self, name: str, value: bytes) -> None:
        """Store a value; it is on disk when this returns."""

    @abstractmethod
    def claim(self, name: str) -> bool:
        """True where this name is claimed for the first time ever; the claim is on disk when this returns."""


@dataclass
class Credentials:
    """A role's credentials from set-up: its private keys, all public keys, its store, and the connection to peers."""

    identity: Identity
    roster: Roster
    store: Store
    peers: Peers | None = None  # set where the parties have a `meeting`


Flow = Generator[Exchange, list[Address], Total]
SetupFlow = Generator[Exchange, list[Address], None]


@dataclass(kw_only=True)
class Participant:
    """A role that answers in one attempt at one round. `memory` is flat, serialisable and lasts one round."""

    address: Address
    run: str  # hash of the configuration
    round: int
    attempt: str  # fresh for each try, so that no key, mask or nonce is ever derived twice
    spec: VectorSpec
    memory: MutableMapping[str, Value]
    randomness: Randomness
    credentials: Credentials | None = None  # set where the protocol needs a roster
    noise: Randomness | None = None  # source of the noise that this role adds to a sum; None: `randomness`
    device: str = "cpu"  # torch device to compute on
    given: bytes = b""  # digest of what this client was given for training; empty at stages that do not collect
    inside: dict[str, bytes] = field(default_factory=dict, repr=False)  # plaintexts of its boxes, by record name
    pay: Pay = field(default=lambda _: None, repr=False)  # a party calls it before it adds noise to a sum
    ahead: "Ahead | None" = None  # does work before the contribution is there; None: nothing does

    @property
    def own(self) -> Credentials:
        """The credentials of this role.

        Raises:
            PrivacyRefusal: there are no credentials.
        """
        if self.credentials is None:
            raise PrivacyRefusal(f"{self.address} has no keys: the roster was not set up")
        return self.credentials

    def header(self, purpose: str, sender: Address, receiver: Address, given: bytes = b"") -> Header:
        """The header that binds a signature, box or key to this attempt and, with `given`, to one model."""
        return Header(purpose, self.run, self.round, self.attempt, "", sender, receiver, given)


class Ahead(Protocol):
    """Work that depends on no contribution, done before it is asked for."""

    def take(self, work: Callable[..., W], *arguments: Any) -> W:
        """Return `work(*arguments)`, which may have been computed before this call. Each result is returned once."""


class SecureSum(ABC):
    """One protocol for a secure sum. A subclass sets `name` and `assumption`, and the traits that differ from these."""

    name: str
    assumption: str  # the roles that are trusted, in a sentence without capital and full stop
    hides: bool = False  # True: the server learns nothing but the sum, and `declare` tells the witness why
    needs: Needs = Needs()  # before the first round: a roster, a survey
    carries: Carries = Carries()  # vectors: residues or floats, their bound, their weights; and the result
    parties: Parties = Parties()  # roles beside clients and server, their connection, their noise
    withstands: Withstands = Withstands()  # a server that breaks the protocol, where the sum hides anything
    prepares: bool = False  # it gives work to `Participant.ahead`
    stages: tuple[str, ...] = ()  # the stages of a round at which clients are asked; empty: not listed

    @property
    def label(self) -> str:
        """The label for tables."""
        return self.name

    def assumed(self, cohort_size: int) -> str:  # noqa: ARG002
        """The assumption in cohorts of this size: by default it does not depend on that."""
        return self.assumption

    def trust(self, spec: VectorSpec) -> Trust:  # noqa: ARG002
        """The trust assumptions and the sentences of the threat card. By default the protocol protects nothing.

        A protocol that `hides` and does not override this says so on the card.
        """
        return UNSAID if self.hides else EVERYTHING

    def tolerance(self, spec: VectorSpec) -> float:  # noqa: ARG002
        """The largest absolute error of the sum, per contribution.

        Raises:
            ConfigError: the protocol cannot carry such a vector.
        """
        return 0.0

    def setup(self, roles: Sequence[Address], spec: VectorSpec) -> SetupFlow:  # noqa: ARG002
        """Distribute keys, once per run. Empty unless a protocol needs it."""
        yield from ()

    @abstractmethod
    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Run the server's half of one round.

        Raises:
            TooFewContributors: the cohort, or the rest of it after drop-outs, is below `spec.min_contributors`.
        """

    @abstractmethod
    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of `me` at `stage`: the half of every role but the server.

        Raises:
            ProtocolError: the stage is unknown, or the protocol does not allow the records.
        """

    # ---- for the witness, at a client that has just answered with its contribution

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:  # noqa: ARG002
        """The distribution of each record while protection is on.

        Raises:
            ProtocolError: this protocol does not send such a record.
            PrivacyRefusal: the protocol hides contributions but does not declare their distribution.
        """
        if self.hides:
            raise PrivacyRefusal(f"secure_sum={self.name} does not declare its records: the witness cannot check them")
        return dict.fromkeys(records, Open())

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:  # noqa: ARG002
        """The encodings of the vector before it is protected."""
        return ()

    def rehearse(
        self,
        stage: str,  # noqa: ARG002
        inbound: Records,  # noqa: ARG002
        me: Participant,  # noqa: ARG002
        vector_D: Vector,  # noqa: ARG002
        sent: Records,  # noqa: ARG002
    ) -> Rehearsal | None:
        """Protect a vector once more, as in the records that are `sent`, and open it again.

        `me` is a double of the client; its memory and store are discarded.
        """
        return None


def require_contributors(contributors: Sequence[Address], spec: VectorSpec) -> None:
    """Refuse a sum over fewer than `min_contributors`, or over none.

    Raises:
        TooFewContributors: there are fewer.
    """
    if len(contributors) < spec.least:
        raise TooFewContributors(
            f"{len(contributors)} contributors are left of {spec.cohort_size}, {spec.least} are needed"
        )


def bytes_of(records: Records, name: str) -> bytes:
    """The byte string with this name among the records of a message.

    Raises:
        MalformedContribution: the record is missing, or is not a byte string.
    """
    value = records.get(name)
    if not isinstance(value, bytes):
        raise MalformedContribution(f"{name} must be bytes, got {type(value).__name__}")
    return value


def array_of(records: Records, name: str, dtype: type[T], length: int) -> NDArray[T]:
    """The array with this name among the records of a message, of this type and of shape (length,).

    Raises:
        MalformedContribution: the record is missing, is not an array, or has another type or shape.
    """
    value = records.get(name)
    if not isinstance(value, np.ndarray):
        raise MalformedContribution(f"{name} must be an array, got {type(value).__name__}")
    if value.dtype != dtype or value.shape != (length,):
        wanted = f"{np.dtype(dtype)} of shape ({length},)"
        raise MalformedContribution(f"{name} must be {wanted}, got {value.dtype} of shape {value.shape}")
    return cast("NDArray[T]", value)


def unknown_stage(stage: str) -> ProtocolError:
    """The error for a stage that a protocol does not have."""
    return ProtocolError(f"no stage is called {shown(stage)}")
