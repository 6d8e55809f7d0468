"""Agreement of the MPC parties on the set of contributions that count, without trust in the server.

A client signs a manifest: a fresh number, and the hash of the box of every party. The signature is bound to the digest
of the model that the client was given, and the parties leave out a client that was given another one. The hashes are
taken over the sealed boxes, not over the shares: an adversary with all shares but one could test guesses of a vector
against the hash of the last share.

Each party checks the manifests that it received against its own boxes, and sends its peers a signed list of the hashes
of these manifests. The set consists of the contributions on every list. Each party signs the set, checks that all
others signed the same one, and stores it before it reveals anything. If one party did not receive a contribution, all
parties leave it out. If a contribution was altered, or two parties hold different manifests of one client, the round
ends: a server that tries either learns nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from privacy.addresses import Address
from privacy.errors import (
    BadSignature,
    FedveilError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    shown,
)
from privacy.randomness import KEY_BYTES
from privacy.sealing import open_box
from privacy.secure_sums.contract import Credentials, Participant, Records, bytes_of, require_contributors
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.one_set_a_round import note_set, require_no_other_set

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
EVERYBODY = "parties"


def number_of(client: Address) -> int:
    """The number of a client: 3 for `client/3`.

    Raises:
        ProtocolError: the address is not that of a client.
    """
    role, _, number = client.partition("/")
    if role != "client" or not (number.isascii() and number.isdecimal()):
        raise ProtocolError(f"{client} contributes nothing")
    return int(number)


@dataclass(frozen=True)
class Manifest:
    """The submission of one client in one attempt. `submission` is a fresh number for each submission."""

    submission: bytes  # KEY_BYTES long
    digests: tuple[bytes, ...]  # hashes of the parties' boxes, in the order of the parties

    @classmethod
    def of(cls, submission: bytes, boxes: Sequence[bytes]) -> "Manifest":
        """The manifest of boxes in the parties' order."""
        return cls(submission, tuple(hashlib.sha256(box).digest() for box in boxes))

    def signed(self, me: Participant) -> bytes:
        """The signed manifest, as bytes for the message."""
        body = self.submission + b"".join(self.digests)
        return body + me.own.identity.sign(me.header("mpc manifest", me.address, EVERYBODY, me.given), body)


def manifest_bytes(parties: int) -> int:
    """The length of a signed manifest."""
    return KEY_BYTES + DIGEST_BYTES * parties + SIGNATURE_BYTES


def check_box(manifest: bytes, index: int, box: bytes) -> None:
    """Check that a box is the one that a manifest names for the party with this index.

    Raises:
        BadSignature: the box is another one.
    """
    start = KEY_BYTES + DIGEST_BYTES * index
    if hashlib.sha256(box).digest() != manifest[start : start + DIGEST_BYTES]:
        raise BadSignature("a box is not the one that its manifest names")


def check_manifest(manifest: bytes, client: Address, parties: int, me: Participant) -> None:
    """Check that a client signed this manifest in this attempt, over the model that `me` knows to be given.

    Raises:
        BadSignature: the client did not sign it.
        ProtocolError: the address is not that of a client, or it is not on the roster.
    """
    number_of(client)
    if len(manifest) != manifest_bytes(parties):
        raise MalformedContribution(f"a manifest has {manifest_bytes(parties)} bytes, got {len(manifest)}")
    body = manifest[:-SIGNATURE_BYTES]
    signature = manifest[-SIGNATURE_BYTES:]
    me.own.roster.verify(me.header("mpc manifest", client, EVERYBODY, me.given), body, signature)


@dataclass
class Taken:
    """The valid manifests and shares that a party received, and the reason that the first invalid one was left out.

    `check_share` raises a ProtocolError where the bytes of a client's share cannot be a share.
    """

    parties: Sequence[Address]
    check_share: Callable[[Address, bytes, Participant], None] = field(repr=False)
    manifests: dict[Address, bytes] = field(default_factory=dict)
    shares: dict[Address, bytes] = field(default_factory=dict, repr=False)
    told: str = ""

    def take(self, inbound: Records, me: Participant) -> None:
        """Verify and open the contributions that the server relayed. Leave out a client whose own data are invalid.

        Raises:
            PrivacyRefusal: this party has answered this attempt before.
            ProtocolError: a contribution was altered on its way; the message names the client.
        """
        if not me.own.store.claim(f"revealed-{me.run}-{me.round}-{me.attempt}"):
            raise PrivacyRefusal(f"round {me.round} was revealed before, in this attempt")
        contributors = str(inbound.get("contributors")).split(",")
        manifests = bytes_of(inbound, "manifests")
        size = manifest_bytes(len(self.parties))
        if len(set(contributors)) < len(contributors) or len(manifests) != size * len(contributors):
            raise ProtocolError("contributors and their manifests do not match")
        for place, client in enumerate(contributors):
            self._take_one(client, manifests[size * place : size * (place + 1)], inbound, me)

    def _take_one(self, client: Address, manifest: bytes, inbound: Records, me: Participant) -> None:
        with self._or_left_out(client):
            check_manifest(manifest, client, len(self.parties), me)
            self.manifests[client] = manifest
        if client not in self.manifests:
            return
        box = self._unaltered(client, manifest, inbound, me)
        with self._or_left_out(client):
            share = open_box(me.own.identity, me.own.roster, me.header("mpc share", client, me.address), box)
            self.check_share(client, share, me)
            self.shares[client] = share
        if client not in self.shares:
            del self.manifests[client]

    @contextmanager
    def _or_left_out(self, client: Address) -> Iterator[None]:
        try:
            yield
        except ProtocolError as error:
            self.told = self.told or f"{shown(client)}: {error}"

    def _unaltered(self, client: Address, manifest: bytes, inbound: Records, me: Participant) -> bytes:
        """The box that a client's manifest names."""
        try:
            box = bytes_of(inbound, client)
            check_box(manifest, self.parties.index(me.address), box)
        except ProtocolError as error:
            raise type(error)(f"the contribution of {client} was altered on its way: {error}") from error
        return box


def agree(
    held: Mapping[Address, bytes], complaint: FedveilError | None, me: Participant, parties: Sequence[Address]
) -> tuple[Address, ...]:
    """The clients whose contributions count, sorted, after all parties have signed the same set.

    `held` maps clients to the manifests of the contributions that this party has verified. A `complaint` is sent to
    all parties.

    Raises:
        PrivacyRefusal: a party complains, two parties hold different manifests of a client, the parties do not agree,
            or the round was opened for other clients in an earlier attempt.
        TooFewContributors: too few clients are on every list.
        PeerLost: a party does not answer.
    """
    hashes = {client: hashlib.sha256(manifest).hexdigest() for client, manifest in held.items()}
    listed = {"held": hashes, "complaint": "" if complaint is None else str(complaint)}
    lists = _exchange("list", json.dumps(listed, sort_keys=True).encode(), me, parties)
    if complaint is not None:
        raise complaint
    heard = {party: _read_list(party, text) for party, text in lists.items()}
    contributors = _common(heard)
    require_contributors(contributors, me.spec)
    if len(contributors) > me.spec.cohort_size:  # their sum could wrap
        raise PrivacyRefusal(f"{len(contributors)} contributors are more than a cohort of {me.spec.cohort_size}")
    agreed = json.dumps({client: hashes[client] for client in contributors}).encode()
    refusal = _other_set(contributors, me)
    own = hashlib.sha256(agreed).digest() if refusal is None else b""  # sent in any case: the others wait for it
    signatures = _exchange("set", own, me, parties)
    if refusal is not None:
        raise refusal
    for party, digest in signatures.items():
        if digest != hashlib.sha256(agreed).digest():
            raise PrivacyRefusal(f"{party} agreed to another set of contributions")
    me.own.store.put(f"set-{me.run}-{me.round}-{me.attempt}", agreed)
    note_set(contributors, me, me.own)
    return contributors


def _other_set(contributors: Sequence[Address], me: Participant) -> PrivacyRefusal | None:
    """The reason that this party does not open the round for these clients; None where it does. Covers all attempts."""
    try:
        require_no_other_set(contributors, me, me.own)
    except PrivacyRefusal as refusal:
        return refusal
    return None


def _exchange(what: str, body: bytes, me: Participant, parties: Sequence[Address]) -> dict[Address, bytes]:
    """The statement of each party, verified: each party signs its own in this attempt."""
    own = me.own
    message = body + own.identity.sign(me.header(f"mpc {what}", me.address, EVERYBODY), body)
    answers = dict(zip(parties, peers_of(own).exchange(message), strict=True))
    bodies = {}
    for party, answer in answers.items():
        bodies[party] = answer[:-SIGNATURE_BYTES]
        signature = answer[-SIGNATURE_BYTES:]
        own.roster.verify(me.header(f"mpc {what}", party, EVERYBODY), bodies[party], signature)
    return bodies


def _read_list(party: Address, text: bytes) -> dict[str, str]:
    """The contributions that a party holds: hashes of their manifests, by client.

    Raises:
        PrivacyRefusal: the party complains.
        ProtocolError: the text is not a list of contributions.
    """
    try:
        listed = json.loads(text)
        complaint = str(listed["complaint"])
        held = {str(c): str(d) for c, d in listed["held"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ProtocolError(f"{party} sent no list of contributions") from None
    if complaint:
        raise PrivacyRefusal(f"{party}: {complaint}")
    return held


def _common(heard: Mapping[Address, Mapping[str, str]]) -> tuple[Address, ...]:
    """The clients that are on every list."""
    first, *others = heard.values()
    for client in sorted({client for held in heard.values() for client in held}):
        if len({held[client] for held in heard.values() if client in held}) > 1:
            raise PrivacyRefusal(f"{client} gave the parties different sets of boxes")
    return tuple(sorted(client for client in first if all(client in held for held in others)))


def peers_of(own: Credentials) -> Peers:
    """The connection to the other parties.

    Raises:
        PrivacyRefusal: there is no connection.
    """
    if own.peers is None:
        raise PrivacyRefusal("this party has no connection to the others: the committee was not started")
    return own.peers
