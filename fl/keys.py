"""What roles have from set-up, outside the server: their keys, everybody's public ones, and a store of their own.

In a simulation one party plays all roles: a master key in the run's folder stands for everybody's, and each role's
store is a folder beside it. All of it is for its owner alone (mode 0600), and none of it is in a message or checkpoint.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from privacy.errors import RunRefused
from privacy.randomness import KEY_BYTES, OsRandomness
from privacy.sealing import Identity, Roster, mac
from privacy.secure_sum import Address, Credentials, Store
from results.files import replacing, sync

KEYS_VARIABLE = "FEDVEIL_KEYS"  # the folder of a simulation's keys, for the processes that it starts
MASTER = "master.key"

_held: tuple[Address, Credentials] | None = None  # where this process plays one role alone


class FileStore(Store):
    """A file a name, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        """What was put under a name; None if nothing was."""
        path = self._folder / name
        return path.read_bytes() if path.exists() else None

    def put(self, name: str, value: bytes) -> None:
        """Keep a value, atomically."""
        _private_folder(self._folder)
        with replacing(self._folder / name) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(value)

    def claim(self, name: str) -> bool:
        """Whether this name is claimed for the first time ever."""
        _private_folder(self._folder)
        try:
            os.close(os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        sync(self._folder)
        return True


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def set_up(folder: Path) -> None:
    """Make the master key of a simulation, once, and let this process's children know where it is."""
    _private_folder(folder)
    store = FileStore(folder)
    if store.get(MASTER) is None:
        store.put(MASTER, OsRandomness().key())
    os.environ[KEYS_VARIABLE] = str(folder.absolute())


@dataclass(frozen=True)
class Parcel:
    """The credentials of one role, on their way to the process that plays it."""

    address: Address
    identity: bytes = field(repr=False)
    roster: bytes
    store: FileStore


def parcel(address: Address, everybody: tuple[Address, ...]) -> Parcel:
    """What a process gets that plays one role; raises as `credentials` does."""
    own = credentials(address, everybody)
    assert isinstance(own.store, FileStore)
    return Parcel(address, own.identity.to_bytes(), own.roster.to_bytes(), own.store)


def hold(given: Parcel) -> Credentials:
    """Play one role from now on, without knowing where the others' keys are."""
    global _held
    os.environ.pop(KEYS_VARIABLE, None)
    own = Credentials(Identity.from_bytes(given.identity), Roster.from_bytes(given.roster), given.store)
    _held = given.address, own
    return own


def credentials(address: Address, everybody: tuple[Address, ...]) -> Credentials:
    """Those of one role of the simulation that this process belongs to.

    Raises:
        RunRefused: there was no set-up, its key is gone, or this process plays another role.
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
    return Credentials(
        _identity(master, address),
        _roster(master, everybody),
        FileStore(Path(folder, address.replace("/", "-"))),
    )


@lru_cache(maxsize=64)
def _identity(master: bytes, address: Address) -> Identity:
    return Identity(mac(master, [b"signing", address.encode()]), mac(master, [b"exchange", address.encode()]))


@lru_cache(maxsize=2)
def _roster(master: bytes, everybody: tuple[Address, ...]) -> Roster:
    return Roster({address: _identity(master, address).public for address in everybody})
