"""Encryptions of zero to which vectors are added. The oracle is SEAL's own encryption of the same vectors."""

import numpy as np
import pytest

from privacy.secure_sums.he.ciphers import encrypted_zeros
from privacy.secure_sums.he.ring import ring
from tests.privacy.secure_sums.he.setups import Setup, added, ckks, generator, mask_key

LENGTH = 9000
SYMMETRIC = pytest.mark.parametrize("symmetric", [True, False], ids=["shared key", "public key"])


def zeros_of(setup: Setup, length: int = LENGTH) -> list:
    data = setup.keys.secret if setup.scheme.symmetric else setup.keys.public
    scheme = setup.scheme
    return encrypted_zeros(scheme.parameters, data, scheme.symmetric, scheme.ciphertexts(length))


def second_polynomials(setup: Setup, message: bytes) -> list[bytes]:
    """What hides each plaintext: the second polynomial of its ciphertext, or the seed of it."""
    raws = ring(setup.scheme.parameters).parse(message, setup.scheme.ciphertexts(LENGTH))
    return [raw.seed or raw.residues_PKN[1].tobytes() for raw in raws]


@SYMMETRIC
@pytest.mark.parametrize("masked", [False, True])
def test_a_sum_opens_to_the_same_with_the_same_noise(symmetric, masked):
    setup = ckks(symmetric=symmetric)
    vectors = [generator("zeros", client).uniform(-1, 1, LENGTH) for client in range(4)]
    masks = [setup.scheme.draw_mask(mask_key("zeros", client), LENGTH) if masked else None for client in range(4)]
    total = None if not masked else masks[0]
    for mask in masks[1:] if masked else ():
        total = setup.scheme.add_masks(total, mask)
    errors = []
    for prepared in (True, False):
        messages = [
            setup.scheme.encrypt(vector, setup.encryption, mask, zeros_of(setup) if prepared else None)
            for vector, mask in zip(vectors, masks, strict=True)
        ]
        found = setup.scheme.open(added(setup, messages, LENGTH), setup.decryption, 4, LENGTH, total)
        errors.append(found - sum(vectors))
        lengths = {len(message) for message in messages}
    assert np.abs(errors[0]).max() <= 4 * setup.scheme.tolerance(10, 0.0)
    assert errors[0].std() == pytest.approx(errors[1].std(), rel=0.2), "the noise of as many encryptions"
    assert lengths == {len(setup.scheme.encrypt(vectors[0], setup.encryption, masks[0], zeros_of(setup)))}


@SYMMETRIC
def test_no_randomness_is_shared_by_two_ciphertexts(symmetric):
    setup = ckks(symmetric=symmetric)
    vector = np.zeros(LENGTH)
    seen = [
        one
        for _ in range(3)
        for one in second_polynomials(setup, setup.scheme.encrypt(vector, setup.encryption, None, zeros_of(setup)))
    ]
    assert len(set(seen)) == len(seen) == 3 * setup.scheme.ciphertexts(LENGTH)


@pytest.mark.parametrize("off", [-5000, 5000])
def test_another_number_of_zeros_is_no_message(off):
    setup = ckks()
    with pytest.raises(ValueError, match="zip"):
        setup.scheme.encrypt(np.zeros(LENGTH), setup.encryption, None, zeros_of(setup, LENGTH + off))
