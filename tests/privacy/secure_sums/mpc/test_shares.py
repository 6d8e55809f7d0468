"""Shares in a ring: their sum, values too large for any ring, and the knowledge of holders of all shares but one."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from privacy.errors import ConfigError, MalformedContribution
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from privacy.sealing import uniform
from privacy.secure_sums.mpc.shares import ShareRing
from privacy.secure_sums.vectors import Segment, VectorSpec
from privacy.testing.harness import residue_spec, spec_of

KEY = "secure_sum"
PARTIES = 3


def ring_of(bits: int, length: int) -> ShareRing:
    """The ring of this many bits, for residues of as many bits; `length` counts the weight."""
    return ShareRing(residue_spec(length - 1, 2, bits - 2), 0, bits)


@given(st.data(), st.sampled_from([8, 16, 32, 64]), st.integers(2, 5))
def test_shares_add_up_to_the_values(data, bits, parties):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=2, max_size=9))
    whole = data.draw(st.integers(0, parties - 1))
    ring = ring_of(bits, len(values))
    payloads = ring.split(np.array(values, ring.dtype), parties, whole, OsRandomness())
    expanded = [
        np.frombuffer(payload, ring.dtype) if party == whole else uniform(payload, len(values), 2**bits)
        for party, payload in enumerate(payloads)
    ]
    assert [sum(map(int, column)) % 2**bits for column in zip(*expanded, strict=True)] == values


@pytest.mark.parametrize("length", [2, 1000, 300_000])  # the last takes several blocks of the key stream
def test_parties_add_what_was_split(length):
    ring = ring_of(64, length)
    values_ND = np.random.default_rng(5).integers(0, 2**64, (2, length), np.uint64)
    sums_PD = np.zeros((PARTIES, length), np.uint64)
    for client, values_D in enumerate(values_ND):
        for party, payload in enumerate(ring.split(values_D, PARTIES, client, OsRandomness())):
            ring.add_share(sums_PD[party], payload, whole=party == client)
    assert np.array_equal(np.add.reduce(sums_PD), np.add.reduce(values_ND))
    assert len({row.tobytes() for row in sums_PD}) == PARTIES


def test_splitting_leaves_the_values_alone():
    values_D = np.arange(5, dtype=np.uint64)
    ring_of(64, 5).split(values_D, PARTIES, 0, OsRandomness())
    assert values_D.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("payload", [b"", bytes(31), bytes(33), bytes(8)])
@pytest.mark.parametrize("whole", [True, False])
def test_a_share_of_another_length_is_refused(payload, whole):
    ring = ring_of(64, 4)
    sum_D = np.zeros(4, np.uint64)
    with pytest.raises(MalformedContribution, match=r"a share must have 32 bytes, got \d+"):
        ring.add_share(sum_D, payload, whole)
    assert not sum_D.any()


# ---- the ring


@given(st.integers(1, 10**6), st.floats(1e-6, 1e9), st.integers(1, 52))
def test_the_ring_is_the_least_that_no_sum_wraps(cohort, bound, fractional_bits):
    spec = VectorSpec((Segment("update", 3, bound), Segment("weight", 1, 1.0)), cohort)
    largest = round(Fraction(max(bound, 1.0)) * 2**fractional_bits) + 1

    def holds(bits: int) -> bool:
        return cohort * largest < 2 ** (bits - 1)

    if not holds(64):
        with pytest.raises(
            ConfigError, match=rf"secure_sum.fractional_bits={fractional_bits}: a sum of {cohort} takes"
        ):
            ShareRing.of(spec, fractional_bits, KEY)
        return
    bits = ShareRing.of(spec, fractional_bits, KEY).bits
    assert holds(bits)
    assert bits == 8 or not holds(bits // 2)


@pytest.mark.parametrize(("modulus_bits", "bits"), [(1, 8), (8, 8), (9, 16), (31, 32), (33, 64), (62, 64)])
def test_residues_take_the_least_ring_that_holds_one(modulus_bits, bits):
    assert ShareRing.of(residue_spec(3, 1000, modulus_bits), 16, KEY).bits == bits


@pytest.mark.parametrize(("cohort", "fractional_bits", "bits"), [(7, 1, 8), (1000, 2, 16), (10, 16, 32), (10, 40, 64)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_cohort_at_its_bound_does_not_wrap(cohort, fractional_bits, bits, sign):
    spec = spec_of(3, cohort)
    ring = ShareRing.of(spec, fractional_bits, KEY)
    assert ring.bits == bits
    vector_D = np.array([4.0, -4.0, 4.0, 1.0], np.float32) * np.float32(sign)
    sum_D = np.zeros(4, ring.dtype)
    for _ in range(cohort):
        sum_D += ring.encode(vector_D)
    assert ring.decode(sum_D).tolist() == [cohort * float(value) for value in vector_D]


@given(st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=6), st.integers(1, 52))
def test_a_value_comes_back_to_within_the_tolerance(values, fractional_bits):
    ring = ShareRing.of(spec_of(len(values) - 1, 2), fractional_bits, KEY)
    decoded = ring.decode(ring.encode(np.array(values, np.float32)))
    assert decoded.dtype == np.float64
    for value, back in zip(values, decoded, strict=True):
        assert abs(Fraction(float(back)) - Fraction(float(np.float32(value)))) <= Fraction(ring.tolerance)
        assert Fraction(float(back)) * 2**fractional_bits % 1 == 0


@pytest.mark.parametrize(
    ("spec", "fractional_bits", "message"),
    [
        (spec_of(3, 2), 0, r"fractional_bits=0: must be from 1 to 52"),
        (spec_of(3, 2), 53, r"fractional_bits=53: must be from 1 to 52"),
        (VectorSpec((Segment("update", 3), Segment("weight", 1, 1.0)), 2), 16, r"bound=None: the update needs a bound"),
        (spec_of(3, 2**12), 52, r"fractional_bits=52: a sum of 4096 takes 68 bits, 64 at most; lower it or"),
    ],
)
def test_what_no_ring_holds_is_refused(spec, fractional_bits, message):
    with pytest.raises(ConfigError, match=message):
        ShareRing.of(spec, fractional_bits, KEY)


# ---- knowledge of all parties but one


class Listed(Randomness):
    """A source that gives the keys of a list."""

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = iter(keys)

    def key(self) -> bytes:
        return next(self._keys)


def keys_of(name: str) -> Iterator[bytes]:
    source = SeededRandomness(name)
    while True:
        yield source.key()


def stream_of(key: bytes, length: int) -> bytes:
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length))


def another_key(key: bytes, difference: list[int]) -> bytes:
    """A key with the stream of another key plus a difference modulo 256."""
    wanted = bytes((a + b) % 256 for a, b in zip(stream_of(key, len(difference)), difference, strict=True))
    return next(found for found in keys_of(key.hex()) if stream_of(found, len(wanted)) == wanted)


def view(vectors: list[list[int]], wholes: tuple[int, ...], honest: int, randomness: list[list[bytes]]) -> list[bytes]:
    """The view of the server and all parties but one: their shares, the honest party's reveal, all lengths."""
    ring = ring_of(8, len(vectors[0]))
    seen = []
    revealed_D = np.zeros(len(vectors[0]), np.uint8)
    for vector, whole, keys in zip(vectors, wholes, randomness, strict=True):
        payloads = ring.split(np.array(vector, np.uint8), PARTIES, whole, Listed(keys))
        seen += [p if party != honest else bytes(len(p)) for party, p in enumerate(payloads)]
        ring.add_share(revealed_D, payloads[honest], whole == honest)
    return [*seen, revealed_D.tobytes()]


def assert_alike(inputs: list[list[int]], moved: list[int], wholes: tuple[int, ...], honest: int) -> None:
    """Assert that moving a difference from the second client to the first is invisible: randomness explains either."""
    others = [
        [(x + sign * d) % 256 for x, d in zip(v, moved, strict=True)] for v, sign in zip(inputs, (1, -1), strict=True)
    ]
    drawn = keys_of("drawn")
    randomness = [[next(drawn) for _ in range(PARTIES)] for _ in inputs]
    explained = [list(keys) for keys in randomness]
    for keys, whole, sign in zip(explained, wholes, (1, -1), strict=True):
        if whole != honest:
            keys[honest] = another_key(keys[honest], [sign * d for d in moved])
    before = view(inputs, wholes, honest, randomness)
    assert before == view(others, wholes, honest, explained)
    # with unchanged keys of the honest party, the change shows at the parties that hold vectors
    assert (before == view(others, wholes, honest, randomness)) is (set(wholes) == {honest})


@pytest.mark.parametrize("honest", range(PARTIES))
@given(
    st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=1), min_size=2, max_size=2),
    st.integers(1, 255),
    st.tuples(*[st.integers(0, PARTIES - 1)] * 2),
)
def test_two_inputs_of_one_sum_have_views_that_are_the_same_byte_for_byte(honest, inputs, moved, wholes):
    """In the ring of 256 a key can be found for any stream of one value: the proof is carried out, not estimated."""
    assert_alike(inputs, [moved], wholes, honest)


def test_views_are_the_same_for_two_values_as_well():
    assert_alike([[0, 1], [200, 1]], [55, 254], (1, 2), 0)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("value", [0, 1, 2**31])
def test_shares_of_a_constant_vector_look_uniform_alone_and_in_pairs(bits, value):
    """A smoke test at full size: the counts of bytes are no further off than uniform ones are once in 10^9."""
    length = 100_000
    ring = ring_of(bits, length)
    payloads = ring.split(np.full(length, value, ring.dtype), PARTIES, 2, OsRandomness())
    shares_PD = np.zeros((PARTIES, length), ring.dtype)
    for party, payload in enumerate(payloads):
        ring.add_share(shares_PD[party], payload, whole=party == 2)
    assert (np.add.reduce(shares_PD, dtype=ring.dtype) == value).all()
    limit = chi2.ppf(1 - 1e-9, 255)
    for seen_D in (*shares_PD, shares_PD[0] + shares_PD[1], shares_PD[1] + shares_PD[2], shares_PD[0] - shares_PD[2]):
        counts = np.bincount(np.frombuffer(seen_D.tobytes(), np.uint8), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < limit
