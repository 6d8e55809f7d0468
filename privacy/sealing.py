"""Authentication and encryption between roles: a roster of public keys, signatures, sealed boxes, pairwise keys.

All primitives are those of `cryptography`: Ed25519 (RFC 8032), X25519 (RFC 7748), HKDF-SHA256 (RFC 5869),
ChaCha20-Poly1305 and ChaCha20 (RFC 8439). Every signature, box and key is bound to a header: its purpose, the
configuration, run, round, attempt and stage, the sender and the receiver, and where the protocol wants it the digest
of what the server gave for training. It is invalid under any other header.
Detection of replays is up to the protocol.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.errors import BadSignature, ConfigError, UnknownSender, shown
from privacy.randomness import KEY_BYTES, Randomness

BOX_BYTES = KEY_BYTES + 16  # overhead of a box over its content: a public key and a tag
_NONCE = bytes(12)  # every box has a key of its own
_SIGNATURE = b"fedveil signature 1"
_BOX = b"fedveil box 1"
_SHARED = b"fedveil shared key 1"

_P = 2**255 - 19
_PROBE = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))  # any scalar takes points of low order to zero
_BLOCK = 1 << 15  # number of words of a key stream at a time, so that they stay in the cache


def framed(*parts: bytes) -> bytes:
    """Concatenate parts, each after its length: an injective encoding."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@dataclass(frozen=True)
class Header:
    """The context to which a signature, box or key is bound."""

    purpose: str
    run: str  # hash of the configuration
    round: int
    attempt: str
    stage: str
    sender: str
    receiver: str
    given: bytes = b""  # `Participant.given`, where a protocol binds contributions to it

    def encode(self) -> bytes:
        """Encode the header injectively, for any strings."""
        parts = self.purpose, self.run, self.round, self.attempt, self.stage, self.sender, self.receiver
        return framed(*(str(part).encode("utf-8", "surrogatepass") for part in parts), self.given)


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of one role, 32 bytes each."""

    signing: bytes
    exchange: bytes


class Identity:
    """The private keys of one role. They are never part of its text, and the object cannot be pickled."""

    def __init__(self, signing: bytes, exchange: bytes) -> None:
        self._seeds = signing, exchange
        self._signing = Ed25519PrivateKey.from_private_bytes(signing)
        self._exchange = X25519PrivateKey.from_private_bytes(exchange)
        self.public = PublicKeys(
            self._signing.public_key().public_bytes_raw(), self._exchange.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls, randomness: Randomness) -> "Identity":
        """Make an identity with fresh keys."""
        return cls(randomness.key(), randomness.key())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Identity":
        """The identity that `to_bytes` wrote.

        Raises:
            ConfigError: the data have another length.
        """
        if len(data) != 2 * KEY_BYTES:
            raise ConfigError.of("key", f"{len(data)} bytes", f"a role's keys are {2 * KEY_BYTES} bytes")
        return cls(data[:KEY_BYTES], data[KEY_BYTES:])

    def to_bytes(self) -> bytes:
        """The private keys as bytes, for a file that only its role can read."""
        return b"".join(self._seeds)

    def sign(self, header: Header, payload: bytes) -> bytes:
        """Sign a payload: 64 bytes that anybody with the roster can verify."""
        return self._signing.sign(_signed(header, payload))

    def shared(self, peer: PublicKeys, header: Header, salt: bytes) -> bytes:
        """A 32-byte key that only this role and the peer can derive, for this header and salt.

        Raises:
            BadSignature: the peer's public key is of low order, and the key would be known to all.
        """
        pair = sorted((self.public.exchange, peer.exchange))
        return derive(agree(self._exchange, peer.exchange), framed(_SHARED, header.encode(), salt, *pair))


def _signed(header: Header, payload: bytes) -> bytes:
    # hashed first, because Ed25519 reads its message twice
    return framed(_SIGNATURE, header.encode(), hashlib.sha256(payload).digest())


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """The shared secret of an X25519 key agreement; it is input to `derive`, not a key.

    Raises:
        BadSignature: the public key is invalid, or of low order, so that anybody would know the secret.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise BadSignature("a public key of low order, or an invalid one") from None


def derive(secret: bytes, info: bytes) -> bytes:
    """A 32-byte key from a shared secret, for the purpose that `info` states."""
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(secret)


def _usable(u: int) -> bool:
    """True where u is reduced and belongs to a point of Curve25519 that is not of low order."""
    if u >= _P or pow(u * (u * u + 486662 * u + 1), (_P - 1) // 2, _P) != 1:  # v^2 must be a square
        return False
    try:
        agree(_PROBE, u.to_bytes(KEY_BYTES, "little"))
    except BadSignature:
        return False
    return True


@lru_cache(maxsize=4096)
def _are_keys(public: PublicKeys) -> bool:
    """True where an honest role can have these keys: under a signing key of low order anybody could sign."""
    if {len(public.signing), len(public.exchange)} != {KEY_BYTES}:
        return False
    y = int.from_bytes(public.signing, "little") & (1 << 255) - 1
    if y >= _P or y == 1:
        return False
    u = (1 + y) * pow(1 - y, -1, _P) % _P  # RFC 7748, section 4.1: the same point on the curve of X25519
    return _usable(u) and _usable(int.from_bytes(public.exchange, "little"))


class Roster:
    """The public keys of every role, pinned at set-up and outside the server.

    Raises:
        ConfigError: two roles have the same key, or a public key is invalid.
    """

    def __init__(self, keys: Mapping[str, PublicKeys]) -> None:
        self._keys = dict(sorted(keys.items()))
        owners: dict[bytes, str] = {}
        for address, public in self._keys.items():
            if not _are_keys(public):
                raise ConfigError.of("roster", address, "has an invalid public key; make its keys again")
            for key in (public.signing, public.exchange):
                if owners.setdefault(key, address) != address:
                    raise ConfigError.of("roster", address, f"has a key of {owners[key]}; each role makes its own")

    def __getitem__(self, address: str) -> PublicKeys:
        """The keys of one role.

        Raises:
            UnknownSender: the roster does not have this address.
        """
        if address not in self._keys:
            raise UnknownSender(f"{shown(address)} is not on the roster")
        return self._keys[address]

    def __contains__(self, address: object) -> bool:
        return address in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def to_bytes(self) -> bytes:
        """The roster as canonical JSON: the same keys give the same bytes."""
        listed = {address: [k.signing.hex(), k.exchange.hex()] for address, k in self._keys.items()}
        return json.dumps(listed, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Roster":
        """The roster that `to_bytes` wrote.

        Raises:
            ConfigError: any other data, also another encoding of the same roster, or an address that is listed twice.
        """
        try:
            listed = json.loads(data)
            keys = {a: PublicKeys(bytes.fromhex(s), bytes.fromhex(x)) for a, (s, x) in listed.items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError.of("roster", f"{len(data)} bytes", f"is not a roster ({error})") from None
        roster = cls(keys)
        if roster.to_bytes() != data:
            raise ConfigError.of("roster", f"{len(data)} bytes", "is not in the canonical form; make the roster again")
        return roster

    @property
    def digest(self) -> bytes:
        """SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).digest()

    def verify(self, header: Header, payload: bytes, signature: object) -> None:
        """Check that the header's sender signed this payload.

        Raises:
            BadSignature: the sender did not sign it.
            UnknownSender: the sender is not on the roster.
        """
        public = Ed25519PublicKey.from_public_bytes(self[header.sender].signing)
        if not isinstance(signature, bytes):
            raise BadSignature(f"{header.sender} did not sign this")
        try:
            public.verify(signature, _signed(header, payload))
        except InvalidSignature:
            raise BadSignature(f"{header.sender} did not sign this") from None


def seal(me: Identity, roster: Roster, header: Header, plaintext: bytes, randomness: Randomness) -> bytes:
    """Seal a box that only the header's receiver can open, `BOX_BYTES` longer than the plaintext.

    Its key is agreed between the receiver's static key and two keys of the sender. The sender's static key
    authenticates the sender. The sender's fresh key is discarded at once, so old boxes stay closed to an adversary that
    learns the sender's static key later. An adversary that learns the receiver's keys can read all boxes for it, and
    can seal boxes to it in any role's name.

    Raises:
        UnknownSender: the sender or the receiver is not on the roster.
    """
    fresh = X25519PrivateKey.from_private_bytes(randomness.key())
    public = fresh.public_key().public_bytes_raw()
    receiver = roster[header.receiver].exchange
    key = _box_key(agree(fresh, receiver) + agree(me._exchange, receiver), roster, header, public)
    return public + ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, header.encode())


def open_box(me: Identity, roster: Roster, header: Header, box: object) -> bytes:
    """Open a box that was sealed under exactly this header, and return its plaintext.

    Raises:
        BadSignature: the box was sealed under another header, or was altered on its way.
        UnknownSender: the sender or the receiver is not on the roster.
    """
    if not isinstance(box, bytes) or len(box) < BOX_BYTES:
        raise BadSignature(f"no box from {header.sender}")
    public = box[:KEY_BYTES]
    sealed = box[KEY_BYTES:]
    secrets = agree(me._exchange, public) + agree(me._exchange, roster[header.sender].exchange)
    key = _box_key(secrets, roster, header, public)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, header.encode())
    except InvalidTag:
        raise BadSignature(f"{header.sender} did not seal this box") from None


def _box_key(secrets: bytes, roster: Roster, header: Header, public: bytes) -> bytes:
    pair = roster[header.sender].exchange, roster[header.receiver].exchange
    return derive(secrets, framed(_BOX, header.encode(), public, *pair))


def mac(key: bytes, parts: Iterable[bytes]) -> bytes:
    """The HMAC-SHA256 of parts, each after its length."""
    return hmac.digest(key, framed(*parts), "sha256")


def check_mac(key: bytes, parts: Iterable[bytes], tag: object, sender: str) -> None:
    """Check a tag in constant time.

    Raises:
        BadSignature: the tag is wrong.
    """
    if not isinstance(tag, bytes) or not hmac.compare_digest(mac(key, parts), tag):
        raise BadSignature(f"{sender} did not authenticate this")


def uniform(key: bytes, count: int, modulus: int) -> NDArray[np.uint64]:
    """Expand a key into integers uniform in [0, modulus), shape (count,), the same on every machine.

    The ChaCha20 stream of the 32-byte key (nonce and counter 0) is read as little-endian words of 1, 2, 4 or 8 bytes,
    the fewest that hold the modulus. Each word is reduced to as many low bits as the modulus needs, and is skipped
    where it is not below the modulus.
    """
    assert 2 <= modulus <= 1 << 64
    bits = (modulus - 1).bit_length()
    word = np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if bits <= 8 * size)}")
    low_bits = word.type((1 << bits) - 1)
    largest = word.type(modulus - 1)
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros = bytes(_BLOCK * word.itemsize)
    block = np.empty(_BLOCK, word)
    values = np.empty(count, np.uint64)
    done = 0
    while done < count:
        words = block[: count - done]
        stream.update_into(memoryview(zeros)[: words.nbytes], words.view(np.uint8).data)
        words &= low_bits
        kept = words if largest == low_bits else words[words <= largest]
        values[done : done + len(kept)] = kept
        done += len(kept)
    return values
