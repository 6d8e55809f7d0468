"""The keys of one attempt: what clients advertise, what two of them agree on, and what they seal to one another.

A client has two X25519 keys that no other attempt has: one for masks, which others can put together should it drop
out, and one for boxes, which nobody ever can: with one for both, whoever rebuilt the key of a client that dropped out
would read the shares that it was given. It signs both under the roster. All that they are used for is bound to a
digest of the closed list of keys, so that two clients that were handed different lists have nothing in common.
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
    """The length of a box around so many bytes."""
    return NONCE_BYTES + content + TAG_BYTES


def parts(data: bytes, size: int) -> Iterator[bytes]:
    """Pieces of so many bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


def private_key(private: bytes) -> X25519PrivateKey:
    """An X25519 key from its bytes: as dear as to agree on something, so it is made once."""
    return X25519PrivateKey.from_private_bytes(private)


def public_of(private: X25519PrivateKey) -> bytes:
    """The public half of an X25519 key."""
    return private.public_key().public_bytes_raw()


@dataclass(frozen=True)
class PrivateKeys:
    """The private halves of one client's keys; they live in its memory of the attempt, and nowhere else."""

    mask: bytes
    box: bytes

    @classmethod
    def draw(cls, randomness: Randomness) -> "PrivateKeys":
        """Fresh ones."""
        return cls(randomness.key(), randomness.key())

    @property
    def public(self) -> bytes:
        """What is advertised, `PUBLIC_BYTES` long."""
        return public_of(private_key(self.mask)) + public_of(private_key(self.box))


@dataclass(frozen=True)
class ClosedList:
    """Who takes part, with the keys that they advertised: sorted, and the same for everybody."""

    keys: Mapping[Address, bytes]

    @classmethod
    def of(cls, keys: Mapping[Address, bytes]) -> "ClosedList":
        """In the order that everybody has them in."""
        return cls({client: keys[client] for client in sorted(keys)})

    @classmethod
    def read(cls, clients: str, keys: bytes) -> "ClosedList":
        """From names with commas between them, and their keys one after the other.

        Raises:
            MalformedContribution: names that are not sorted or come twice, or not as many keys.
        """
        names = clients.split(",")
        if sorted(set(names)) != names or len(keys) != PUBLIC_BYTES * len(names):
            raise MalformedContribution("a closed list is sorted, and has the keys of everybody on it")
        return cls(dict(zip(names, parts(keys, PUBLIC_BYTES), strict=True)))

    @property
    def clients(self) -> str:
        """Their names, with commas between them."""
        return ",".join(self.keys)

    @property
    def public(self) -> bytes:
        """Their keys."""
        return b"".join(self.keys.values())

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of it all."""
        return hashlib.sha256(framed(_LIST, self.clients.encode(), self.public)).digest()

    def mask_seed(self, private: X25519PrivateKey, own: Address, peer: Address) -> bytes:
        """What the mask of a pair expands from, from either one's mask key.

        Raises:
            BadSignature: the peer's key is of low order.
        """
        secret = _agreed(private, self.keys[peer][:KEY_BYTES], peer)
        return derive(secret, framed(_MASK, self.digest, *(client.encode() for client in sorted((own, peer)))))

    def box_keys(self, private: X25519PrivateKey, own: Address, peer: Address) -> tuple[bytes, bytes]:
        """The keys of the boxes to a peer, and from it, from one's own box key.

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
    """A box around the content, under a key that only its two ends have."""
    nonce = randomness.key()[:NONCE_BYTES]
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, None)


def open_box(key: bytes, box: bytes, sender: Address) -> bytes:
    """What is in a box.

    Raises:
        BadSignature: its sender did not seal it for this receiver and this list, or it was changed on its way.
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
    """The closed list that the server hands on, every key of which its owner signed in this attempt.

    Raises:
        ProtocolError: it is no such list, this client is not on it, or it is longer than a cohort.
        BadSignature: somebody did not sign these keys, in this attempt.
        UnknownSender: a name that is not on the roster.
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
    """Signatures one after the other, by who is said to have signed.

    Raises:
        MalformedContribution: not as many as signers.
    """
    signatures = bytes_of(inbound, "signatures")
    if len(signatures) != SIGNATURE_BYTES * len(signers):
        raise MalformedContribution(f"{len(signers)} signatures take {SIGNATURE_BYTES} bytes each")
    return dict(zip(signers, parts(signatures, SIGNATURE_BYTES), strict=True))
