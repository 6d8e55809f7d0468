import os
import resource
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy.errors import MalformedContribution
from privacy.secure_sums.he.ring import ring
from privacy.secure_sums.he.seal_files import RawPolynomials, load, packed_bits, save
from privacy.secure_sums.packing import pack, unpack
from tests.privacy.secure_sums.he.setups import ckks, generator

HEADER_BYTES = 16


@settings(deadline=None, max_examples=200)
@given(st.integers(14, 60).filter(lambda bits: bits != 59), st.integers(1, 5), st.data())
def test_packed_integers_are_the_digits_of_one_large_integer(bits, eights, data):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=8 * eights, max_size=8 * eights))
    packed = pack(np.array(values, np.uint64), bits)
    assert len(packed) == bits * eights
    assert int.from_bytes(packed, "little") == sum(value << (index * bits) for index, value in enumerate(values))
    assert unpack(packed, bits).tolist() == values


def test_every_seal_prime_has_a_width_that_packs():
    for bits in range(14, 61):
        modulus = (1 << bits) - 1
        width = packed_bits(modulus)
        worst = np.full(16, modulus - 1, np.uint64)
        assert bits <= width <= 60
        assert np.array_equal(unpack(pack(worst, width), width), worst)


def encrypted(setup, symmetric):
    """A SEAL ciphertext, seeded to be saved or whole, and its plaintext."""
    plaintext = next(setup.scheme.plaintexts(np.linspace(-1, 1, setup.scheme.values_per_ciphertext), 1.0))
    if symmetric:
        return setup.encryption._encryptor.encrypt_symmetric(plaintext)
    cipher = sealapi.Ciphertext()
    setup.encryption._encryptor.encrypt(plaintext, cipher)
    return cipher


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["lean", "tutorial"])
def test_the_residues_are_those_that_seal_holds(name, symmetric):
    setup = ckks(name, symmetric)
    layout = ring(setup.scheme.parameters).ciphertext
    file = save(encrypted(setup, symmetric))
    raw = layout.parse(file)
    assert (raw.seed is not None) == symmetric
    assert len(layout.compressed_file(raw)) == pytest.approx(len(file), rel=0.01)
    cipher = sealapi.Ciphertext()
    load(cipher, ring(setup.scheme.parameters).context, layout.file(raw))
    inside = cipher.dyn_array()
    flat = raw.residues_PKN.reshape(-1)
    for index in generator("index").integers(0, len(flat), 200).tolist():
        assert inside.at(index) == flat[index]
    assert cipher.scale == setup.scheme.scale


def test_what_seal_writes_again_is_what_it_was_given():
    """The seed expands to the same second polynomial for everyone."""
    setup = ckks()
    here = ring(setup.scheme.parameters)
    raw = here.ciphertext.parse(save(encrypted(setup, symmetric=True)))
    twice = [here.raw(here.cipher(raw)) for _ in range(2)]
    assert np.array_equal(twice[0].residues_PKN[0], raw.residues_PKN[0])
    assert np.array_equal(twice[0].residues_PKN, twice[1].residues_PKN)


def whole_file():
    setup = ckks("lean", symmetric=False)
    layout = ring(setup.scheme.parameters).ciphertext
    return layout, save(encrypted(setup, symmetric=False))


def test_a_residue_that_is_not_below_its_prime_is_refused():
    layout, file = whole_file()
    raw = layout.parse(file)
    residues_PKN = raw.residues_PKN.copy()
    residues_PKN[1, 0, -1] = layout.moduli[0] - 1
    layout.parse(layout.compressed_file(RawPolynomials(residues_PKN)))
    residues_PKN[1, 0, -1] = layout.moduli[0]
    with pytest.raises(MalformedContribution, match="not below its modulus"):
        layout.parse(layout.compressed_file(RawPolynomials(residues_PKN)))


def test_a_plaintext_dressed_as_a_ciphertext_is_refused():
    layout, file = whole_file()
    residues_PKN = layout.parse(file).residues_PKN.copy()
    residues_PKN[1] = 0
    with pytest.raises(MalformedContribution, match="encrypts nothing"):
        layout.parse(layout.compressed_file(RawPolynomials(residues_PKN)))


def test_members_of_other_parameters_are_refused():
    """Each byte before the residues matters: scale, size, degree, parameters, form."""
    layout, file = whole_file()
    body = pa.Codec("zstd").decompress(
        file[HEADER_BYTES:], decompressed_size=len(layout.file(layout.parse(file))) - HEADER_BYTES, asbytes=True
    )
    for index in range(len(body) - layout.parse(file).residues_PKN.nbytes):
        changed = bytearray(body)
        changed[index] ^= 1
        with pytest.raises(MalformedContribution, match="other parameters"):
            layout.parse(seal_file(pa.Codec("zstd").compress(bytes(changed), asbytes=True)))


def seal_file(body: bytes) -> bytes:
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 2, 0, HEADER_BYTES + len(body)) + body


def test_a_bomb_is_not_inflated():
    layout, _ = whole_file()
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(64):
            stream.write(bytes(1 << 23))
    bomb = seal_file(sink.getvalue().to_pybytes())
    assert len(bomb) < layout.max_file_bytes
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MalformedContribution):
        layout.parse(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 1 << 16
    with pytest.raises(MalformedContribution, match="cut short"):
        layout.parse(seal_file(bytes(layout.max_file_bytes)))


def test_a_file_that_seal_itself_refuses_is_named_malformed():
    _, file = whole_file()
    with pytest.raises(MalformedContribution, match="SEAL refuses"):
        load(sealapi.Ciphertext(), ring(ckks("lean", False).scheme.parameters).context, file[:-100])


def test_nothing_is_left_open():
    context = ring(ckks("lean", False).scheme.parameters).context
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        save(ckks().encryption._encryptor.encrypt_zero_symmetric())
        with pytest.raises(MalformedContribution):
            load(sealapi.Ciphertext(), context, b"nothing")
    assert len(os.listdir("/proc/self/fd")) == before
