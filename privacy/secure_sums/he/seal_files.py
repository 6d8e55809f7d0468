"""Ciphertexts and keys as bytes, and bytes in and out of SEAL.

SEAL reads and writes files by path, so its files live in anonymous memory (memfd): no name, no disk, gone when closed.
A peer's bytes are parsed here, in Python, before SEAL loads them: exact lengths, a bounded inflation, every residue
below its prime. Layouts: SEAL 4 native/src/seal/{serialization,ciphertext,plaintext}.cpp, `save_members`.

Shapes: P polynomials of a ciphertext (2, or 1 with a seed), K primes, N coefficients.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from privacy.errors import MalformedContribution

Residues = NDArray[np.uint64]

SEED_BYTES = 64

_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, SEAL's version (2), compression, reserved, total size
_MAGIC = 0xA15E
_PLAIN = 0
_ZSTD = 2
_VERSION = (4, 3)
_CODEC = pa.Codec("zstd", compression_level=3)  # SEAL's level
_BLAKE2XB = b"\x01"


class RawPolynomials(NamedTuple):
    """A ciphertext (or key) outside SEAL. With a seed, the second polynomial is the expansion of the seed."""

    residues_PKN: Residues
    seed: bytes | None = None


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    descriptor = os.memfd_create("fedveil")
    try:
        yield descriptor, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def save(seal_object: Any) -> bytes:
    """Return SEAL's file of one of its objects."""
    with _memory_file() as (descriptor, path):
        seal_object.save(path)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def load(seal_object: Any, context: Any, file: bytes) -> None:
    """Let SEAL read one of its files; SEAL checks it against the context once more.

    Raises:
        MalformedContribution: SEAL refuses the file.
    """
    with _memory_file() as (descriptor, path):
        os.pwrite(descriptor, file, 0)
        try:
            seal_object.load(context, path)
        except (RuntimeError, ValueError) as error:
            raise MalformedContribution(f"SEAL refuses a received ciphertext or key: {error}") from error


def _header(mode: int, body_bytes: int) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, mode, 0, _HEADER.size + body_bytes)


def _inflate(file: bytes, body_bytes: int) -> bytes | None:
    """Return the body of a compressed SEAL file, or None unless it has exactly `body_bytes` bytes.

    Never takes more memory than that.
    """
    try:
        body = _CODEC.decompress(memoryview(file)[_HEADER.size :], decompressed_size=body_bytes, asbytes=True)
    except (OSError, ValueError):
        return None
    return bytes(body)


@dataclass(frozen=True)
class SealLayout:
    """The layout of SEAL's file of one kind of object: `members`, then residues of P polynomials modulo K primes."""

    members: bytes
    polynomials: int
    degree: int
    moduli: tuple[int, ...]

    @property
    def _polynomial_bytes(self) -> int:
        return 8 * len(self.moduli) * self.degree

    def _head(self, polynomials: int) -> bytes:
        """Return the bytes before the residues of this number of polynomials."""
        array_bytes = polynomials * self._polynomial_bytes
        return self.members + _header(_PLAIN, 8 + array_bytes) + struct.pack("<Q", array_bytes // 8)

    @cached_property
    def _forms(self) -> tuple[tuple[bytes, int, bytes], ...]:
        """Head, bytes of residues and head of the seed, for the seeded form (if any) and for the full form."""
        full = (self._head(self.polynomials), self.polynomials * self._polynomial_bytes, b"")
        seeded = (self._head(1), self._polynomial_bytes, _header(_PLAIN, 1 + SEED_BYTES) + _BLAKE2XB)
        return (seeded, full) if self.polynomials == 2 else (full,)

    def _body(self, raw: RawPolynomials) -> bytes:
        head, _, seed_head = self._forms[-1 if raw.seed is None else 0]
        return head + raw.residues_PKN.tobytes() + seed_head + (raw.seed or b"")

    def file(self, raw: RawPolynomials) -> bytes:
        """Return the object's file for SEAL to load, not compressed."""
        body = self._body(raw)
        return _header(_PLAIN, len(body)) + body

    def compressed_file(self, raw: RawPolynomials) -> bytes:
        """Return the object's file as SEAL itself would save it, compressed."""
        body = bytes(_CODEC.compress(self._body(raw), asbytes=True))
        return _header(_ZSTD, len(body)) + body

    @cached_property
    def max_file_bytes(self) -> int:
        """The largest length of a SEAL file of this object, in bytes."""
        return _compressed_bound(len(self._head(self.polynomials)) + self.polynomials * self._polynomial_bytes)

    def parse(self, file: bytes) -> RawPolynomials:
        """Parse a compressed SEAL file.

        Raises:
            MalformedContribution: the file is not one that SEAL writes for this object, or holds an invalid residue.
        """
        if len(file) > self.max_file_bytes or not file.startswith(_header(_ZSTD, len(file) - _HEADER.size)):
            raise MalformedContribution("not a compressed file of SEAL 4.3, or one cut short")
        for head, residue_bytes, seed_head in self._forms:
            tail_bytes = len(seed_head) + SEED_BYTES if seed_head else 0
            body_bytes = len(head) + residue_bytes + tail_bytes
            body = _inflate(file, body_bytes) if len(file) <= _compressed_bound(body_bytes) else None
            if body is None or not body.startswith(head):
                continue
            tail = body[len(head) + residue_bytes :]
            if tail.startswith(seed_head):
                residues_PKN = self._residues(body[len(head) : len(head) + residue_bytes])
                return RawPolynomials(residues_PKN, tail[len(seed_head) :] if seed_head else None)
        raise MalformedContribution("the ciphertext or key has other parameters, or is damaged")

    def _residues(self, data: bytes) -> Residues:
        return self.check(np.frombuffer(data, "<u8").reshape(-1, len(self.moduli), self.degree))

    def check(self, residues_PKN: Residues) -> Residues:
        """Return the residues after checking them.

        Raises:
            MalformedContribution: a residue is not below its prime, or the second polynomial is zero, which makes the
                first one the plaintext.
        """
        if (residues_PKN.max(axis=(0, 2)) >= np.array(self.moduli, np.uint64)).any():
            raise MalformedContribution("a ciphertext holds a residue that is not below its modulus")
        if len(residues_PKN) == 2 and not residues_PKN[1].any():
            raise MalformedContribution("a ciphertext with a second polynomial of zeros encrypts nothing")
        return residues_PKN


def _compressed_bound(body_bytes: int) -> int:
    """Return the largest length of a compressed file: zstd adds 1/256 at most, and some bytes for a block."""
    return _HEADER.size + body_bytes + (body_bytes >> 8) + 512


def ciphertext_layout(parms_id: list[int], ntt: bool, degree: int, moduli: tuple[int, ...], scale: float) -> SealLayout:
    """Return the layout of a ciphertext or public key: two polynomials, in NTT form in CKKS, not in BFV."""
    correction = 1
    members = struct.pack("<4Q?QQQdQ", *parms_id, ntt, 2, degree, len(moduli), scale, correction)
    return SealLayout(members, 2, degree, moduli)


def plaintext_layout(parms_id: list[int], degree: int, moduli: tuple[int, ...], scale: float) -> SealLayout:
    """Return the layout of a plaintext in NTT form or of a secret key."""
    return SealLayout(struct.pack("<4QQd", *parms_id, len(moduli) * degree, scale), 1, degree, moduli)


def packed_bits(modulus: int) -> int:
    """Return the packed width of a residue, in bits.

    Residues start at multiples of the width. It is one at which each of eight residues ends within 64 bits of the byte
    that it starts in: 60 in place of 59.
    """
    return 60 if modulus.bit_length() == 59 else modulus.bit_length()
