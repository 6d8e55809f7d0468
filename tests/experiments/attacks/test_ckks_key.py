"""Key recovery; its failure elsewhere is meaningful only if it succeeds on the weak setting."""

import numpy as np
import pytest

from experiments.attacks.ckks_key import recover_key, secret_coefficients, secret_key
from privacy.errors import ConfigError
from privacy.secure_sums.he.ciphers import DecryptionKey
from privacy.secure_sums.he.ckks import Flooding
from privacy.secure_sums.he.ring import ring
from tests.privacy.secure_sums.he.setups import Setup, added, bfv, ckks, generator, integers, reals, uploads, with_keys


def truth(setup: Setup) -> np.ndarray:
    return secret_coefficients(setup.scheme.parameters, setup.keys.secret)


def sum_and_opening(setup: Setup, masked: bool = False, flooding: Flooding | None = None, count: int = 10):
    vectors = reals(count, setup.scheme.values_per_ciphertext)
    messages, mask = uploads(setup, vectors, masked)
    message = added(setup, messages, len(vectors[0]))
    return message, setup.scheme.open(message, setup.decryption, count, len(vectors[0]), mask, flooding)


def test_the_key_that_is_attacked_is_ternary_and_decrypts():
    key = truth(ckks())
    assert sorted(set(key.tolist())) == [-1, 0, 1]
    assert np.mean(key != 0) == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("setup", [ckks("lean"), ckks("lean", False), ckks("nvflare", False), bfv(False)], ids=str)
def test_a_key_of_the_same_coefficients_decrypts(setup):
    """Also with several primes; the decryptor does not use the special one."""
    made = DecryptionKey(setup.scheme.parameters, secret_key(setup.scheme.parameters, truth(setup)))
    length = setup.scheme.values_per_ciphertext
    vectors = reals(2, length) if setup.scheme.parameters.scheme == "ckks" else integers(2, length, 16)
    message = added(setup, uploads(setup, vectors, masked=False)[0], length)
    with_ours, with_its_own = (setup.scheme.open(message, key, 2, length) for key in (made, setup.decryption))
    assert np.array_equal(with_ours, with_its_own)
    assert np.allclose(with_ours, vectors[0] + vectors[1], atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("count", [1, 10])
def test_without_masks_and_flooding_the_whole_key_comes_out(symmetric, count):
    setup = ckks("lean", symmetric)
    message, opening = sum_and_opening(setup, count=count)
    recovered = recover_key(setup.scheme, message, opening, count)
    assert recovered is not None
    assert np.array_equal(recovered, truth(setup))


def test_the_error_of_the_reserved_value_which_no_opening_shows_is_found():
    """Sums under fresh keys, until that error moves a coefficient by more than one."""
    for _ in range(40):
        setup = with_keys(ckks("lean", symmetric=False).scheme)
        message, opening = sum_and_opening(setup)
        here = ring(setup.scheme.parameters)
        slots = here.encoder.decode_complex(setup.decryption.decrypt(here.cipher(next(here.parse(message, 1)))))
        if abs(slots[-1].imag - 10) * setup.scheme.scale * 2 / 4096 > 1:
            break
    assert np.array_equal(recover_key(setup.scheme, message, opening, 10), truth(setup))


def test_a_cast_to_float32_hides_it_so_the_control_must_not_cast():
    setup = ckks()
    message, opening = sum_and_opening(setup)
    assert recover_key(setup.scheme, message, opening.astype(np.float32).astype(np.float64), 10) is None


@pytest.mark.parametrize("symmetric", [True, False])
def test_masks_leave_nothing_to_work_on(symmetric):
    setup = ckks("lean", symmetric)
    message, opening = sum_and_opening(setup, masked=True)
    assert recover_key(setup.scheme, message, opening, 10) is None


def test_flooding_hides_the_key():
    setup = ckks()
    deviation = setup.scheme.flooding_deviation(opened=1, tolerance=1e-3)
    message, opening = sum_and_opening(setup, flooding=Flooding(deviation, generator("flooding")))
    assert recover_key(setup.scheme, message, opening, 10) is None


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_exact_scheme_shows_no_noise(symmetric):
    setup = bfv(symmetric)
    vectors = integers(16, setup.scheme.values_per_ciphertext, 16)
    messages, _ = uploads(setup, vectors, masked=False)
    message = added(setup, messages, len(vectors[0]))
    opening = setup.scheme.open(message, setup.decryption, 16, len(vectors[0]))
    assert recover_key(setup.scheme, message, opening, 16) is None
    assert truth(setup).shape == (4096,)


def test_a_set_with_real_slots_is_not_called_safe():
    setup = ckks("nvflare", False)
    message, opening = sum_and_opening(setup)
    with pytest.raises(ConfigError, match="half of the noise"):
        recover_key(setup.scheme, message, opening, 10)
