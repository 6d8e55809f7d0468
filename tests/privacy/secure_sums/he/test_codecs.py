"""Packed integers, sums modulo a power of two, sizes of uploads, and residues through every exact sum."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import MalformedContribution
from privacy.secure_sums.he.ciphers import generate_keys
from privacy.secure_sums.he.codecs import pad_scheme, sum_of_masks
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.packing import pack_words, unpack_words, word_bits
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.vectors import VectorSpec
from privacy.testing.harness import Round, residue_spec, spec_of
from tests.privacy.mechanisms.client_jobs import client_job
from tests.privacy.mechanisms.distributed_noise import settled, updates_of
from tests.privacy.mechanisms.plans import PLAN
from tests.privacy.secure_sums.he.setups import chi_square_ratio, generator, mask_key

EVERY_WIDTH = st.integers(1, 64)


def digits(words: list[int], bits: int) -> bytes:
    """The digits of one large integer, up to a multiple of eight of them."""
    total = sum(int(word) << (bits * place) for place, word in enumerate(words))
    return total.to_bytes(-(-len(words) // 8) * bits, "little")


# ---- packing


@settings(deadline=None, max_examples=300)
@given(EVERY_WIDTH, st.integers(1, 40), st.data())
def test_packed_words_come_back(bits, count, data):
    words = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count))
    packed = pack_words(np.array(words, np.uint64), bits)
    assert packed == digits(words, word_bits(bits))
    assert unpack_words(packed, count, bits).tolist() == words


@pytest.mark.parametrize("bits", range(1, 65))
def test_many_words_come_back(bits):
    """More than NumPy takes at a time, with words that overlap where they are narrow."""
    words = generator("words", bits).integers(0, (1 << bits) - 1, 70_003, np.uint64, endpoint=True)
    packed = pack_words(words, bits)
    assert np.array_equal(unpack_words(packed, len(words), bits), words)
    assert packed[: 100 * word_bits(bits)] == digits(words[:800].tolist(), word_bits(bits))


def test_word_bits_are_the_fewest_that_eight_words_can_have():
    """Each of eight words that follow one another must end within the 64 bits from the byte in which it starts."""

    def fits(bits):
        return all(place * bits % 8 + bits <= 64 for place in range(8))

    for bits in range(1, 65):
        assert word_bits(bits) == next(width for width in range(bits, 65) if fits(width))


@settings(deadline=None, max_examples=200)
@given(EVERY_WIDTH, st.integers(1, 40), st.integers(-24, 24).filter(bool))
def test_another_length_is_refused(bits, count, change):
    packed = pack_words(np.zeros(count, np.uint64), bits)
    other = packed[:change] if change < 0 else packed + bytes(change)
    with pytest.raises(MalformedContribution, match=f"{count} integers of {bits} bits take {len(packed)} bytes"):
        unpack_words(other, count, bits)


@settings(deadline=None, max_examples=200)
@given(EVERY_WIDTH, st.integers(1, 40), st.data())
def test_a_bit_where_none_belongs_is_refused(bits, count, data):
    """Between the words, or behind the last."""
    width = word_bits(bits)
    packed = pack_words(np.zeros(count, np.uint64), bits)
    allowed = {width * place + bit for place in range(count) for bit in range(bits)}
    others = sorted(set(range(8 * len(packed))) - allowed)
    if others:
        at = data.draw(st.sampled_from(others))
        damaged = bytearray(packed)
        damaged[at // 8] |= 1 << at % 8
        with pytest.raises(MalformedContribution, match=f"an integer of {bits} bits has more"):
            unpack_words(bytes(damaged), count, bits)


@pytest.mark.parametrize("message", [None, 3, "text", np.zeros(8, np.uint8), bytearray(8)])
def test_what_is_no_bytes_is_refused(message):
    with pytest.raises(MalformedContribution, match="take 8 bytes, got"):
        unpack_words(message, 8, 8)


# ---- sums of them


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 62), st.integers(1, 20), st.integers(1, 6), st.data())
def test_messages_add_modulo_the_power_of_two(bits, length, count, data):
    spec = residue_spec(length, 8, bits)
    scheme = pad_scheme(spec, 16)
    drawn = st.lists(st.integers(0, 2**bits - 1), min_size=length + 1, max_size=length + 1)
    vectors = [data.draw(drawn) for _ in range(count)]
    masks = [scheme.draw_mask(mask_key("masked sums", client)) for client in range(count)]
    adder = scheme.adder()
    for vector, mask in zip(vectors, masks, strict=True):
        adder.add(scheme.encrypt(np.array(vector, np.int64), b"", mask))
    masked = unpack_words(adder.message(), length + 2, bits)
    columns = zip(*[[*vector, 1] for vector in vectors], *[mask.tolist() for mask in masks], strict=True)
    assert masked.tolist() == [sum(column) % 2**bits for column in columns]
    opened = scheme.open(adder.message(), b"", count, sum_of_masks(scheme, masks))
    assert opened.tolist() == [sum(column) % 2**bits for column in zip(*vectors, strict=True)]


def test_a_message_that_is_refused_changes_no_sum():
    scheme = pad_scheme(spec_of(3, 4), 16)
    adder = scheme.adder()
    mask = scheme.draw_mask(mask_key("refused"))
    adder.add(scheme.encrypt(np.zeros(4, np.float32), b"", mask))
    before = adder.message()
    for wrong in (b"", before[:-1], before + b"0", b"\xff" * len(before), None):
        with pytest.raises(MalformedContribution):
            adder.add(wrong)
    assert adder.message() == before


@pytest.mark.parametrize("bits", [1, 8, 18, 60, 62])
def test_masked_words_are_uniform(bits):
    spec = residue_spec(50_000, 8, bits)
    scheme = pad_scheme(spec, 16)
    message = scheme.encrypt(np.zeros(50_001, np.int64), b"", scheme.draw_mask(mask_key("uniform", bits)))
    words = unpack_words(message, 50_002, bits)
    bins = min(256, 1 << bits)
    counts = np.bincount((words >> np.uint64(max(0, bits - 8))).astype(np.int64), minlength=bins)
    assert ((counts - 50_002 / bins) ** 2 / (50_002 / bins)).sum() < bins + 8 * np.sqrt(2 * bins)
    if bits > 16:
        assert chi_square_ratio(words & np.uint64(0xFFFF), 1 << 16) == pytest.approx(1, abs=0.4)


# ---- sizes


def spec_for_16(length: int) -> VectorSpec:
    return spec_of(length - 1, 16)


def test_bytes_of_a_pad_for_each_parameter():
    scheme = pad_scheme(spec_for_16(100_000), 16)
    message = scheme.encrypt(np.zeros(100_000, np.float32), b"", scheme.draw_mask(mask_key("size")))
    assert len(message) / 100_000 <= 2.7
    assert len(message) / 100_000 == pytest.approx(20 / 8, rel=1e-3)  # 16 bits and 4 carries


@pytest.mark.parametrize(
    ("made", "keys", "most"),
    [(CkksSum, "keyholder", 15.5), (CkksSum, "clients", 7.8), (BfvSum, "keyholder", 7.8), (BfvSum, "clients", 4.0)],
)
def test_bytes_of_a_ciphertext_for_each_parameter(made, keys, most):
    length = 1_000_000
    scheme = made(keys, 4.0).scheme(spec_for_16(length))
    pair = generate_keys(scheme.parameters)
    vector = generator("size").uniform(-0.1, 0.1, length).astype(np.float32)
    mask = scheme.draw_mask(mask_key("size"))
    upload = len(scheme.encrypt(vector, pair.public if keys == "keyholder" else pair.secret, mask))
    print(f"{made.name} {keys}: {upload / length:.3f} bytes a parameter")
    assert upload / length <= most


# ---- residues of distributed noise


@pytest.mark.parametrize("keys", ["keyholder", "clients"])
@pytest.mark.parametrize(("made", "bits"), [(PadSum, 12), (PadSum, 16), (PadSum, 32), (BfvSum, 12), (BfvSum, 16)])
def test_residues_of_distributed_noise_agree_with_the_plain_sum(made, keys, bits):
    mechanism = settled(replace(PLAN, dimension=200), noise_multiplier=1.0, bits=bits)
    residues = {
        f"client/{client}": np.append(mechanism.on_update(client_job(client), update).numpy(), np.int64(1))
        for client, update in enumerate(updates_of(10, 200))
    }
    spec = residue_spec(len(residues["client/0"]) - 1, 10, bits, 8)
    gone = {"collect": {"client/3", "client/7"}}
    plain = Round(PlainSum(), spec, residues, gone=gone).run()
    total = Round(made(keys), spec, residues, gone=gone).run()
    assert total.survivors == plain.survivors
    assert len(total.survivors) == 8
    assert total.update_D.dtype == plain.update_D.dtype
    assert np.array_equal(total.update_D, plain.update_D)
    assert total.weight == plain.weight == 8
    assert np.any(sum(residues[name] for name in total.survivors) >= 1 << bits), "nothing wrapped"
