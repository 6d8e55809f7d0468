"""Distribution of the keys of homomorphic encryption. Stages: keys, deliver.

The maker (the keyholder, or a client) makes a key pair and seals one key of it to each client: the public key, or the
secret key if the clients share it. The server passes the sealed boxes on. A key lasts for the run, in the role's own
store, or, if `rotated`, for one attempt at a round, in the role's memory alone. A key that lasts comes with a second
one, of the linear check (`privacy.secure_sums.he.linear_check`), the same for the maker and all clients.
"""

from collections.abc import Generator, Sequence

from privacy.addresses import KEYHOLDER, Address
from privacy.errors import PrivacyRefusal, ProtocolError, shown
from privacy.randomness import KEY_BYTES
from privacy.sealing import derive, open_box, seal
from privacy.secure_sums.contract import Credentials, Exchange, Participant, Records, bytes_of
from privacy.secure_sums.he.ciphers import Keys, generate_keys, public_key_of
from privacy.secure_sums.he.parameters import HeParameters

PUBLIC = "he.public"
SECRET = "he.secret"
CHECK = "he.check"
STAGES = ("keys", "deliver")


class KeyDelivery:
    """Both halves of the distribution. With `shared` clients get the secret key; with `symmetric` they encrypt with it.

    `rotated` makes a new key for each attempt at a round.
    """

    def __init__(self, shared: bool, symmetric: bool, rotated: bool) -> None:
        assert shared or not symmetric
        self.shared = shared
        self.symmetric = symmetric
        self.rotated = rotated

    def flow(self, maker: Address, clients: Sequence[Address]) -> Generator[Exchange, list[Address], list[Address]]:
        """Run the server's half; return the clients that took their key.

        Raises:
            PrivacyRefusal: the maker made no key.
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
        """Answer a stage of the maker's and the clients' half."""
        if stage == "keys":
            return self._make(inbound, me, own, parameters)
        return self._take(inbound, me, own, parameters)

    def _make(self, inbound: Records, me: Participant, own: Credentials, parameters: HeParameters) -> Records:
        """Make a key pair, once; return the key for each client, sealed to that client."""
        self._check_maker(me.address)
        if self._find(SECRET, me, own) is None:
            self._keep(generate_keys(parameters), me, own)
            if not self.rotated:
                self._put(CHECK, me.randomness.key(), me, own)
        parcel = self._check_key(me, own) + self.key(SECRET if self.shared else PUBLIC, me, own)
        clients = str(inbound.get("clients")).split(",")
        return {
            client: seal(own.identity, own.roster, me.header("key", me.address, client), parcel, me.randomness)
            for client in clients
        }

    def _take(self, inbound: Records, me: Participant, own: Credentials, parameters: HeParameters) -> Records:
        maker = str(inbound.get("maker"))
        self._check_maker(maker)
        parcel = open_box(own.identity, own.roster, me.header("key", maker, me.address), inbound.get("parcel"))
        if maker == me.address:  # the maker has the keys already
            return {}
        if not self.rotated:
            self._put(CHECK, parcel[:KEY_BYTES], me, own)
            parcel = parcel[KEY_BYTES:]
        if not self.shared:
            self._put(PUBLIC, parcel, me, own)
        else:
            public = b"" if self.symmetric else public_key_of(parameters, parcel)
            self._keep(Keys(parcel, public), me, own)
        return {}

    def _check_key(self, me: Participant, own: Credentials) -> bytes:
        return b"" if self.rotated else self.key(CHECK, me, own)

    def attempt_key(self, me: Participant, own: Credentials) -> bytes:
        """Return the key of the linear check in this attempt at this round, which the server does not know.

        Raises:
            PrivacyRefusal: the role has no such key.
        """
        return derive(self.key(CHECK, me, own), me.header("check", "", "").encode())

    def _check_maker(self, maker: Address) -> None:
        if not self.shared and maker != KEYHOLDER:
            raise ProtocolError(f"{shown(maker)} makes no keys")

    def replace(self, parameters: HeParameters, me: Participant, own: Credentials) -> bytes:
        """Replace this role's key pair by a new one; return its secret key."""
        keys = generate_keys(parameters)
        self._keep(keys, me, own)
        return keys.secret

    def encryption_key(self, me: Participant, own: Credentials) -> bytes:
        """Return the key that this role encrypts with.

        Raises:
            PrivacyRefusal: the role has no such key.
        """
        return self.key(SECRET if self.symmetric else PUBLIC, me, own)

    def key(self, name: str, me: Participant, own: Credentials) -> bytes:
        """Return the key of this name of this role.

        Raises:
            PrivacyRefusal: the role has no such key.
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
    """Ignore the records: an answer only shows that the sender is present."""
