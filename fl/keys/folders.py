"""The roles' material from set-up, outside the server: private keys, the roster of public keys, and a store.

In a simulation one party plays all roles: the keys of all roles are derived from a master key in the run's folder, and
each role's store is a folder beside it. In a deployment each role has a folder of its own, with the keys that it made
and the roster, which is the same for all roles (or which came through the server: `fl.keys.relayed`). Only the owner
can read these files (mode 0600), and no message or checkpoint contains their secrets.

`python -m fl.keys make FOLDER ADDRESS` makes a role's keys, `python -m fl.keys roster FILE PUBLIC...` the roster.
"""

import argparse
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from privacy.addresses import SERVER, Address
from privacy.errors import ConfigError, FedveilError, RunRefused
from privacy.randomness import KEY_BYTES, OsRandomness
from privacy.sealing import Identity, PublicKeys, Roster, mac
from privacy.secure_sums.contract import Credentials, Store
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.signed_replies import require_everybody
from results.files import replacing, sync

KEYS_VARIABLE = "FEDVEIL_KEYS"  # the folder of a simulation's keys, for the processes that the simulation starts
LEDGERS_VARIABLE = "FEDVEIL_LEDGERS"  # the folder of its roles' own ledgers, likewise
MASTER = "master.key"
# file names in the folder of a deployment's role
IDENTITY = "identity.key"
ROSTER = "roster.json"
STORES = "runs"
ROLE = re.compile(r"[a-z]+(/(0|[1-9][0-9]*))?")

_held: tuple[Address, Credentials] | None = None  # the role and its keys, where this process plays one role alone
_peers: Peers | None = None  # the other parties, where this process plays a party that has met them


class FileStore(Store):
    """A store that keeps each value in a file of its name, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> bytes | None:
        """Return the value that was put under a name; None if there is none."""
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def put(self, name: str, value: bytes) -> None:
        """Keep a value, atomically."""
        _private_folder(self.folder)
        with replacing(self.folder / name) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(value)

    def add(self, name: str, value: bytes) -> bool:
        """Keep a value unless the name has one; return True where the value was kept. Safe under concurrent calls."""
        fresh = f".{name}.{os.getpid()}.new"
        self.put(fresh, value)
        try:
            os.link(self.folder / fresh, self.folder / name)
        except FileExistsError:
            return False
        finally:
            (self.folder / fresh).unlink()
        sync(self.folder)
        return True

    def claim(self, name: str) -> bool:
        """Claim a name; return True where it was never claimed before."""
        _private_folder(self.folder)
        try:
            os.close(os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        sync(self.folder)
        return True


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


# ---- A simulation: one party plays all roles


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for this process and those that it starts; put the former value back at the end."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def set_up(folder: Path, everybody: tuple[Address, ...]) -> Roster:
    """Make the master key of a simulation, once, and pass its folder to this process's children. Return the roster."""
    _private_folder(folder)
    store = FileStore(folder)
    master = store.get(MASTER)
    if master is None:
        master = OsRandomness().key()
        store.put(MASTER, master)
    os.environ[KEYS_VARIABLE] = str(folder.absolute())
    return _roster(master, everybody)


@dataclass(frozen=True)
class Parcel:
    """The credentials of one role, in the form that is sent to the role's process."""

    address: Address
    identity: bytes = field(repr=False)
    roster: bytes
    store: FileStore


def parcel(address: Address, everybody: tuple[Address, ...]) -> Parcel:
    """Return the parcel for the process that plays one role; raise as `simulated` does."""
    own = simulated(address, everybody)
    assert isinstance(own.store, FileStore)
    return Parcel(address, own.identity.to_bytes(), own.roster.to_bytes(), own.store)


def hold(given: Parcel) -> Credentials:
    """Play one role from now on, and forget the folder of the other roles' keys."""
    global _held
    os.environ.pop(KEYS_VARIABLE, None)
    own = Credentials(Identity.from_bytes(given.identity), Roster.from_bytes(given.roster), given.store)
    _held = given.address, own
    return own


def simulated(address: Address, everybody: tuple[Address, ...]) -> Credentials:
    """Return the credentials of one role, in the simulation to which this process belongs.

    Raises:
        RunRefused: there was no set-up, the master key is missing, or this process plays another role.
    """
    if _held is not None:
        holder, own = _held
        if address != holder:
            raise RunRefused(f"this process has the keys of {holder} alone")
        return own
    folder = os.environ.get(KEYS_VARIABLE)
    master = FileStore(Path(folder)).get(MASTER) if folder else None
    if folder is None or master is None or len(master) != KEY_BYTES:
        raise RunRefused(f"{KEYS_VARIABLE}={folder}: there are no keys of a set-up")
    return Credentials(_identity(master, address), _roster(master, everybody), FileStore(folder_of(folder, address)))


def folder_of(folder: str | Path, address: Address) -> Path:
    """Return a role's own folder, where the folders of all roles are on one machine."""
    return Path(folder, address.replace("/", "-"))


@lru_cache(maxsize=64)
def _identity(master: bytes, address: Address) -> Identity:
    return Identity(mac(master, [b"signing", address.encode()]), mac(master, [b"exchange", address.encode()]))


@lru_cache(maxsize=2)
def _roster(master: bytes, everybody: tuple[Address, ...]) -> Roster:
    return Roster({address: _identity(master, address).public for address in everybody})


# ---- A deployment: each role has a folder of its own


def meet(peers: Peers) -> None:
    """Set the parties that this process's role in a deployment reaches from now on."""
    global _peers
    _peers = peers


def deployed(folder: Path, address: Address, everybody: Iterable[Address], run: str) -> Credentials:
    """Return the credentials of the role that owns `folder`; its store is that of `run`, a configuration's hash.

    Raises:
        ConfigError: there are no keys, other users may read them, or the roster has other keys for this role or lacks
            one of `everybody`.
    """
    identity, roster = _own(folder, address)
    require_everybody(roster, everybody)
    return Credentials(identity, roster, store_of(folder, run), _peers)


def store_of(folder: Path, run: str) -> FileStore:
    """Return the store for one configuration of the role that owns `folder`."""
    _private_folder(folder / STORES)
    return FileStore(folder / STORES / run)


@lru_cache(maxsize=64)
def _own(folder: Path, address: Address) -> tuple[Identity, Roster]:
    identity = own_identity(folder)
    roster = read_roster(folder / ROSTER)
    require_everybody(roster, [address])
    if roster[address] != identity.public:
        raise ConfigError.of("keys", folder, f"its keys are not those of {address} on the roster; make a new roster")
    return identity, roster


def own_identity(folder: Path) -> Identity:
    """Read the private keys in a role's folder.

    Raises:
        ConfigError: there are none, or other users may read them.
    """
    for path in (folder, folder / IDENTITY):
        _require_private(path)
    data = _read("keys", folder / IDENTITY)
    if len(data) != 2 * KEY_BYTES:
        raise ConfigError.of("keys", folder / IDENTITY, f"is damaged: it must hold {2 * KEY_BYTES} bytes")
    return Identity.from_bytes(data)


def read_roster(file: Path) -> Roster:
    """Read the roster in a file.

    Raises:
        ConfigError: the file cannot be read, or holds no roster.
    """
    return _parse("roster", file, _read("roster", file))


def _parse(key: str, file: Path, data: bytes) -> Roster:
    try:
        return Roster.from_bytes(data)
    except ConfigError as error:
        raise ConfigError(f"{key}={file}: {error}") from None


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError.of(key, file, _unreadable(error)) from None


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror}); `python -m fl.keys --help` says how keys and rosters are made"


def _require_private(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError.of("keys", path, _unreadable(error)) from None
    if mode & 0o077:
        raise ConfigError.of("keys", path, f"is open to others (mode {mode:04o}); close it with `chmod go= {path}`")


def make(folder: Path, address: Address) -> Roster:
    """Make a role's keys in a folder of its own; return its public keys, as a roster of one entry.

    Raises:
        ConfigError: the address is not that of a role, or the folder has keys already or is open to other users.
    """
    if not ROLE.fullmatch(address) or address == SERVER:
        raise ConfigError.of("address", address, "must be a role's, such as client/0 or keyholder")
    _private_folder(folder)
    _require_private(folder)
    identity = Identity.generate(OsRandomness())
    if not FileStore(folder).add(IDENTITY, identity.to_bytes()):
        raise ConfigError.of("keys", folder, "has keys already; give each role a folder of its own")
    return Roster({address: identity.public})


def make_all(folder: Path, everybody: Sequence[Address]) -> Roster:
    """Make keys and roster for every role of a deployment on this machine, in subfolders; existing keys are kept."""
    owners = {address: folder_of(folder, address) for address in everybody}
    for address, own in owners.items():
        if not (own / IDENTITY).exists():
            make(own, address)
    roster = Roster({address: own_identity(own).public for address, own in owners.items()})
    for own in owners.values():
        FileStore(own).put(ROSTER, roster.to_bytes())
    return roster


def gather(files: Iterable[Path]) -> Roster:
    """Merge files of public lines into one roster.

    Raises:
        ConfigError: a line is not a public line, or an address occurs twice.
    """
    keys: dict[Address, PublicKeys] = {}
    for file in files:
        for line in _read("public", file).splitlines():
            part = _parse("public", file, line)
            for address in part:
                if address in keys:
                    raise ConfigError.of("public", file, f"{address} occurs twice")
                keys[address] = part[address]
    return Roster(keys)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the keys of a deployment: each role makes its own, and a roster lists the public keys of all roles."""
    parser = argparse.ArgumentParser(prog="python -m fl.keys", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make", help="make a role's keys in its own folder, and print its public line")
    one.add_argument("folder", type=Path)
    one.add_argument("address", help="the role's address, such as client/0 or keyholder")
    listing = commands.add_parser("roster", help="make a roster from files of public lines, and print its SHA-256")
    listing.add_argument("file", type=Path, help=f"file to write; each role keeps a copy in its folder, as {ROSTER}")
    listing.add_argument("public", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    try:
        print(_make(arguments) if arguments.command == "make" else _list(arguments))
    except (FedveilError, OSError) as error:
        print(f"fedveil: error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(arguments: argparse.Namespace) -> str:
    return make(arguments.folder, arguments.address).to_bytes().decode()


def _list(arguments: argparse.Namespace) -> str:
    roster = gather(arguments.public)
    with replacing(arguments.file) as temporary:
        temporary.write_bytes(roster.to_bytes())
    return f"{roster.digest.hex()}  {arguments.file}"
