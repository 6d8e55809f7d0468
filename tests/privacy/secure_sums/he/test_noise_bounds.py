"""Noise is measured apart from the code that predicts it: the phase c0 + c1 s, with the key's own residues."""

import math

import numpy as np
import pytest
from tenseal import sealapi

from experiments.attacks.ckks_key import coefficients
from privacy.errors import ConfigError, MalformedContribution
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.noise_bounds import bfv_failure_log2, bfv_margin, check_bfv, noise_variance
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import ring
from privacy.secure_sums.he.seal_files import ciphertext_layout, save
from tests.privacy.secure_sums.he.setups import Setup, added, generator, integers, uploads, with_keys

DEGREE = 4096


def bare(scheme: str, bits: tuple[int, ...], symmetric: bool, plain_bits: int = 40) -> Setup:
    """A scheme without any checks."""
    if scheme == "bfv":
        return with_keys(Bfv(HeParameters("bfv", DEGREE, bits, plain_modulus_bits=plain_bits), symmetric, 4, 8))
    return with_keys(Ckks(HeParameters("ckks", DEGREE, bits, scale_bits=30), symmetric, 1, 1.0))


def centred(values: np.ndarray, modulus: int) -> np.ndarray:
    signed = values.astype(np.int64)
    return np.where(signed > modulus // 2, signed - modulus, signed)


def ckks_noise(setup: Setup, count: int) -> np.ndarray:
    """Noise coefficients of this many encryptions of zero."""
    parameters = setup.scheme.parameters
    noise = []
    layout = ring(parameters).ciphertext
    for _ in range(count):
        cipher = sealapi.Ciphertext()
        encryptor = setup.encryption._encryptor
        (encryptor.encrypt_zero_symmetric if setup.scheme.symmetric else encryptor.encrypt_zero)(cipher)
        cipher.scale = setup.scheme.scale
        points = phase(layout.parse(save(cipher)).residues_PKN, setup)
        noise.append(centred(coefficients(parameters, points), layout.moduli[0]))
    return np.concatenate(noise)


def phase(residues_PKN: np.ndarray, setup: Setup) -> np.ndarray:
    here = ring(setup.scheme.parameters)
    c0_N, c1_N = residues_PKN[:, 0].astype(object)
    secret_N = here.secret_key.parse(setup.keys.secret).residues_PKN[0, 0].astype(object)
    return ((c0_N + c1_N * secret_N) % here.moduli[0]).astype(np.uint64)


@pytest.mark.parametrize(
    ("bits", "symmetric", "deviation", "count"),
    [
        ((54,), True, 3.24, 60),  # a clipped Gaussian would have 3.2: the standard error is 0.0046
        ((54, 50), False, 15.1, 20),
        ((54,), False, 239.5, 20),
        ((54, 50), True, 3.24, 60),
    ],
)
def test_fresh_noise_is_as_predicted(bits, symmetric, deviation, count):
    setup = bare("ckks", bits, symmetric)
    noise = ckks_noise(setup, count)
    predicted = math.sqrt(noise_variance(setup.scheme.parameters, symmetric) - 1 / 12)  # without rounding
    assert predicted == pytest.approx(deviation, rel=0.005)
    assert noise.std() == pytest.approx(predicted, rel=0.0075 if symmetric else 0.04)
    assert abs(noise.mean()) < 5 * predicted / math.sqrt(len(noise))


@pytest.mark.parametrize(("bits", "symmetric"), [((54,), True), ((54, 50), False)])
def test_noise_of_a_bfv_sum_is_as_predicted_and_does_not_grow_with_the_plaintext(bits, symmetric):
    """The phase of a sum is q m / t and the noise, for any m, even where it wraps modulo t."""
    contributions = 16
    setup = bare("bfv", bits, symmetric)
    here = ring(setup.scheme.parameters)
    t = ring(setup.scheme.parameters).plain_modulus
    slots = [generator("noise", i).integers(0, t, (1, DEGREE), np.uint64) for i in range(contributions)]
    messages = [setup.encryption.encrypt(setup.scheme.plaintexts(row)) for row in slots]
    message = added(setup, messages, 1)
    cipher = here.cipher(next(here.parse(message, 1)))
    here.evaluator.transform_to_ntt_inplace(cipher)
    layout = ciphertext_layout(here.context.first_parms_id(), True, here.degree, here.moduli, 1.0)
    transformed = layout.parse(save(cipher)).residues_PKN
    found = coefficients(setup.scheme.parameters, phase(transformed, setup)).astype(object)
    plaintext = next(setup.scheme.plaintexts(sum(row.astype(object) for row in slots) % t))
    scaled = [round_half_up(here.modulus * plaintext.data(i), t) for i in range(DEGREE)]
    noise = centred(((found - np.array(scaled, object)) % here.modulus).astype(np.uint64), here.modulus)
    predicted = math.sqrt(contributions * noise_variance(setup.scheme.parameters, symmetric) + 1 / 12)
    assert noise.std() == pytest.approx(predicted, rel=0.06)
    assert np.abs(noise).max() < 7 * predicted


def round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


@pytest.mark.parametrize("symmetric", [True, False])
def test_where_decryption_fails_the_bound_said_so(symmetric):
    """From a plain modulus that is refused by far to one that is accepted: no failure among the accepted."""
    bits = (54,) if symmetric else (54, 50)
    contributions = 4
    seen = set()
    for plain_bits in sorted(set(range(42, 53)) - set(bits)):  # t must not be a prime of q itself
        setup = bare("bfv", bits, symmetric, plain_bits)
        failure = bfv_failure_log2(setup.scheme.parameters, contributions, 1, symmetric)
        vectors = integers(contributions, 4000, 8)
        messages, _ = uploads(setup, vectors, masked=False)
        try:
            message = added(setup, messages, 4000)
            right = (setup.scheme.open(message, setup.decryption, contributions, 4000) == sum(vectors)).all()
        except MalformedContribution:
            right = False
        assert right or failure > -8
        seen.add((right, failure <= -64))
    assert seen >= {(False, False), (True, True)}


def test_the_bound_is_the_tail_that_it_says():
    """By hand: q/2t = 2^13, 16 contributions of variance 10.5, 4,096 coefficients of 1,000 sums."""
    parameters = HeParameters("bfv", DEGREE, (54,), plain_modulus_bits=40)
    margin = bfv_margin(parameters, 16)
    assert margin == pytest.approx(2**13 - 9, rel=1e-5)
    by_hand = math.log2(2 * 4096 * 1000) - margin**2 / (2 * 16 * 10.5) * math.log2(math.e)
    assert bfv_failure_log2(parameters, 16, 1000, symmetric=True) == pytest.approx(by_hand)


def test_more_of_anything_makes_failure_likelier():
    def failure(bits=46, cohort=16, ciphertexts=100, symmetric=True, primes=(54,)):
        parameters = HeParameters("bfv", DEGREE, primes, plain_modulus_bits=bits)
        return bfv_failure_log2(parameters, cohort, ciphertexts, symmetric)

    base = failure()
    assert base < 0
    assert failure(bits=47) > base
    assert failure(cohort=17) > base
    assert failure(ciphertexts=200) == pytest.approx(base + 1)
    assert failure(symmetric=False) == 0.0  # one prime and a public key
    assert base < failure(symmetric=False, primes=(54, 50))
    assert failure(bits=52) == 0.0


def test_a_public_key_of_unlikely_size_is_counted():
    """With one prime and unlimited room, only the key remains: 2^-128 for each."""
    parameters = HeParameters("bfv", 8192, (60, 60), plain_modulus_bits=30)
    roomy = HeParameters("bfv", DEGREE, (60,), plain_modulus_bits=17)
    assert bfv_failure_log2(parameters, 4, 8, symmetric=False) < -128
    assert bfv_failure_log2(roomy, 4, 8, symmetric=False) == pytest.approx(-125)


def test_a_refusal_holds_the_arithmetic():
    parameters = HeParameters("bfv", DEGREE, (54, 50), plain_modulus_bits=46)
    with pytest.raises(ConfigError) as refusal:
        check_bfv(parameters, 16, 1000, symmetric=False)
    line = str(refusal.value)
    assert line.startswith("plain_modulus_bits=46: 1000 sums of 16 contributions")
    assert "2^-64 is allowed" in line
    assert "margin of 119.0" in line
    assert "\n" not in line
    check_bfv(HeParameters("bfv", DEGREE, (54, 50), plain_modulus_bits=40), 16, 10**6, symmetric=False)
