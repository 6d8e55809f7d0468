"""A search for secrets in data: whole, in part, and in the forms in which text holds bytes."""

import base64
from collections.abc import Iterator, Mapping

import numpy as np

WINDOW_BYTES = 24  # the size of a piece of a large secret, which may leak in part


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret as raw bytes, in hexadecimal, and in base64 at any offset."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for lead in range(3):
        coded = base64.b64encode(bytes(lead) + secret)
        yield coded[4 if lead else 0 : -4]  # the part that does not depend on neighbouring bytes


def windows(secret: bytes, count: int = 64) -> Iterator[bytes]:
    """Pieces all over a large secret that are too varied to be found by accident."""
    for start in np.linspace(0, len(secret) - WINDOW_BYTES, count).astype(int):
        piece = secret[start : start + WINDOW_BYTES]
        if len(set(piece)) > WINDOW_BYTES // 4:
            yield piece


def leaks(content: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """The secrets that occur in the data."""
    small = {name: list(forms(secret)) for name, secret in secrets.items() if len(secret) <= 64}
    large = {name: list(windows(secret)) for name, secret in secrets.items() if len(secret) > 64}
    assert all(large.values()), "a large secret of which nothing is searched for"
    return {name for name, pieces in (small | large).items() if any(piece in content for piece in pieces)}
