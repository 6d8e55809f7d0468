"""The keys of one attempt: advertised public keys, pairwise mask seeds and box keys, and sealed boxes.

A client has two fresh X25519 keys in each attempt. The neighbours can rebuild the mask key if the client drops out.
Nobody can rebuild the box key. If one key served both purposes, a party that rebuilt the key of a dropped client could
read the shares that were sealed to it. The client signs both keys under the roster. All derived keys are bound to a
digest of the closed list of keys, so two clients with different lists derive different keys. Mask seeds are also bound
to the digest of the model that the client was given: masks of two clients with different models do not cancel.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.addresses import Address, is_client
from privacy.errors import BadSignature, MalformedContribution, ProtocolError, shown
from privacy.randomness import KEY_BYTES, Randomness
from privacy.sealing import agree, derive, framed
from privacy.secure_sums.contract import Participant, Records, bytes_of

EVERYBODY = "cohort"
PUBLIC_BYTES = 2 * KEY_BYTES
SIGNATURE_BYTES = 64
NONCE_BYTES = 12
TAG_BYTES = 16
_MASK = b"fedveil secagg mask 1"
_BOX = b"fedveil secagg box 1"
_LIST = b"fedveil secagg list 1"


def box_bytes(content: int) -> int:
    """The length of a box around `content` bytes."""
    return NONCE_BYTES + content + TAG_BYTES


def parts(data: bytes, size: int) -> Iterator[bytes]:
    """Pieces of `size` bytes each."""
    return (data[start : start + size] for start in range(0, len(data), size))


def private_key(private: bytes) -> X25519PrivateKey:
    """An X25519 key from its bytes. This costs as much as a key agreement, so callers do it once."""
    return X25519PrivateKey.from_private_bytes(private)


def public_of(private: X25519PrivateKey) -> bytes:
    """The public half of an X25519 key."""
    return private.public_key().public_bytes_raw()


@dataclass(frozen=True)
class PrivateKeys:
    """The private halves of one client's keys. They are stored only in its memory of the attempt."""

    mask: bytes
    box: bytes

    @classmethod
    def draw(cls, randomness: Randomness) -> "PrivateKeys":
        """Draw fresh keys."""
        return cls(randomness.key(), randomness.key())

    @property
    def public(self) -> bytes:
        """The public halves, mask key then box key, `PUBLIC_BYTES` long."""
        return public_of(private_key(self.mask)) + public_of(private_key(self.box))


@dataclass(frozen=True)
class ClosedList:
    """The clients that take part, with their advertised keys: sorted, and the same for every client."""

    keys: Mapping[Address, bytes]

    @classmethod
    def of(cls, keys: Mapping[Address, bytes]) -> "ClosedList":
        """The list of these keys, sorted by client."""
        return cls({client: keys[client] for client in sorted(keys)})

    @classmethod
    def read(cls, clients: str, keys: bytes) -> "ClosedList":
        """Read a list from names separated by commas, and their concatenated keys.

        Raises:
            MalformedContribution: the names are not sorted or not unique, or the number of keys differs.
        """
        names = clients.split(",")
        if sorted(set(names)) != names or len(keys) != PUBLIC_BYTES * len(names):
            raise MalformedContribution("a closed list is sorted, and has the keys of everybody on it")
        return cls(dict(zip(names, parts(keys, PUBLIC_BYTES), strict=True)))

    @property
    def clients(self) -> str:
        """The names of the clients, separated by commas."""
        return ",".join(self.keys)

    @property
    def public(self) -> bytes:
        """The keys of the clients, concatenated in the order of the names."""
        return b"".join(self.keys.values())

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of names and keys."""
        return hashlib.sha256(framed(_LIST, self.clients.encode(), self.public)).digest()

    def mask_seed(self, private: X25519PrivateKey, own: Address, peer: Address, given: bytes) -> bytes:
        """The seed of the mask of a pair that was given one model, from the private mask key of either client.

        Raises:
            BadSignature: the peer's key is of low order.
        """
        secret = _agreed(private, self.keys[peer][:KEY_BYTES], peer)
        return derive(secret, framed(_MASK, self.digest, given, *(client.encode() for client in sorted((own, peer)))))

    def box_keys(self, private: X25519PrivateKey, own: Address, peer: Address) -> tuple[bytes, bytes]:
        """The key of boxes to a peer and the key of boxes from it, derived from the own private box key.

        Raises:
            BadSignature: the peer's key is of low order.
        """
        secret = _agreed(private, self.keys[peer][KEY_BYTES:], peer)
        to = (own.encode(), peer.encode())
        back = (peer.encode(), own.encode())
        return derive(secret, framed(_BOX, self.digest, *to)), derive(secret, framed(_BOX, self.digest, *back))


def _agreed(private: X25519PrivateKey, public: bytes, peer: Address) -> bytes:
    try:
        return agree(private, public)
    except BadSignature as error:
        raise BadSignature(f"{peer} advertised {error}") from None


def seal(key: bytes, content: bytes, randomness: Randomness) -> bytes:
    """Seal the content into a box, under a key that only sender and receiver have."""
    nonce = randomness.key()[:NONCE_BYTES]
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, None)


def open_box(key: bytes, box: bytes, sender: Address) -> bytes:
    """Open a box and return its content.

    Raises:
        BadSignature: its sender did not seal it for this receiver and this list, or it was altered on its way.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], None)
    except InvalidTag:
        raise BadSignature(f"{sender} did not seal this box") from None


def advertised(keys: PrivateKeys, me: Participant) -> Records:
    """A client's public keys, signed for this attempt."""
    public = keys.public
    signature = me.own.identity.sign(me.header("secagg keys", me.address, EVERYBODY), public)
    return {"keys": public, "signed": signature}


def verified_list(inbound: Records, me: Participant) -> ClosedList:
    """The closed list that the server sent, after a check that each client signed its keys in this attempt.

    Raises:
        ProtocolError: the list is malformed, does not have this client, or is longer than a cohort.
        BadSignature: a client did not sign its keys in this attempt.
        UnknownSender: a name is not on the roster.
    """
    closed = ClosedList.read(str(inbound.get("clients")), bytes_of(inbound, "keys"))
    if len(closed.keys) > me.spec.cohort_size:  # their sum could wrap
        raise ProtocolError(f"{len(closed.keys)} clients are more than a cohort of {me.spec.cohort_size}")
    if me.address not in closed.keys:
        raise ProtocolError(f"{me.address} is not on the list of those who take part")
    signatures = signatures_of(inbound, list(closed.keys))
    for client, public in closed.keys.items():
        if not is_client(client):
            raise ProtocolError(f"{shown(client)} contributes nothing")
        me.own.roster.verify(me.header("secagg keys", client, EVERYBODY), public, signatures[client])
    return closed


def signatures_of(inbound: Records, signers: Sequence[Address]) -> dict[Address, bytes]:
    """The concatenated signatures of a message, by their claimed signers. They are not verified here.

    Raises:
        MalformedContribution: the number of signatures is not that of the signers.
    """
    signatures = bytes_of(inbound, "signatures")
    if len(signatures) != SIGNATURE_BYTES * len(signers):
        raise MalformedContribution(f"{len(signers)} signatures take {SIGNATURE_BYTES} bytes each")
    return dict(zip(signers, parts(signatures, SIGNATURE_BYTES), strict=True))
