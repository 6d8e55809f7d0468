import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from randomgen import ChaCha
from scipy.stats import chisquare, kstest

from privacy.randomness import KEY_BYTES, OsRandomness, Randomness, SeededRandomness, digest, seed_from

SOURCES = [OsRandomness, lambda: SeededRandomness("test", 1)]
both = pytest.mark.parametrize("source", SOURCES, ids=["os", "seeded"])


@both
def test_keys_never_come_twice(source):
    randomness = source()
    keys = [randomness.key() for _ in range(1000)]
    assert all(len(key) == KEY_BYTES == 32 for key in keys)
    assert len(set(keys)) == 1000


@both
def test_what_a_source_gives_never_comes_twice(source):
    randomness = source()
    assert len({randomness.bytes(16) for _ in range(100)}) == 100
    assert len({randomness.generator().integers(2**63) for _ in range(100)}) == 100


@both
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 100_000])
def test_there_are_as_many_bytes_as_were_asked_for(source, length):
    drawn = source().bytes(length)
    assert type(drawn) is bytes
    assert len(drawn) == length


@both
def test_bytes_are_uniform(source):
    counts = np.bincount(np.frombuffer(source().bytes(256_000), np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


@both
def test_generators_give_the_distributions_that_they_say(source):
    generator = source().generator()
    assert kstest(generator.standard_normal(20_000), "norm").pvalue > 1e-6
    assert chisquare(np.bincount(generator.integers(0, 100, 50_000), minlength=100)).pvalue > 1e-6


def test_a_seed_gives_the_same_again_and_each_label_something_else():
    def draws(*labels: int | str) -> tuple[bytes, bytes, float]:
        randomness = SeededRandomness(*labels)
        return randomness.key(), randomness.bytes(8), randomness.generator().standard_normal()

    assert draws(1, "noise") == draws(1, "noise")
    labels = [(1, "noise"), (2, "noise"), (1, "nois", "e"), ("1", "noise"), ("noise", 1), (1,), ()]
    assert len({draws(*label) for label in labels}) == len(labels)


def test_the_operating_system_gives_each_source_something_else():
    assert OsRandomness().key() != OsRandomness().key()


def keystream(key: bytes, length: int) -> bytes:
    """RFC 8439's block function from OpenSSL, counter and nonce at zero."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length))


class Fixed(Randomness):
    def __init__(self, key: bytes) -> None:
        self._key = key

    def key(self) -> bytes:
        return self._key


def test_the_cipher_is_chacha20():
    """RFC 8439, appendix A.1, test vector 1: the key stream of the zero key."""
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert Fixed(bytes(32)).bytes(32).hex() == expected


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=32, max_size=32))
def test_numpys_generator_runs_on_the_same_stream(key):
    """`randomgen` against OpenSSL: all 256 bits of the key count, and there are 20 rounds."""
    drawn = Fixed(key).generator().bit_generator.random_raw(64)
    assert drawn.astype("<u8").tobytes() == keystream(key, 512)


@pytest.mark.parametrize("bit", [0, 63, 64, 127, 128, 255])
def test_every_bit_of_a_key_counts(bit):
    flipped = (1 << bit).to_bytes(32, "little")
    assert Fixed(flipped).bytes(16) != Fixed(bytes(32)).bytes(16)
    assert Fixed(flipped).generator().integers(2**63) != Fixed(bytes(32)).generator().integers(2**63)


def test_twenty_rounds_are_the_default_of_the_library():
    assert ChaCha(key=1).random_raw() == ChaCha(key=1, rounds=20).random_raw() != ChaCha(key=1, rounds=8).random_raw()


labels = st.lists(st.integers() | st.text(), max_size=4)


@settings(deadline=None)
@given(labels, labels)
def test_labels_are_told_apart(one, other):
    assert (digest(*one) == digest(*other)) == (one == other)
    assert (seed_from(*one) == seed_from(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"), [((1,), ("1",)), (("1", 2), ("12",)), (("a', 'b",), ("a", "b")), ((), ("",))]
)
def test_labels_that_look_alike_are_told_apart(one, other):
    assert digest(*one) != digest(*other)


def test_seeds_are_of_63_bits():
    seeds = [seed_from(1, "train", number) for number in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert len(set(seeds)) == 2000
    assert chisquare(np.bincount(np.array(seeds) % 16, minlength=16)).pvalue > 1e-6


def test_digests_are_the_same_on_every_machine():
    """Pinned: cohorts, orders and initial weights of every stored run hang on them."""
    assert digest(1, "cohort", 2).hex()[:16] == PINNED
    assert seed_from(1, "cohort", 2) == int.from_bytes(bytes.fromhex(PINNED), "little") >> 1


# sha256sum of the text (1, 'cohort', 2)
PINNED = "1a3afe34b1620395"
