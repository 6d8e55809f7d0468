"""Sums that one opener opens: CKKS, BFV, and one-time masks alone. Stages: collect, open; once a run: keys, deliver.

Each client i and the opener derive k_i from their static keys, bound to configuration, run, round and attempt. The
client masks its vector with what k_i expands to, encrypts that (but for `pad`), and authenticates the message with k_i.
The server adds messages and sends the opener the sum, who is in it, and their tags. The opener checks every tag, that
enough contributed, and that it has not answered this attempt; it records that before it opens anything, and takes the
masks of just these clients off. Whatever else the server hands it stays uniformly masked, so it is no oracle for the
key; and the server never knows a plaintext of a ciphertext that it holds, which the attack of Li and Micciancio (2021)
needs.

`keys=keyholder`: a party of its own has the secret key, clients encrypt to its public key. `keys=clients`: the clients
share a secret key, which one of them makes and seals to the others; one of them opens, elected before anybody masks,
because two who could open the same masks could be given two different sets. Should it be gone, the round fails.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

from privacy.errors import ConfigError, MalformedContribution, PrivacyRefusal, ProtocolError
from privacy.he_cipher import generate_keys
from privacy.he_parameters import HeParameters, named
from privacy.masked_sums import Scheme, bfv_scheme, ckks_scheme, pad_scheme, sum_of_masks
from privacy.parameters import positive
from privacy.sealing import check_mac, mac, open_box, seal
from privacy.secure_sum import (
    Address,
    Contribution,
    Credentials,
    Exchange,
    Flow,
    Party,
    Records,
    SecureSum,
    SetupFlow,
    VectorSpec,
    bytes_of,
    require_contributors,
    unknown_stage,
)

KEYHOLDER = "keyholder"
HOLDERS = ("keyholder", "clients")
PUBLIC, SECRET = "he.public", "he.secret"
DIGEST_BYTES = 32
TAG_BYTES = 3 * DIGEST_BYTES  # of a contribution: hash of the message, its tag, the salt of its mask


class OpenedSum(SecureSum):
    """What the three have in common. `bound` is the largest value of an update, `keys` who can open."""

    hides = True
    pinned = True

    def __init__(self, keys: str, bound: float) -> None:
        if keys not in HOLDERS:
            raise ConfigError.of("secure_sum.keys", keys, f"allowed are {', '.join(HOLDERS)}")
        positive("secure_sum.bound", bound)
        self.keys, self.bound = keys, float(bound)
        self.roles = (KEYHOLDER,) if keys == "keyholder" else ()
        other = "the keyholder" if self.roles else "any client"
        self.assumption = f"the server and {other} do not collude"

    @abstractmethod
    def scheme(self, spec: VectorSpec) -> Scheme:
        """How vectors are carried.

        Raises:
            ConfigError: the parameters cannot carry them.
        """

    def tolerance(self, spec: VectorSpec) -> float:
        """That of the scheme."""
        return self.scheme(spec).tolerance

    # ---- the server's half

    def setup(self, roles: Sequence[Address], spec: VectorSpec) -> SetupFlow:
        """Keys: whoever makes them says what each client gets, and the server passes it on."""
        if self.scheme(spec).parameters is None:
            return
        parcels: dict[Address, Records] = {}
        maker = KEYHOLDER if self.roles else roles[0]
        clients = [address for address in roles if address != KEYHOLDER]

        def receive(_: Address, records: Records) -> None:
            for address in clients:
                parcels[address] = {"maker": maker, "parcel": bytes_of(records, address)}

        there = yield Exchange("keys", {maker: {"clients": ",".join(clients)}}, receive)
        if not there:
            raise PrivacyRefusal(f"{maker} made no key")
        there = yield Exchange("deliver", parcels, _ignored)
        if not there:
            raise PrivacyRefusal("no client took its key")

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Add what comes in, and have the sum opened once."""
        require_contributors(cohort, spec)
        scheme = self.scheme(spec)
        adder, tags = scheme.adder(), dict[Address, bytes]()
        opener = KEYHOLDER
        if not self.roles:  # whoever is to open must be known before anybody masks, and had better be there
            cohort = yield Exchange("elect", {address: {} for address in cohort}, _ignored)
            require_contributors(cohort, spec)
            opener = cohort[0]

        def collect(address: Address, records: Records) -> None:
            message, tag = bytes_of(records, "message"), bytes_of(records, "tag") + bytes_of(records, "salt")
            if len(tag) != TAG_BYTES - DIGEST_BYTES:
                raise MalformedContribution(f"tag and salt have {TAG_BYTES - DIGEST_BYTES} bytes, got {len(tag)}")
            adder.add(message)
            tags[address] = hashlib.sha256(message).digest() + tag

        there = yield Exchange("collect", {address: {"opener": opener} for address in cohort}, collect, collect=True)
        require_contributors(there, spec)
        opened: list[Records] = []
        request: Records = {
            "sum": adder.message(),
            "contributors": ",".join(there),
            "tags": b"".join(tags[address] for address in there),
        }

        def receive(_: Address, records: Records) -> None:
            vector = records.get("opened")
            opened.append({"opened": spec.check_sum(vector)})

        yield Exchange("open", {opener: request}, receive)
        if not opened:
            raise PrivacyRefusal(f"{opener} did not open the sum")
        return spec.total(opened[0]["opened"], there)  # type: ignore[arg-type]

    # ---- everyone else's

    def respond(self, stage: str, inbound: Records, me: Party, contribution: Contribution) -> Records:
        """Contribute, open, make keys, or take them."""
        own = me.own
        if stage == "collect":
            return self._contribute(inbound, me, own, contribution)
        if stage == "open":
            return self._open(inbound, me, own)
        if stage == "elect" and not self.roles:
            return {}
        parameters = self.scheme(me.spec).parameters
        if stage == "keys" and parameters is not None:
            return self._make_keys(inbound, me, own, parameters)
        if stage == "deliver" and parameters is not None:
            return self._take_key(inbound, me, own)
        raise unknown_stage(stage)

    def _contribute(self, inbound: Records, me: Party, own: Credentials, contribution: Contribution) -> Records:
        opener = str(inbound.get("opener"))
        if self.roles and opener != KEYHOLDER:
            raise ProtocolError(f"{opener} is not who opens")
        if not self.roles and me.memory.setdefault("opener", opener) != opener:
            raise ProtocolError(f"{opener} is another opener in the same attempt")
        vector_D = me.spec.check(contribution())
        scheme, salt = self.scheme(me.spec), me.randomness.key()  # asked twice in one attempt, it masks differently
        key = _mask_key(me, own, me.address, opener, salt)
        mask = scheme.draw_mask(_mask_seed(key))
        message = scheme.encrypt(vector_D, self._encryption_key(scheme, own), mask)
        return {"message": message, "tag": mac(key, [hashlib.sha256(message).digest()]), "salt": salt}

    def _encryption_key(self, scheme: Scheme, own: Credentials) -> bytes:
        if scheme.parameters is None:
            return b""
        key = own.store.get(PUBLIC if self.roles else SECRET)
        if key is None:
            raise PrivacyRefusal("this client has no key to encrypt with: it missed the set-up")
        return key

    def _open(self, inbound: Records, me: Party, own: Credentials) -> Records:
        if self.roles and me.address != KEYHOLDER:
            raise ProtocolError(f"{me.address} opens nothing")
        if not own.store.claim(f"opened-{me.run}-{me.round}-{me.attempt}"):
            raise PrivacyRefusal(f"round {me.round} was opened before, in this attempt")
        contributors = str(inbound.get("contributors")).split(",")
        if len(set(contributors)) < len(contributors):
            raise ProtocolError("a contributor is named twice")
        require_contributors(contributors, me.spec)
        if len(contributors) > me.spec.cohort_size:  # their sum could wrap
            raise ProtocolError(f"{len(contributors)} contributors are more than a cohort of {me.spec.cohort_size}")
        keys = self._authenticated(contributors, bytes_of(inbound, "tags"), me, own)
        scheme = self.scheme(me.spec)
        masks = (scheme.draw_mask(_mask_seed(key)) for key in keys)  # drawn one by one: each is as long as a message
        secret = own.store.get(SECRET) or b""
        opened = scheme.open(bytes_of(inbound, "sum"), secret, len(keys), sum_of_masks(scheme, masks))
        return {"opened": opened}

    def _authenticated(self, contributors: Sequence[Address], tags: bytes, me: Party, own: Credentials) -> list[bytes]:
        """The key of each contributor, whose tag it explains."""
        if len(tags) != TAG_BYTES * len(contributors):
            raise MalformedContribution(f"{len(contributors)} contributors have {TAG_BYTES} bytes of tags each")
        keys = []
        for index, address in enumerate(contributors):
            if not address.startswith("client/"):
                raise ProtocolError(f"{address} contributes nothing")
            digest, tag, salt = (tags[TAG_BYTES * index + DIGEST_BYTES * part :][:DIGEST_BYTES] for part in range(3))
            keys.append(_mask_key(me, own, address, me.address, salt))
            check_mac(keys[-1], [digest], tag, address)
        return keys

    def _make_keys(self, inbound: Records, me: Party, own: Credentials, parameters: HeParameters) -> Records:
        """A key pair, once; what each client needs of it, sealed to that client."""
        if self.roles and me.address != KEYHOLDER:
            raise ProtocolError(f"{me.address} makes no keys")
        if own.store.get(SECRET) is None:
            keys = generate_keys(parameters)
            own.store.put(PUBLIC, keys.public)
            own.store.put(SECRET, keys.secret)
        parcel = own.store.get(PUBLIC if self.roles else SECRET)
        assert parcel is not None
        clients = str(inbound.get("clients")).split(",")
        sealed = {
            client: seal(own.identity, own.roster, me.header("key", me.address, client), parcel, me.randomness)
            for client in clients
        }
        return dict(sealed)

    def _take_key(self, inbound: Records, me: Party, own: Credentials) -> Records:
        maker = str(inbound.get("maker"))
        if self.roles and maker != KEYHOLDER:
            raise ProtocolError(f"{maker} makes no keys")
        header = me.header("key", maker, me.address)
        parcel = open_box(own.identity, own.roster, header, inbound.get("parcel"))
        own.store.put(PUBLIC if self.roles else SECRET, parcel)
        return {}


class CkksSum(OpenedSum):
    """Approximate sums of reals (Cheon et al. 2017). `parameters` names a set, or gives its numbers."""

    name = "ckks"

    def __init__(
        self, keys: str = "keyholder", bound: float = 1.0, parameters: str | dict[str, object] = "lean"
    ) -> None:
        super().__init__(keys, bound)
        self._parameters = _parameters(parameters, "ckks", symmetric=not self.roles)

    def scheme(self, spec: VectorSpec) -> Scheme:
        """CKKS at the scale that the cohort allows."""
        return ckks_scheme(spec, self._parameters, symmetric=not self.roles)


class BfvSum(OpenedSum):
    """Exact sums of fixed-point values (Brakerski 2012; Fan and Vercauteren 2012)."""

    name = "bfv"
    exact = True

    def __init__(
        self,
        keys: str = "keyholder",
        bound: float = 1.0,
        value_bits: int = 16,
        rounds: int = 1,
        parameters: str | dict[str, object] = "lean",
    ) -> None:
        super().__init__(keys, bound)
        self._value_bits, self._rounds = value_bits, rounds
        self._parameters = _parameters(parameters, "bfv", symmetric=not self.roles)

    def scheme(self, spec: VectorSpec) -> Scheme:
        """BFV with the plain modulus that packs most values."""
        return bfv_scheme(spec, self._parameters, not self.roles, self._value_bits, self._rounds)


class PadSum(OpenedSum):
    """Exact sums of fixed-point values under one-time masks alone: what encryption is to be compared with."""

    name = "pad"
    exact = True

    def __init__(self, keys: str = "keyholder", bound: float = 1.0, value_bits: int = 16) -> None:
        super().__init__(keys, bound)
        self._value_bits = value_bits

    def scheme(self, spec: VectorSpec) -> Scheme:
        """Masks modulo the power of two that holds a sum."""
        return pad_scheme(spec, self._value_bits)


def _parameters(given: str | dict[str, object], scheme: str, symmetric: bool) -> HeParameters:
    if isinstance(given, str):
        return named(given, scheme, symmetric)  # type: ignore[arg-type]
    try:
        values: dict[str, object] = {**given}
        values["coeff_modulus_bits"] = tuple(values["coeff_modulus_bits"])  # type: ignore[arg-type]
        return HeParameters(scheme, **values)  # type: ignore[arg-type]
    except (TypeError, KeyError, AttributeError) as error:
        fields = "poly_modulus_degree, coeff_modulus_bits, scale_bits, plain_modulus_bits, dense"
        raise ConfigError.of("secure_sum.parameters", given, f"takes {fields} ({error})") from None


def _mask_key(me: Party, own: Credentials, client: Address, opener: Address, salt: bytes) -> bytes:
    """k_i, the same at both ends."""
    peer = opener if me.address == client else client
    return own.identity.shared(own.roster[peer], me.header("mask", client, opener), salt)


def _mask_seed(key: bytes) -> bytes:
    """What the mask expands from, apart from the key that authenticates."""
    return mac(key, [b"mask"])


def _ignored(_address: Address, _records: Records) -> None:
    """Whoever answers is there."""
