from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import ConfigError, MalformedContribution
from privacy.secure_sums.he.ciphers import CiphertextSum, DecryptionKey, EncryptionKey, generate_keys, residues
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import add_mod, plain_modulus, ring, subtract_mod
from privacy.secure_sums.he.seal_files import RawPolynomials
from tests.privacy.secure_sums.he.setups import added, bfv, chi_square_ratio, ckks, generator, integers, reals, uploads

LENGTH = 5000  # two ciphertexts of lean CKKS, one of BFV


def message_of(setup, masked=True):
    vector = reals(1, LENGTH)[0] if setup.scheme.parameters.scheme == "ckks" else integers(1, LENGTH, 16)[0]
    return uploads(setup, [vector], masked)[0][0]


def count(setup):
    return setup.scheme.ciphertexts(LENGTH)


def test_modular_arithmetic_is_that_of_integers():
    modulus = np.uint64((1 << 60) - 93)
    left, right = generator("modular").integers(0, modulus, (2, 1000), np.uint64)
    left[:2] = [0, modulus - np.uint64(1)]
    right[:2] = modulus - np.uint64(1)
    whole = [left.astype(object), right.astype(object)]
    assert (add_mod(left, right, modulus) == (whole[0] + whole[1]) % int(modulus)).all()
    assert (subtract_mod(left, right, modulus) == (whole[0] - whole[1]) % int(modulus)).all()


def test_a_ring_is_made_once():
    parameters = ckks().scheme.parameters
    assert ring(parameters) is ring(replace(parameters))
    assert not ring(parameters).context.using_keyswitching()


def test_primes_are_what_the_parameters_say():
    parameters = HeParameters("ckks", 8192, (60, 40, 40))
    here = ring(parameters)
    assert [q.bit_length() for q in here.all_moduli] == [60, 40, 40]
    assert here.modulus == here.all_moduli[0] * here.all_moduli[1]
    assert all(q % (2 * 8192) == 1 for q in here.all_moduli)


def test_primes_that_seal_does_not_find_are_a_config_error():
    with pytest.raises(ConfigError, match="coeff_modulus_bits"):
        ring(HeParameters("ckks", 4096, (14,)))
    with pytest.raises(ConfigError, match="plain_modulus_bits"):
        plain_modulus(4096, 14)


@pytest.mark.parametrize("setup", [ckks(), ckks("lean", False), bfv(), bfv(False)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_keys_of_another_set_or_damaged_ones_are_refused(setup, symmetric):
    parameters = setup.scheme.parameters
    other = generate_keys(HeParameters("ckks", 4096, (53, 51), scale_bits=40))
    own = setup.keys.secret if symmetric else setup.keys.public
    wrong = [other.secret if symmetric else other.public, own[:-1], own + b"x", b"", own[:16] + bytes(len(own) - 16)]
    for data in wrong:
        with pytest.raises(MalformedContribution):
            EncryptionKey(parameters, data, symmetric)
    for data in [*wrong, setup.keys.public]:
        with pytest.raises(MalformedContribution):
            DecryptionKey(parameters, data)


def test_no_upload_holds_the_key_or_repeats_itself():
    setup = ckks()
    first = message_of(setup, masked=False)
    second = message_of(setup, masked=False)
    assert first != second
    one, two = (residues(setup.scheme.parameters, message, count(setup)) for message in (first, second))
    assert not (one == two).any(axis=3).all()
    secret = ring(setup.scheme.parameters).secret_key.parse(setup.keys.secret).residues_PKN.tobytes()
    assert secret[:64] not in first
    assert setup.keys.secret[32:96] not in first


@pytest.mark.parametrize("setup", [ckks(), ckks("lean", False), bfv(), bfv(False), ckks("nvflare", False)], ids=str)
def test_residues_of_an_upload_are_uniform_and_bytes_of_a_plaintext_are_not(setup):
    found_CPKN = residues(setup.scheme.parameters, message_of(setup), count(setup))
    polynomials = 1 if setup.scheme.symmetric else 2
    moduli = ring(setup.scheme.parameters).moduli
    assert found_CPKN.shape == (count(setup), polynomials, len(moduli), setup.scheme.parameters.poly_modulus_degree)
    for prime, modulus in enumerate(moduli):
        for polynomial in range(polynomials):
            assert 0.6 < chi_square_ratio(found_CPKN[:, polynomial, prime], modulus) < 1.5
    plaintext = np.frombuffer(reals(1, LENGTH)[0].tobytes(), "<u8") % moduli[0]
    assert chi_square_ratio(plaintext, moduli[0]) > 2


def test_bytes_of_a_seal_file_are_not_uniform_but_packed_residues_are():
    setup = ckks("lean", False)
    message = message_of(setup)
    packed = np.frombuffer(message, np.uint8)
    raw = next(ring(setup.scheme.parameters).parse(message, count(setup)))
    file = np.frombuffer(ring(setup.scheme.parameters).ciphertext.compressed_file(raw), np.uint8)
    assert chi_square_ratio(packed, 256) < 1.5
    assert chi_square_ratio(file, 256) > 2


@pytest.mark.parametrize("setup", [ckks(), ckks("lean", False), bfv(), bfv(False), ckks("nvflare", False)], ids=str)
def test_a_message_of_another_length_is_refused(setup):
    message = message_of(setup)
    parameters = setup.scheme.parameters
    for damaged in [b"", message[:-1], message + b"\0", message[1:], message + message, message[: len(message) // 2]]:
        with pytest.raises(MalformedContribution):
            CiphertextSum(parameters, count(setup)).add(damaged)
    for ciphertexts in (count(setup) - 1, count(setup) + 1):
        with pytest.raises(MalformedContribution):
            CiphertextSum(parameters, ciphertexts).add(message)
    with pytest.raises(MalformedContribution, match="must be bytes"):
        CiphertextSum(parameters, count(setup)).add(message.decode("latin1"))


def test_a_message_of_other_parameters_is_refused():
    """Same primes, same length: another scale, or the other scheme."""
    setup = ckks()
    message = message_of(setup)
    for other in (ckks("lean", True, cohort=1000).scheme.parameters, bfv().scheme.parameters):
        with pytest.raises(MalformedContribution, match="other parameters"):
            CiphertextSum(other, count(setup)).add(message)


def test_a_message_counts_whole_or_not_at_all():
    setup = ckks("lean", False)
    here = ring(setup.scheme.parameters)
    good = message_of(setup)
    raws = list(here.parse(good, count(setup)))
    total = CiphertextSum(setup.scheme.parameters, count(setup))
    total.add(good)
    before = total.message()
    damaged_PKN = raws[1].residues_PKN.copy()
    damaged_PKN[0, 0, 0] = here.moduli[0]
    with pytest.raises(MalformedContribution, match="not below"):
        total.add(here.message([raws[0], RawPolynomials(damaged_PKN)]))
    # made by an attacker who knows the other summand
    cancelling_PKN = raws[1].residues_PKN.copy()
    cancelling_PKN[1] = here.moduli[0] - cancelling_PKN[1]
    with pytest.raises(MalformedContribution, match="SEAL refuses a sum"):
        total.add(here.message([raws[0], RawPolynomials(cancelling_PKN)]))
    assert total.message() == before


def test_sums_do_not_depend_on_order():
    setup = ckks()
    messages = [message_of(setup) for _ in range(3)]
    assert added(setup, messages, LENGTH) == added(setup, messages[::-1], LENGTH)
