"""Damaged messages: refused, or caught when the sum is opened, or (in BFV) harmless. Never a crash, never garbage."""

from collections import Counter

import numpy as np
import pytest

from privacy.errors import MalformedContribution
from privacy.secure_sums.he.ciphers import CiphertextSum
from tests.privacy.secure_sums.he.setups import Setup, bfv, ckks, generator, integers, reals, uploads

LENGTH = 300


def mutate(message: bytes, draw: np.random.Generator) -> bytes:
    damaged = bytearray(message)
    kind = draw.integers(7)
    start, end = sorted(draw.integers(0, len(message), 2).tolist())
    if kind == 0:
        damaged[start] ^= 1 << int(draw.integers(8))
    elif kind == 1:
        del damaged[start:]
    elif kind == 2:
        damaged[start:end] = draw.bytes(end - start)
    elif kind == 3:
        damaged[start:end] = bytes(end - start)
    elif kind == 4:
        damaged[start:start] = draw.bytes(int(draw.integers(1, 64)))
    elif kind == 5:
        damaged[:200] = draw.bytes(200)
    else:
        at = int(draw.integers(min(120, len(message))))
        damaged[at] = (damaged[at] + int(draw.integers(1, 256))) % 256
    return bytes(damaged)


def fate(setup: Setup, honest: bytes, damaged: bytes, expected: np.ndarray, mask: np.ndarray) -> str:
    total = CiphertextSum(setup.scheme.parameters, setup.scheme.ciphertexts(LENGTH))
    total.add(honest)
    try:
        total.add(damaged)
    except MalformedContribution:
        return "refused"
    try:
        found = setup.scheme.open(total.message(), setup.decryption, 2, LENGTH, mask)
    except MalformedContribution:
        return "caught"
    tolerance = 0 if setup.scheme.parameters.scheme == "bfv" else setup.scheme.tolerance(2)
    assert np.abs(found.astype(np.float64) - expected.astype(np.float64)).max() <= tolerance
    return "harmless"


def fates(setup: Setup, cases: int) -> Counter[str]:
    vectors = reals(2, LENGTH) if setup.scheme.parameters.scheme == "ckks" else integers(2, LENGTH, 16)
    (honest, message), mask = uploads(setup, vectors, masked=True)
    draw = generator("fuzz", str(setup.scheme))
    return Counter(fate(setup, honest, mutate(message, draw), sum(vectors), mask) for _ in range(cases))


SETUPS = [ckks(), ckks("lean", False), bfv(), bfv(False)]


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_two_thousand_damaged_messages(setup):
    seen = fates(setup, 500)
    assert seen["refused"] > 150
    assert seen["caught"] > 100


@pytest.mark.parametrize("symmetric", [True, False])
def test_damaged_files_of_seal(symmetric):
    """Messages of the published sets, which SEAL compresses."""
    seen = fates(ckks("tutorial", symmetric), 500)
    assert seen["refused"] > 150
