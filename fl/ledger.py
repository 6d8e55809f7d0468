"""The ledger on disk: one line for each attempt at a round, synced before anything of that attempt is sent.

A line holds the round, the attempt and the clients' charges. No line is ever taken back: a round that is run again
after a crash is charged again, because the release of its first attempt cannot be known. Each line ends with a digest
of itself and of the digest before it, so a change to a line, or a missing line between two others, is noticed. Lines
that are missing at the end are noticed by whoever kept a `Head` of the ledger: a checkpoint, or a role's store.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
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


Head = tuple[int, str]  # the end of a ledger as it was at some time: the number of its lines, and the last one's digest
EMPTY: Head = (0, "")


class LedgerFile:
    """A ledger whose charges are written to disk before they count in memory.

    `head` is an earlier end of the ledger, which must be there still; later lines are allowed. A ledger that is not
    `durable` survives the end of its process, not that of the machine.

    Raises:
        RunRefused: a line is damaged or missing, so the charges are unknown.
    """

    def __init__(self, folder: Path, head: Head = EMPTY, name: str = NAME, durable: bool = True) -> None:
        self._path = folder / name
        self._durable = durable
        self._forget()
        self.refresh()
        self.require(head)

    def _forget(self) -> None:
        self._size_bytes = 0  # bytes of the lines that are known
        self._digests = [b""]  # digest after each line
        self.ledger = Ledger()
        self.rounds: dict[int, set[int]] = {}  # clients that were charged, by round

    @property
    def head(self) -> Head:
        """The end of the ledger as it is now."""
        return len(self._digests) - 1, self._digests[-1].decode()

    def require(self, head: Head) -> None:
        """Check that the ledger has not lost the lines before an earlier end.

        Raises:
            RunRefused: a line is missing.
        """
        lines, digest = head
        held = len(self._digests) - 1
        if lines <= held and self._digests[lines].decode() == digest:
            return
        there = f"has {held} lines" if held < lines else f"has another line {lines}"
        raise RunRefused(
            f"{self._path} has lost charges: it {there}, and had {lines} when its end was last noted; restore the "
            "file, or start afresh (force=true, or another seed)"
        )

    def refresh(self) -> None:
        """Read the lines that another process has added since; read all, where the file is another one.

        Raises:
            RunRefused: a line is damaged, or one before it is missing.
        """
        size_bytes = self._path.stat().st_size if self._path.exists() else 0
        if size_bytes < self._size_bytes:
            self._forget()
        if size_bytes == self._size_bytes:
            return
        try:
            self._read()
        except RunRefused:
            if not self._size_bytes:
                raise
            self._forget()
            self._read()

    def _read(self) -> None:
        """Read further entries. An incomplete last line of a crash is cut off: nothing was sent after it."""
        with self._path.open("rb") as file:
            file.seek(self._size_bytes)
            *whole, torn = file.read().split(b"\n")
        for line in whole:
            try:
                digest = _digest_of(line, self._digests[-1])
                entry = json.loads(line)
                self._note(int(entry["round"]), _charges_of(entry), line, digest)
            except (ValueError, TypeError, KeyError, AttributeError):  # a ConfigError is a ValueError
                damaged = f"{self._path} is damaged in line {len(self._digests)}"
                raise RunRefused(f"{damaged}: the charges of this run are unknown") from None
        if torn:
            os.truncate(self._path, self._size_bytes)

    def charge(self, number: int, attempt: str, charges: "Mapping[int, Iterable[Charge]]") -> None:
        """Charge clients for an attempt at a round, durably."""
        owed = {client: list(of_client) for client, of_client in charges.items()}
        entry = json.dumps({"round": number, "attempt": attempt, "charges": _grouped(owed)}, sort_keys=True)
        line, digest = _sealed(entry.encode(), self._digests[-1])
        new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        if new and self._durable:
            sync(self._path.parent)
        self._note(number, owed, line, digest)

    def _note(self, number: int, owed: "Mapping[int, list[Charge]]", line: bytes, digest: bytes) -> None:
        self._size_bytes += len(line) + 1
        self._digests.append(digest)
        self.rounds.setdefault(number, set()).update(owed)
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
