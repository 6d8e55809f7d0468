"""Signed replies. Each is bound to a header, so it is invalid in any other context.

The signature covers the hash of an injective encoding of the records. Each record is encoded as four parts: its name,
its kind, its shape and its bytes, every part after its length, in the order of the names. The signature is a separate
record.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from privacy.addresses import SERVER, Address
from privacy.errors import ConfigError, MalformedContribution
from privacy.sealing import Header, Roster
from privacy.secure_sums.contract import Participant, Records, Value

if TYPE_CHECKING:
    from hashlib import _Hash

SIGNATURE = "signature"  # no protocol has another record of this name
NUMBERS = "biufc"  # the kinds of NumPy types that a protocol's arrays hold


def reply_header(run: str, round_: int, attempt: str, stage: str, sender: Address) -> Header:
    """The header to which a reply to the server is bound."""
    return Header("reply", run, round_, attempt, stage, sender, SERVER)


def signed(records: Records, me: Participant, stage: str) -> Records:
    """The records with the signature of their sender."""
    assert me.credentials is not None
    assert SIGNATURE not in records
    header = reply_header(me.run, me.round, me.attempt, stage, me.address)
    return {**records, SIGNATURE: me.credentials.identity.sign(header, fingerprint(records))}


def verified(records: Records, roster: Roster, header: Header) -> Records:
    """The records without their signature, after a check that the header's sender signed them.

    Raises:
        BadSignature: the signature is missing or invalid, or belongs to other records or another header.
        UnknownSender: the sender is not on the roster.
        MalformedContribution: a record has a type that cannot be signed.
    """
    rest = {name: value for name, value in records.items() if name != SIGNATURE}
    roster.verify(header, fingerprint(rest), records.get(SIGNATURE))
    return rest


def require_everybody(roster: Roster, addresses: Iterable[Address]) -> None:
    """Refuse a roster that lacks one of the addresses that must answer.

    Raises:
        ConfigError: an address is missing; the message names the first one.
    """
    for address in addresses:
        if address not in roster:
            raise ConfigError.of("roster", roster.digest.hex(), f"{address} is not on it; make it again with its keys")


def fingerprint(records: Records) -> bytes:
    """The SHA-256 of the records, 32 bytes; large values are not copied.

    Raises:
        MalformedContribution: a value is an array of objects, text or fields, or has a type that no record has.
    """
    hasher = hashlib.sha256()
    for name, value in sorted(records.items()):
        _feed(hasher, _text(name))
        _feed_value(hasher, name, value)
    return hasher.digest()


def _feed_value(hasher: "_Hash", name: str, value: Value) -> None:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in NUMBERS:
            raise MalformedContribution(f"{name} is an array of {value.dtype}, which nobody signs")
        _feed(hasher, value.dtype.str.encode())
        _feed(hasher, ",".join(map(str, value.shape)).encode())
        _feed(hasher, np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    else:
        kind, content = _scalar(name, value)
        _feed(hasher, kind)
        _feed(hasher, b"")
        _feed(hasher, content)


def _scalar(name: str, value: object) -> tuple[bytes, bytes]:
    if isinstance(value, bytes):
        return b"bytes", value
    if isinstance(value, int):  # True is encoded as the text "True", so it differs from every number
        return b"int", str(value).encode()
    if isinstance(value, float):
        return b"float", struct.pack("<d", value)
    if isinstance(value, str):
        return b"str", _text(value)
    raise MalformedContribution(f"{name} is a {type(value).__name__}, which nobody signs")


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _feed(hasher: "_Hash", part: bytes | memoryview) -> None:
    hasher.update(len(part).to_bytes(8, "big"))
    hasher.update(part)
