"""Sums that one party, the opener, opens. Stages: collect, open; where the clients share a key, elect before them.

Each client i and the opener derive k_i from their static keys, bound to configuration, run, round and attempt, and to
the digest of the model that the client was given: the opener opens a sum over one model only. The
client masks its vector with the expansion of k_i, encrypts the result (except under `pad`), and authenticates the
message, and its digest for the linear check, with k_i. The server adds the messages and sends the opener the sum, the
list of its contributors, and their tags. The opener checks every tag, that enough clients contributed, that it has not
answered this attempt, and that the round was opened for no other set before. It stores the set before it opens
anything, and subtracts the masks of exactly these clients.

The masks alone keep plaintexts from the server, whatever it has opened. They do not hide the key of the encryption: an
opener that took any ciphertext would be an oracle for it. So it opens only what the linear check (`linear_check`)
proves to be the sum of the contributors' messages. The attack of Li and Micciancio (2021) does not apply to such a sum:
it needs a ciphertext with a known plaintext, and the server has none. A client that colludes with the server can put
what it likes into its own message, and the two can learn the key from it; the masks of the others then hide their
updates without the encryption. The opener answers once an attempt. An attempt that failed can be followed by another
one over the same set, whose messages, masks and check are all fresh: it opens the sum of the same clients once more.

`keys=keyholder`: a separate party has the secret key, and clients encrypt to its public key. `keys=clients`: the
clients share a secret key, which one of them makes and seals to the others. One client opens. It is elected before any
client masks, because two clients that could open the same round could receive two different sets. If it drops out, the
round fails.

`masks=False` is the common practice: the opener decrypts whatever the server sends. Keys are then fresh in each round.
With `broadcast` every client opens a copy of the sum, as with NVIDIA FLARE.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from privacy.addresses import KEYHOLDER, Address, is_client
from privacy.checks import positive
from privacy.errors import ConfigError, MalformedContribution, PrivacyRefusal, ProtocolError, shown
from privacy.sealing import check_mac, mac
from privacy.secure_sums.contract import (
    Contribution,
    Credentials,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    SetupFlow,
    bytes_of,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.declarations import Declarations, Encoding, Fixed, Numbers, Rehearsal
from privacy.secure_sums.he.codecs import CipherScheme, Mask, sum_of_masks
from privacy.secure_sums.he.key_delivery import SECRET, STAGES, KeyDelivery, ignored
from privacy.secure_sums.he.linear_check import LinearCheck
from privacy.secure_sums.one_set_a_round import note_set
from privacy.secure_sums.traits import MALICIOUS_SERVER, Carries, Needs, Parties, Withstands
from privacy.secure_sums.trust import Trust, of_opener, subtracting
from privacy.secure_sums.vectors import OrderedSum, Sum, Vector, VectorSpec
from privacy.spans import span

HOLDERS = ("keyholder", "clients")
DIGEST_BYTES = 32


@dataclass
class Gathering:
    """The server's state of one collection: the sum of the messages, their tags, and the sum of the cleartext parts."""

    scheme: CipherScheme
    cohort: Sequence[Address]
    tag_bytes: int
    clear: VectorSpec | None = None  # cleartext part under selective encryption
    tags: dict[Address, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start an empty sum of each kind."""
        self.adder = self.scheme.adder()
        self.open_part = None if self.clear is None else OrderedSum(self.cohort, self.clear)

    def receive(self, address: Address, records: Records) -> None:
        """Add one contribution, all of it or nothing."""
        message = bytes_of(records, "message")
        tag = bytes_of(records, "tag")
        salt = bytes_of(records, "salt")
        if (len(tag), len(salt)) != (self.tag_bytes, DIGEST_BYTES):
            raise MalformedContribution(
                f"a tag has {self.tag_bytes} bytes and a salt {DIGEST_BYTES}, got {len(tag)} and {len(salt)}"
            )
        clear = None if self.clear is None else self.clear.check(records.get("clear"))
        self.adder.add(message)
        if self.open_part is not None and clear is not None:
            self.open_part.add(address, clear)
        self.tags[address] = hashlib.sha256(message).digest() + salt + tag

    def request(self, contributors: Sequence[Address], given: bytes) -> Records:
        """The records that the opener needs; `given` is the digest of what all contributors were given."""
        tags = b"".join(self.tags[address] for address in contributors)
        return {"sum": self.adder.message(), "contributors": ",".join(contributors), "tags": tags, "given": given}


class OpenedSum(SecureSum):
    """Base of `ckks`, `bfv` and `pad`. `bound` is the largest value of an update; `keys` names who has the key."""

    hides = True
    needs = Needs(roster=True)

    def __init__(self, keys: str, bound: float, masks: bool = True, broadcast: bool = False) -> None:
        if keys not in HOLDERS:
            raise ConfigError.of("secure_sum.keys", keys, f"allowed are {', '.join(HOLDERS)}")
        positive("secure_sum.bound", bound)
        if broadcast and (masks or keys == "keyholder"):
            allowed = "every client can open the sum only where secure_sum.keys=clients and secure_sum.masks=false"
            raise ConfigError.of("secure_sum.broadcast", broadcast, allowed)
        self.keys = keys
        self.carries = Carries(bound=float(bound))
        self.masks = masks
        self.broadcast = broadcast
        self.parties = Parties(roles=(KEYHOLDER,) if keys == "keyholder" else ())
        self.stages = ("collect",) if self.parties.roles else ("elect", "collect", "open")
        self._keys = KeyDelivery(shared=not self.parties.roles, symmetric=self.symmetric, rotated=not masks)
        other = "the keyholder" if self.parties.roles else "any client"
        self.withstands = MALICIOUS_SERVER if masks else Withstands()
        self.assumption = f"the server and {other} do not collude"

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """True where clients encrypt under the secret key."""

    @abstractmethod
    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme that carries the vectors of a spec.

        Raises:
            ConfigError: the parameters cannot carry them.
        """

    def trust(self, spec: VectorSpec) -> Trust:
        """The trust assumptions, for either value of `keys`, and the limits of the protocol."""
        encrypted = self._scheme(spec).parameters is not None
        return replace(
            of_opener(bool(self.parties.roles), self.masks, encrypted),
            sentences={"protocol": tuple(self._limits(encrypted))},
            subtracting=subtracting(spec) if self.masks else (),  # without masks the server needs no client
        )

    @property
    def _opener(self) -> str:
        return "the keyholder" if self.parties.roles else "the client that opens a sum"

    def _limits(self, encrypted: bool) -> Iterator[str]:
        """Sentences about the limits of the protection."""
        if self.masks:
            if encrypted and self.parties.roles:
                yield (
                    "The server and a client together can learn the secret key from an opened sum, as nobody checks "
                    "what that client encrypts: the masks alone then hide the updates of the others."
                )
            return
        yield f"Nothing is masked (secure_sum.masks=false): {self._opener} decrypts whatever the server sends it."
        yield from self._leakage()
        if self.broadcast:
            yield "Every client opens the sum (secure_sum.broadcast=true)."

    def _leakage(self) -> Iterator[str]:
        """Sentences about the leakage of a decryption about the key."""
        yield from ()

    def tolerance(self, spec: VectorSpec) -> float:
        """The tolerance of the scheme."""
        return self._scheme(spec).tolerance

    def _scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme that carries the encrypted part of contributions."""
        return self.scheme(spec)

    # ---- the server's half

    def setup(self, roles: Sequence[Address], spec: VectorSpec) -> SetupFlow:
        """Distribute keys: their maker prepares the keys of each client, and the server passes them on."""
        clients = [address for address in roles if address not in self.parties.roles]
        if self.masks and self._scheme(spec).parameters is not None:
            there = yield from self._keys.flow(KEYHOLDER if self.parties.roles else clients[0], clients)
            if not there:
                raise PrivacyRefusal("no client took its key")

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Add the contributions, and have the sum opened once."""
        opener, cohort = yield from self._assemble(cohort, spec)
        gathering = self._gathering(cohort, spec)
        collection = self._collection("collect", opener, cohort, gathering)
        there = yield collection
        require_contributors(there, spec)
        request = gathering.request(there, collection.given)
        opened = list[Sum]()

        def receive(_: Address, records: Records) -> None:
            opened.append(self._whole(records, spec, gathering))

        yield Exchange("open", {opener: request}, receive)
        if not opened:
            raise PrivacyRefusal(f"{opener} did not open the sum")
        copies = [address for address in there if self.broadcast and address != opener]
        if copies:
            copy = {name: request[name] for name in ("sum", "contributors")}
            yield Exchange("broadcast", dict.fromkeys(copies, copy), ignored)
        return spec.total(opened[0], there)

    def _assemble(
        self, cohort: Sequence[Address], spec: VectorSpec
    ) -> Generator[Exchange, list[Address], tuple[Address, Sequence[Address]]]:
        """The opener, and the clients of the cohort that take part. Without masks, it also distributes fresh keys."""
        require_contributors(cohort, spec)
        opener = KEYHOLDER
        if not self.parties.roles:  # the opener must be known before any client masks, and should be reachable
            cohort = yield Exchange("elect", {address: {} for address in cohort}, ignored)
            require_contributors(cohort, spec)
            opener = cohort[0]
        if not self.masks:
            cohort = yield from self._keys.flow(opener, cohort)
            require_contributors(cohort, spec)
        return opener, cohort

    def _gathering(self, cohort: Sequence[Address], spec: VectorSpec) -> Gathering:
        scheme = self.scheme(spec)
        return Gathering(scheme, cohort, self._tag_bytes(scheme))

    def linear_check(self, scheme: CipherScheme) -> LinearCheck | None:
        """The check of what is opened; None without a key to protect, or where the opener decrypts whatever it gets."""
        return scheme.check if self.masks else None

    def _tag_bytes(self, scheme: CipherScheme) -> int:
        """The length of a tag: a MAC, and the sealed digest of the linear check."""
        check = self.linear_check(scheme)
        return DIGEST_BYTES + (0 if check is None else check.sealed_bytes)

    def _collection(self, stage: str, opener: Address, cohort: Sequence[Address], gathering: Gathering) -> Exchange:
        outbox = {address: {"opener": opener} for address in cohort}
        names = ("message", "tag", "salt", *(() if gathering.clear is None else ("clear",)))
        return Exchange(stage, outbox, gathering.receive, collect=True, names=names)

    def _whole(self, records: Records, spec: VectorSpec, gathering: Gathering) -> Sum:  # noqa: ARG002
        """The sum of whole vectors, from the opener's answer and the server's own sums."""
        return spec.check_sum(records.get("opened"))

    # ---- everyone else's

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """Contribute, open, make keys, or receive them."""
        own = me.own
        if stage == "collect":
            return self._contribute(inbound, me, own, contribution)
        if stage == "open":
            return self._open(inbound, me, own)
        if stage == "elect" and not self.parties.roles:
            return {}
        if stage == "broadcast" and self.broadcast:
            return self._open_copy(inbound, me, own)
        parameters = self._scheme(me.spec).parameters
        if stage in STAGES and parameters is not None:
            return self._keys.respond(stage, inbound, me, own, parameters)
        raise unknown_stage(stage)

    def _contribute(self, inbound: Records, me: Participant, own: Credentials, contribution: Contribution) -> Records:
        opener = self._agreed_opener(inbound, me, own)
        return self._protect(self.scheme(me.spec), me.spec.check(contribution()), opener, me, own)

    def _agreed_opener(self, inbound: Records, me: Participant, own: Credentials) -> Address:
        """The opener for whom this client masks: the same one in every attempt of the round.

        Raises:
            ProtocolError: the opener is another one than the protocol or an earlier attempt named.
            UnknownSender: the opener is not on the roster.
        """
        opener = str(inbound.get("opener"))
        if self.parties.roles:
            if opener != KEYHOLDER:
                raise ProtocolError(f"{shown(opener)} is not the opener")
            return opener
        _ = own.roster[opener]  # refuses an unknown address before it is stored
        name = f"opener-{me.run}-{me.round}"
        first = own.store.get(name)
        if first is None:
            own.store.put(name, opener.encode())
        elif first != opener.encode():
            raise ProtocolError(
                f"{opener} is not {first.decode()}, for whom this client masked in round {me.round}: two openers could "
                "be given two sets, whose difference is one update; bring the first opener back, or start anew"
            )
        return opener

    def _protect(
        self, scheme: CipherScheme, vector_D: Vector, opener: Address, me: Participant, own: Credentials
    ) -> Records:
        """A vector under mask and encryption, with its tag."""
        salt = me.randomness.key()  # so that two answers in one attempt have different masks
        key = _mask_key(me, own, me.address, opener, salt)
        mask = None
        if self.masks:
            with span("mask"):
                mask = scheme.draw_mask(_mask_seed(key))
        encryption = b"" if scheme.parameters is None else self._keys.encryption_key(me, own)
        ahead = {"ahead": me.ahead} if self.prepares and me.ahead else {}
        message = scheme.encrypt(vector_D, encryption, mask, **ahead)
        check = self.linear_check(scheme)
        sealed = b"" if check is None else check.sealed(message, self._keys.attempt_key(me, own), key)
        return {"message": message, "tag": mac(key, [hashlib.sha256(message).digest(), sealed]) + sealed, "salt": salt}

    def _open(self, inbound: Records, me: Participant, own: Credentials) -> Records:
        """Open the sum, once per attempt."""
        return {"opened": self._opened(self._scheme(me.spec), inbound, me, own)}

    def _opened(self, scheme: CipherScheme, inbound: Records, me: Participant, own: Credentials) -> Sum:
        if self.parties.roles and me.address != KEYHOLDER:
            raise ProtocolError(f"{me.address} opens nothing")
        if not own.store.claim(f"opened-{me.run}-{me.round}-{me.attempt}"):
            raise PrivacyRefusal(f"round {me.round} was opened before, in this attempt")
        contributors = _contributors(inbound, me)
        me = replace(me, given=bytes_of(inbound, "given"))  # contributors with another model have other keys
        keys = self._authenticated(scheme, contributors, inbound, me, own)
        note_set(contributors, me, own)
        mask = None
        if self.masks:  # drawn one by one: each is as long as a message
            mask = sum_of_masks(scheme, (scheme.draw_mask(_mask_seed(key)) for key in keys))
        secret = b"" if scheme.parameters is None else self._keys.key(SECRET, me, own)
        return scheme.open(bytes_of(inbound, "sum"), secret, len(keys), mask, me.randomness)

    def _open_copy(self, inbound: Records, me: Participant, own: Credentials) -> Records:
        """Decrypt and check a broadcast sum, as every client does there for its next model."""
        contributors = _contributors(inbound, me)
        secret = self._keys.key(SECRET, me, own)
        self._scheme(me.spec).open(bytes_of(inbound, "sum"), secret, len(contributors), None, me.randomness)
        return {}

    def _authenticated(
        self, scheme: CipherScheme, contributors: Sequence[Address], inbound: Records, me: Participant, own: Credentials
    ) -> list[bytes]:
        """The mask key of each contributor, after a check of its tag under that key, and of the sum under all tags."""
        tags = bytes_of(inbound, "tags")
        size = 2 * DIGEST_BYTES + self._tag_bytes(scheme)
        if len(tags) != size * len(contributors):
            raise MalformedContribution(f"{len(contributors)} contributors have {size} bytes of tags each")
        check = self.linear_check(scheme)
        keys = []
        digests = []
        for index, address in enumerate(contributors):
            hashed, salt, tag, sealed = _parts(tags[size * index : size * (index + 1)])
            keys.append(_mask_key(me, own, address, me.address, salt))
            check_mac(keys[-1], [hashed, sealed], tag, address)
            if check is not None:
                digests.append(check.opened(sealed, keys[-1]))
        if check is not None:
            check.require_sum(bytes_of(inbound, "sum"), digests, self._keys.attempt_key(me, own))
        return keys

    # ---- for the witness

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:
        """A message whose residues are uniform, the hash that authenticates it, and the salt of its mask."""
        return {
            "message": self._witnessed(stage, me.spec).declared(bytes_of(records, "message")),
            "tag": Fixed(self._tag_bytes(self._witnessed(stage, me.spec))),
            "salt": Fixed(DIGEST_BYTES),
        }

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:
        """The encodings of the scheme."""
        return self._witnessed(stage, me.spec).encodings(self._encrypted(stage, vector_D, me))

    def rehearse(
        self, stage: str, inbound: Records, me: Participant, vector_D: Vector, sent: Records
    ) -> Rehearsal | None:
        """Protect the vector under a key pair that the double makes, so that the double can open the result."""
        own = me.own
        scheme = self._witnessed(stage, me.spec)
        secret = b""
        if scheme.parameters is not None:
            secret = self._keys.replace(scheme.parameters, me, own)
        records = self.respond(stage, inbound, me, lambda: vector_D)
        mask = None
        masks = list[Numbers]()
        if self.masks:
            mask, other = (self._mask_of(scheme, inbound, one, me, own) for one in (records, sent))
            masks = [*scheme.numbers_of_mask(mask), *_between(scheme, mask, other)]
        opened_D = scheme.open(bytes_of(records, "message"), secret, 1, mask, me.randomness)
        encrypted_D = self._encrypted(stage, vector_D, me)
        return Rehearsal(self.declare(stage, records, me), encrypted_D, opened_D, scheme.tolerance, masks)

    def _mask_of(
        self, scheme: CipherScheme, inbound: Records, records: Records, me: Participant, own: Credentials
    ) -> Mask:
        """The mask that hides a client's vector in its records."""
        key = _mask_key(me, own, me.address, str(inbound.get("opener")), bytes_of(records, "salt"))
        return scheme.draw_mask(_mask_seed(key))

    def _witnessed(self, stage: str, spec: VectorSpec) -> CipherScheme:  # noqa: ARG002
        """The scheme that carries the encrypted vector of a stage."""
        return self._scheme(spec)

    def _encrypted(self, stage: str, vector_D: Vector, me: Participant) -> Vector:  # noqa: ARG002
        """The part of a vector that is encrypted at a stage."""
        return vector_D


def _between(scheme: CipherScheme, one: Mask, other: Mask) -> Iterator[Numbers]:
    """The differences between two masks."""
    for left, right in zip(scheme.numbers_of_mask(one), scheme.numbers_of_mask(other), strict=True):
        name = f"the differences of the {left.name} to another one"
        yield Numbers(name, left.difference(left.values_RN, right.values_RN), left.modulus)


def _contributors(inbound: Records, me: Participant) -> list[Address]:
    """The contributors of a sum that may be opened.

    Raises:
        ProtocolError: a contributor is named twice or is not a client, or there are more of them than a cohort has.
        TooFewContributors: there are fewer than the spec requires.
    """
    contributors = str(inbound.get("contributors")).split(",")
    if len(set(contributors)) < len(contributors):
        raise ProtocolError("a contributor is named twice")
    require_contributors(contributors, me.spec)
    if len(contributors) > me.spec.cohort_size:  # their sum could wrap
        raise ProtocolError(f"{len(contributors)} contributors are more than a cohort of {me.spec.cohort_size}")
    for address in contributors:
        if not is_client(address):
            raise ProtocolError(f"{shown(address)} contributes nothing")
    return contributors


def _mask_key(me: Participant, own: Credentials, client: Address, opener: Address, salt: bytes) -> bytes:
    """The key k_i that a client shares with the opener, the same at both ends."""
    peer = opener if me.address == client else client
    return own.identity.shared(own.roster[peer], me.header("mask", client, opener, me.given), salt)


def _parts(entry: bytes) -> Iterator[bytes]:
    """Yield the parts of one client's entry: the hash of its message, the salt, the MAC, and the sealed digest."""
    for part in range(3):
        yield entry[DIGEST_BYTES * part : DIGEST_BYTES * (part + 1)]
    yield entry[3 * DIGEST_BYTES :]


def _mask_seed(key: bytes) -> bytes:
    """The seed of the mask: derived from k_i, so that the key of the tags has no second use."""
    return mac(key, [b"mask"])
