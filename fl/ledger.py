"""The ledger on disk: one line for each attempt at a round, synced before anything of that attempt is sent.

A line holds the round, the attempt and the clients' charges. No line is ever taken back: a round that is run again
after a crash is charged again, because the release of its first attempt cannot be known. Each line ends with a digest
of itself and of the digest before it, so a change to a line, or a missing line between two others, is noticed.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy.accounting.ledger import Ledger
from privacy.errors import RunRefused
from results.files import sync

if TYPE_CHECKING:
    from privacy.accounting.charges import Charge

NAME = "ledger.jsonl"
DIGEST_KEY = b', "digest": "'
DIGEST_DIGITS = 16


class LedgerFile:
    """A ledger whose charges are written to disk before they count in memory."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._digest = b""  # digest of the last line
        self.ledger = Ledger()
        self.rounds: set[int] = set()  # rounds with a charged attempt
        for number, charges in self._read():
            self.rounds.add(number)
            self.ledger.add(charges)

    def _read(self) -> "Iterator[tuple[int, dict[int, list[Charge]]]]":
        """Read the entries. An incomplete last line of a crash is cut off: nothing was sent after it.

        Raises:
            RunRefused: a line is damaged, or one before it is missing, so the charges are unknown.
        """
        if not self._path.exists():
            return
        *whole, torn = self._path.read_bytes().split(b"\n")
        for number, line in enumerate(whole, 1):
            try:
                self._digest = _digest_of(line, self._digest)
                entry = json.loads(line)
                yield int(entry["round"]), _charges_of(entry)
            except (ValueError, TypeError, KeyError, AttributeError):  # a ConfigError is a ValueError
                damaged = f"{self._path} is damaged in line {number}"
                raise RunRefused(f"{damaged}: the charges of this run are unknown") from None
        if torn:
            os.truncate(self._path, self._path.stat().st_size - len(torn))

    def charge(self, number: int, attempt: str, charges: "Mapping[int, Iterable[Charge]]") -> None:
        """Charge clients for an attempt at a round, durably."""
        owed = {client: list(of_client) for client, of_client in charges.items()}
        entry = json.dumps({"round": number, "attempt": attempt, "charges": _grouped(owed)}, sort_keys=True)
        line, digest = _sealed(entry.encode(), self._digest)
        new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self._path.parent)
        self._digest = digest
        self.rounds.add(number)
        self.ledger.add(owed)


def _sealed(entry: bytes, before: bytes) -> tuple[bytes, bytes]:
    """Return the line of an entry, a JSON object, and the digest that becomes the entry's last value."""
    digest = hashlib.sha256(before + entry).hexdigest()[:DIGEST_DIGITS].encode()
    return entry[:-1] + DIGEST_KEY + digest + b'"}', digest


def _digest_of(line: bytes, before: bytes) -> bytes:
    """Return the digest of a line, where the digest of the line before is `before`.

    Raises:
        ValueError: the line ends with another digest.
    """
    sealed, digest = _sealed(line.rpartition(DIGEST_KEY)[0] + b"}", before)
    if sealed != line:
        raise ValueError("the digest does not match")
    return digest


def _grouped(charges: "Mapping[int, list[Charge]]") -> list[dict[str, Any]]:
    """Return each distinct charge once, with the clients that owe it."""
    clients: dict[Charge, list[int]] = defaultdict(list)
    for client, owed in charges.items():
        for charge in owed:
            clients[charge].append(client)
    return [{"charge": charge.to_json(), "clients": owing} for charge, owing in clients.items()]


def _charges_of(line: Mapping[str, Any]) -> "dict[int, list[Charge]]":
    from privacy.accounting.charges import Charge

    charges: dict[int, list[Charge]] = defaultdict(list)
    for entry in line["charges"]:
        charge = Charge.from_json(entry["charge"])
        for client in entry["clients"]:
            charges[client].append(charge)
    return charges
