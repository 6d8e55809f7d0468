import ast
import hmac
import operator
import struct
from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.stats import chisquare

from privacy.errors import ConfigError
from privacy.randomness import OsRandomness
from privacy.secure_sums.mpc.crypten import streams as crypten_streams
from privacy.secure_sums.mpc.crypten.compat import ArithmeticSharedTensor, BinarySharedTensor, crypten
from privacy.secure_sums.mpc.crypten.dealer import Dealer
from privacy.secure_sums.mpc.crypten.streams import Stream, draw_from_streams, install, link
from tests.privacy.secure_sums.mpc.committee import pair_keys

NONCES = bytes(range(96))
SIZE = (3, 5)

# Calls of generators of torch or of another library, by file of CrypTen, with the reason why they do no harm.
KNOWN = {
    "__init__.py": 5,  # generators and seeds of `crypten.init`, which is not called: streams stand in their place
    "common/rng.py": 2,  # the two functions that are replaced
    "communicator/distributed_communicator.py": 1,  # the name of a file where no rendezvous is given
    "gradients.py": 2,  # dropout, from a generator that is not there
    "mpc/provider/ttp_provider.py": 5,  # generators and seeds of the dealer, which streams replace
    "nn/privacy/dp_split.py": 1,  # noise of a protocol that is not used
}
LIBRARIES = {"torch", "numpy", "np", "random", "os", "secrets"}
DRAWS = {"Generator", "rand", "randn", "randint", "randperm", "normal", "bernoulli", "random", "urandom", "choice"}
IN_PLACE = {"uniform_", "normal_", "bernoulli_", "random_", "exponential_", "geometric_"}


@pytest.fixture(autouse=True)
def _crypten_as_it_was(monkeypatch):
    """Restore CrypTen's functions and generators after each test."""
    monkeypatch.setattr(crypten, "generators", {})
    for module in crypten_streams.USERS:
        for name in ("generate_random_ring_element", "generate_kbit_random_tensor"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))


# ---- streams


def test_torch_starts_alike_from_seeds_that_collide():
    """Why there are streams at all: when this fails, look again."""
    first, second = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randint(2**60, (9,), generator=first), torch.randint(2**60, (9,), generator=second))


@pytest.mark.parametrize("bit", [0, 31, 32, 63, 64, 128, 255])
def test_keys_that_differ_in_one_bit_give_other_streams(bit):
    first, second = (Stream(key.to_bytes(32, "little")) for key in (5, 5 ^ 1 << bit))
    assert not torch.isin(first.integers((1000,), 64), second.integers((1000,), 64)).any()


def test_a_stream_is_chacha20_under_a_key_for_each_draw():
    key = bytes(range(32))
    stream = Stream(key)
    for draw in (1, 2, 3):
        framed = struct.pack(">Q", 8) + struct.pack("<Q", draw)
        own = Cipher(ChaCha20(hmac.digest(key, framed, "sha256"), bytes(16)), None).encryptor()
        expected = np.frombuffer(own.update(bytes(8 * 15)), "<i8").reshape(SIZE)
        np.testing.assert_array_equal(stream.integers(SIZE, 64).numpy(), expected)


@pytest.mark.parametrize("bits", [1, 2, 7, 16, 63, 64])
def test_draws_are_uniform_over_their_bits(bits):
    drawn = Stream(bytes(32)).integers((40_000,), bits).numpy().view(np.uint64)
    assert int(drawn.max()) < 1 << bits
    for shift in (0, max(0, bits - 4)):
        found = (drawn >> np.uint64(shift)) & np.uint64(min(15, (1 << bits) - 1))
        assert chisquare(np.bincount(found.astype(np.int64), minlength=1 << min(4, bits))).pvalue > 1e-3


def test_links_differ_by_key_session_purpose_and_direction():
    keys = (bytes(32), bytes([1] * 32))
    sessions = (b"a", b"b")
    purposes = ("party 0 to 1", "party 1 to 0", "dealer 0")
    made = [link(k, n, purpose).integers((2,), 64) for k in keys for n in sessions for purpose in purposes]
    assert len({tuple(words.tolist()) for words in made}) == 12


# ---- where CrypTen draws


def zero_shares(parties: int, kind: type, nonces: bytes = NONCES) -> list[np.ndarray]:
    """The zero shares of each party, drawn by CrypTen in turn."""
    shares = []
    for rank in range(parties):
        install(rank, parties, pair_keys(rank, parties), nonces, OsRandomness())
        shares.append(kind.PRZS(torch.Size(SIZE), device=torch.device("cpu")).share.numpy())
    return shares


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize(("kind", "add"), [(ArithmeticSharedTensor, operator.add), (BinarySharedTensor, operator.xor)])
def test_zero_shares_come_to_zero_and_are_none(parties, kind, add):
    shares = zero_shares(parties, kind)
    assert not reduce(add, shares).any()
    assert all(len(np.unique(share)) == 15 for share in shares)


def test_a_new_session_under_the_same_keys_draws_other_zero_shares():
    first, second = (zero_shares(3, ArithmeticSharedTensor, nonces)[0] for nonces in (NONCES, NONCES[::-1]))
    assert not np.isin(first, second).any()


def test_what_is_a_partys_own_comes_from_its_own_randomness():
    drawn = []
    for _ in range(2):
        install(0, 3, pair_keys(0, 3), NONCES, OsRandomness())
        drawn.append(crypten.common.rng.generate_random_ring_element(SIZE).numpy())
    assert not np.isin(*drawn).any()


def test_a_generator_of_torch_is_refused():
    draw_from_streams()
    with pytest.raises(AssertionError, match="another generator"):
        crypten.common.rng.generate_kbit_random_tensor(SIZE, bitlength=3, generator=torch.Generator())


def test_dropout_finds_no_generator():
    install(0, 2, pair_keys(0, 2), NONCES, OsRandomness())
    with pytest.raises(KeyError, match="global"):
        crypten.gradients.AutogradDropout.forward(None, torch.ones(3), 0.5)


@pytest.mark.parametrize("keys", [{}, {1: bytes(32)}, {1: bytes(32), 2: bytes(31)}])
def test_a_missing_key_is_named(keys):
    with pytest.raises(ConfigError, match=r"pair_keys=none for party [12]: needs a key of 32 bytes"):
        install(0, 3, keys, NONCES, OsRandomness())


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_no_use_of_randomness_in_crypten_is_unknown():
    """Another release may draw elsewhere: look at it, and replace that too."""
    root = Path(crypten.__file__).parent
    found: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                library = getattr(node.value, "id", None) in LIBRARIES and node.attr in DRAWS
                found[path.relative_to(root).as_posix()] += library or node.attr in IN_PLACE
    assert {name: count for name, count in found.items() if count} == KNOWN


# ---- the dealer's tuples, each against exact arithmetic over the shares that the parties draw


def streams(parties: int) -> dict[int, Stream]:
    return {rank: link(bytes([rank] * 32), NONCES, f"dealer {rank}") for rank in range(parties)}


def parts(parties: int, *draws: tuple[tuple[int, ...], int]) -> list[list[np.ndarray]]:
    """The successive draws of the parties, by draw."""
    own = streams(parties)
    return [[own[rank].integers(size, bits).numpy() for rank in range(parties)] for size, bits in draws]


@pytest.fixture
def dealer(parties):
    draw_from_streams()
    return Dealer(streams(parties))


several = pytest.mark.parametrize("parties", [2, 3, 5])


@several
@pytest.mark.parametrize(
    ("op", "left", "right"), [("mul", (4,), (4,)), ("mul", (2, 1), (2, 3)), ("matmul", (2, 3), (3, 4))]
)
def test_products_are_those_of_the_shares(parties, dealer, op, left, right):
    first = dealer.additive(torch.Size(left), torch.Size(right), op).numpy()
    a, b, c = parts(parties, (left, 64), (right, 64), (first.shape, 64))
    expected = getattr(np, {"mul": "multiply", "matmul": "matmul"}[op])(sum(a), sum(b))
    np.testing.assert_array_equal(first + sum(c[1:]), expected)


@several
def test_squares_are_those_of_the_shares(parties, dealer):
    first = dealer.square(torch.Size(SIZE)).numpy()
    r, square = parts(parties, (SIZE, 64), (SIZE, 64))
    np.testing.assert_array_equal(first + sum(square[1:]), sum(r) * sum(r))


@several
def test_bit_products_are_those_of_the_shares(parties, dealer):
    first = dealer.binary(torch.Size(SIZE), torch.Size(SIZE)).numpy()
    a, b, c = (parts_of for parts_of in parts(parties, (SIZE, 64), (SIZE, 64), (SIZE, 64)))
    xor = np.bitwise_xor.reduce
    np.testing.assert_array_equal(first ^ xor([np.zeros_like(first), *c[1:]]), xor(a) & xor(b))


@several
def test_bits_are_shared_both_ways(parties, dealer):
    first = dealer.B2A(torch.Size(SIZE)).numpy()
    bits, integers = parts(parties, (SIZE, 1), (SIZE, 64))
    np.testing.assert_array_equal(first + sum(integers[1:]), np.bitwise_xor.reduce(bits))


@several
def test_words_are_shared_both_ways(parties, dealer):
    first = dealer.words(torch.Size(SIZE)).numpy()
    additive, bits = parts(parties, (SIZE, 64), (SIZE, 64))
    np.testing.assert_array_equal(first ^ np.bitwise_xor.reduce([np.zeros_like(first), *bits[1:]]), sum(additive))


@several
def test_wraps_count_how_often_the_shares_overflow(parties, dealer):
    first = dealer.wraps(torch.Size(SIZE)).numpy()
    shares, counts = parts(parties, (SIZE, 64), (SIZE, 64))
    exact = sum(share.astype(object) for share in shares)
    wrapped = sum(shares).astype(object)
    np.testing.assert_array_equal((first + sum(counts[1:])).astype(object), (exact - wrapped) // 2**64)
