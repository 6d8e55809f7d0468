"""How the keys of homomorphic encryption get to where they belong. Stages: keys, deliver.

The maker (the keyholder, or a client) makes a key pair and seals to each client what it needs of it: the public key, or
the secret one where the clients share it. The server passes sealed boxes on. A key lasts for the run, in the role's own
store, or, `rotated`, for one attempt at a round, in its memory alone.
"""

from collections.abc import Generator, Sequence

from privacy.addresses import KEYHOLDER, Address
from privacy.errors import PrivacyRefusal, ProtocolError, shown
from privacy.sealing import open_box, seal
from privacy.secure_sums.contract import Credentials, Exchange, Participant, Records, bytes_of
from privacy.secure_sums.he.ciphers import Keys, generate_keys, public_key_of
from privacy.secure_sums.he.parameters import HeParameters

PUBLIC = "he.public"
SECRET = "he.secret"
STAGES = ("keys", "deliver")


class KeyDelivery:
    """Both halves. `shared` says that clients get the secret key, `symmetric` that they encrypt under it."""

    def __init__(self, shared: bool, symmetric: bool, rotated: bool) -> None:
        assert shared or not symmetric
        self.shared = shared
        self.symmetric = symmetric
        self.rotated = rotated

    def flow(self, maker: Address, clients: Sequence[Address]) -> Generator[Exchange, list[Address], list[Address]]:
        """The server's half; gives the clients that took their key.

        Raises:
            PrivacyRefusal: the maker made none.
        """
        parcels: dict[Address, Records] = {}

        def receive(_: Address, records: Records) -> None:
            for address in clients:
                parcels[address] = {"maker": maker, "parcel": bytes_of(records, address)}

        there = yield Exchange("keys", {maker: {"clients": ",".join(clients)}}, receive)
        if not there:
            raise PrivacyRefusal(f"{maker} made no key")
        return (yield Exchange("deliver", parcels, ignored))

    def respond(
        self, stage: str, inbound: Records, me: Participant, own: Credentials, parameters: HeParameters
    ) -> Records:
        """Everyone else's half."""
        if stage == "keys":
            return self._make(inbound, me, own, parameters)
        return self._take(inbound, me, own, parameters)

    def _make(self, inbound: Records, me: Participant, own: Credentials, parameters: HeParameters) -> Records:
        """A key pair, once; what each client needs of it, sealed to that client."""
        self._check_maker(me.address)
        if self._find(SECRET, me, own) is None:
            self._keep(generate_keys(parameters), me, own)
        parcel = self.key(SECRET if self.shared else PUBLIC, me, own)
        clients = str(inbound.get("clients")).split(",")
        return {
            client: seal(own.identity, own.roster, me.header("key", me.address, client), parcel, me.randomness)
            for client in clients
        }

    def _take(self, inbound: Records, me: Participant, own: Credentials, parameters: HeParameters) -> Records:
        maker = str(inbound.get("maker"))
        self._check_maker(maker)
        parcel = open_box(own.identity, own.roster, me.header("key", maker, me.address), inbound.get("parcel"))
        if not self.shared:
            self._put(PUBLIC, parcel, me, own)
        elif maker != me.address:  # who made the keys has them
            public = b"" if self.symmetric else public_key_of(parameters, parcel)
            self._keep(Keys(parcel, public), me, own)
        return {}

    def _check_maker(self, maker: Address) -> None:
        if not self.shared and maker != KEYHOLDER:
            raise ProtocolError(f"{shown(maker)} makes no keys")

    def replace(self, parameters: HeParameters, me: Participant, own: Credentials) -> bytes:
        """Take another pair, made here; its secret key."""
        keys = generate_keys(parameters)
        self._keep(keys, me, own)
        return keys.secret

    def encryption_key(self, me: Participant, own: Credentials) -> bytes:
        """What this role encrypts with.

        Raises:
            PrivacyRefusal: it has none.
        """
        return self.key(SECRET if self.symmetric else PUBLIC, me, own)

    def key(self, name: str, me: Participant, own: Credentials) -> bytes:
        """A key of this role.

        Raises:
            PrivacyRefusal: it has none.
        """
        key = self._find(name, me, own)
        if key is None:
            raise PrivacyRefusal(f"{me.address} has no key: it missed the set-up")
        return key

    def _find(self, name: str, me: Participant, own: Credentials) -> bytes | None:
        if not self.rotated:
            return own.store.get(name)
        key = me.memory.get(name)
        return key if isinstance(key, bytes) else None

    def _keep(self, keys: Keys, me: Participant, own: Credentials) -> None:
        self._put(PUBLIC, keys.public, me, own)
        self._put(SECRET, keys.secret, me, own)

    def _put(self, name: str, key: bytes, me: Participant, own: Credentials) -> None:
        if self.rotated:
            me.memory[name] = key
        else:
            own.store.put(name, key)


def ignored(_address: Address, _records: Records) -> None:
    """Whoever answers is there."""
