"""Ciphertexts and keys as bytes, and bytes in and out of SEAL.

SEAL reads and writes files by path, so its files live in anonymous memory (memfd): no name, no disk, gone when closed.
What a peer sent is taken apart here, in Python: exact lengths, a bounded inflation, every residue below its prime. Only
then does SEAL see it. Layouts: SEAL 4 native/src/seal/{serialization,ciphertext,plaintext}.cpp, `save_members`.

Shapes: P polynomials of a ciphertext (2, or 1 beside a seed), K primes, N coefficients.
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

_HEADER = struct.Struct("<HBBBBHQ")  # magic, its own size, SEAL's version (2), compression, reserved, size of it all
_MAGIC = 0xA15E
_PLAIN = 0
_ZSTD = 2
_VERSION = (4, 3)
_CODEC = pa.Codec("zstd", compression_level=3)  # SEAL's level
_BLAKE2XB = b"\x01"


class RawPolynomials(NamedTuple):
    """A ciphertext (or key) outside SEAL. With a seed its second polynomial is what the seed expands to."""

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
    """What SEAL writes for one of its objects."""
    with _memory_file() as (descriptor, path):
        seal_object.save(path)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def load(seal_object: Any, context: Any, file: bytes) -> None:
    """Let SEAL read one of its files, which checks it against the context once more.

    Raises:
        MalformedContribution: SEAL does not take it.
    """
    with _memory_file() as (descriptor, path):
        os.pwrite(descriptor, file, 0)
        try:
            seal_object.load(context, path)
        except (RuntimeError, ValueError) as error:
            raise MalformedContribution(f"SEAL refuses what was received: {error}") from error


def _header(mode: int, body_bytes: int) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, mode, 0, _HEADER.size + body_bytes)


def _inflate(file: bytes, body_bytes: int) -> bytes | None:
    """The body of a compressed SEAL file if it has just that length, and never more memory than that."""
    try:
        body = _CODEC.decompress(memoryview(file)[_HEADER.size :], decompressed_size=body_bytes, asbytes=True)
    except (OSError, ValueError):
        return None
    return bytes(body)


@dataclass(frozen=True)
class SealLayout:
    """How SEAL writes one kind of object: `members`, then residues of P polynomials modulo each of K primes."""

    members: bytes
    polynomials: int
    degree: int
    moduli: tuple[int, ...]

    @property
    def _polynomial_bytes(self) -> int:
        return 8 * len(self.moduli) * self.degree

    def _head(self, polynomials: int) -> bytes:
        """What precedes the residues of so many polynomials."""
        array_bytes = polynomials * self._polynomial_bytes
        return self.members + _header(_PLAIN, 8 + array_bytes) + struct.pack("<Q", array_bytes // 8)

    @cached_property
    def _forms(self) -> tuple[tuple[bytes, int, bytes], ...]:
        """Head, bytes of residues and head of the seed: with a seed, where there can be one, and without."""
        full = (self._head(self.polynomials), self.polynomials * self._polynomial_bytes, b"")
        seeded = (self._head(1), self._polynomial_bytes, _header(_PLAIN, 1 + SEED_BYTES) + _BLAKE2XB)
        return (seeded, full) if self.polynomials == 2 else (full,)

    def _body(self, raw: RawPolynomials) -> bytes:
        head, _, seed_head = self._forms[-1 if raw.seed is None else 0]
        return head + raw.residues_PKN.tobytes() + seed_head + (raw.seed or b"")

    def file(self, raw: RawPolynomials) -> bytes:
        """The object for SEAL to load, not compressed."""
        body = self._body(raw)
        return _header(_PLAIN, len(body)) + body

    def compressed_file(self, raw: RawPolynomials) -> bytes:
        """The object as SEAL itself would save it."""
        body = bytes(_CODEC.compress(self._body(raw), asbytes=True))
        return _header(_ZSTD, len(body)) + body

    @cached_property
    def max_file_bytes(self) -> int:
        """No SEAL file of this object is longer."""
        return _compressed_bound(len(self._head(self.polynomials)) + self.polynomials * self._polynomial_bytes)

    def parse(self, file: bytes) -> RawPolynomials:
        """Take a compressed SEAL file apart.

        Raises:
            MalformedContribution: it is not what SEAL writes for this object, or holds a residue that is none.
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
        raise MalformedContribution("a ciphertext or key of other parameters, or a damaged one")

    def _residues(self, data: bytes) -> Residues:
        return self.check(np.frombuffer(data, "<u8").reshape(-1, len(self.moduli), self.degree))

    def check(self, residues_PKN: Residues) -> Residues:
        """The residues themselves.

        Raises:
            MalformedContribution: one that is not below its prime, or a second polynomial of zeros, under which the
                first would be the plaintext.
        """
        if (residues_PKN.max(axis=(0, 2)) >= np.array(self.moduli, np.uint64)).any():
            raise MalformedContribution("a ciphertext holds a residue that is not below its modulus")
        if len(residues_PKN) == 2 and not residues_PKN[1].any():
            raise MalformedContribution("a ciphertext without its second polynomial encrypts nothing")
        return residues_PKN


def _compressed_bound(body_bytes: int) -> int:
    """No file is longer: zstd adds 1/256 at most, and some bytes for a block."""
    return _HEADER.size + body_bytes + (body_bytes >> 8) + 512


def ciphertext_layout(parms_id: list[int], ntt: bool, degree: int, moduli: tuple[int, ...], scale: float) -> SealLayout:
    """Of a ciphertext of two polynomials, which a public key is too; in CKKS they are in NTT form, in BFV not."""
    correction = 1
    members = struct.pack("<4Q?QQQdQ", *parms_id, ntt, 2, degree, len(moduli), scale, correction)
    return SealLayout(members, 2, degree, moduli)


def plaintext_layout(parms_id: list[int], degree: int, moduli: tuple[int, ...], scale: float) -> SealLayout:
    """Of a plaintext in NTT form, which a secret key is too."""
    return SealLayout(struct.pack("<4QQd", *parms_id, len(moduli) * degree, scale), 1, degree, moduli)


def packed_bits(modulus: int) -> int:
    """Bits that a residue takes. Eight residues start at bits that are multiples of it: all must end within 64."""
    return 60 if modulus.bit_length() == 59 else modulus.bit_length()
