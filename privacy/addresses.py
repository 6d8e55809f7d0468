"""Addresses of those who take part in a run: `server`, `client/3`, `party/1`, `keyholder`, `dealer`."""

from privacy.errors import ProtocolError, shown

Address = str  # name of a role
SERVER = "server"
CLIENTS = "client/"  # the prefix of every client's address
PARTIES = "party/"  # the prefix of every computing party's address
KEYHOLDER = "keyholder"
DEALER = "dealer"


def client_address(index: int) -> Address:
    """The address of a client."""
    return f"{CLIENTS}{index}"


def party_address(index: int) -> Address:
    """The address of a computing party."""
    return f"{PARTIES}{index}"


def is_client(address: Address) -> bool:
    """True for the address of a client."""
    return address.startswith(CLIENTS)


def is_party(address: Address) -> bool:
    """True for the address of a computing party."""
    return address.startswith(PARTIES)


def client_index(address: Address) -> int:
    """The index of a client: 3 for `client/3`.

    Raises:
        ProtocolError: the address of somebody else.
    """
    index = address.removeprefix(CLIENTS)
    if not is_client(address) or not index.isdecimal():
        raise ProtocolError(f"{shown(address)} is not a client")
    return int(index)
