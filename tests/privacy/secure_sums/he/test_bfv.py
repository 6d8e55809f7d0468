import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, MalformedContribution
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.parameters import HeParameters, named
from privacy.secure_sums.he.ring import ring
from tests.privacy.secure_sums.he.setups import (
    added,
    bfv,
    chi_square_ratio,
    integers,
    mask_key,
    opened,
    uploads,
    with_keys,
)

SHARED = named("lean", "bfv", symmetric=True)
PUBLIC = named("lean", "bfv", symmetric=False)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_sum_is_exact(symmetric, masked):
    setup = bfv(symmetric)
    vectors = integers(16, 10_000, 16)
    total = opened(setup, vectors, masked)
    assert total.dtype == np.uint64
    assert np.array_equal(total, sum(vectors))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_largest_values_carry_without_running_over(symmetric):
    setup = bfv(symmetric)
    vectors = [np.full(8190, 2**16 - 1, np.uint64)] * 16
    assert (opened(setup, vectors) == 16 * (2**16 - 1)).all()
    alternating = [np.resize(np.array([2**16 - 1, 0], np.uint64), 8190)] * 16
    assert np.array_equal(opened(setup, alternating), 16 * alternating[0])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 9000), st.booleans(), st.randoms())
def test_any_cohort_width_and_length_is_exact(cohort, value_bits, length, symmetric, random):
    scheme = Bfv.of(SHARED if symmetric else PUBLIC, symmetric, cohort, value_bits, length, rounds=10)
    setup = with_keys(scheme)
    vectors = integers(min(cohort, 3), length, value_bits)
    vectors[0][random.randrange(length)] = 2**value_bits - 1
    assert np.array_equal(opened(setup, vectors), sum(vectors))


def test_as_many_values_as_the_noise_allows_lie_in_a_slot():
    def of(cohort, bits, symmetric=True, parameters=None):
        scheme = Bfv.of(parameters or (SHARED if symmetric else PUBLIC), symmetric, cohort, bits, 10**6, 100)
        return scheme.bits_per_value, scheme.values_per_slot, scheme.parameters.plain_modulus_bits

    assert of(16, 16) == (20, 2, 40)
    assert of(16, 16, symmetric=False) == (20, 2, 40)
    assert of(16, 8) == (12, 3, 36)
    assert of(1, 8) == (
        8,
        5,
        41,
    )  # 48 bits leave a margin of 30 for a deviation of 3.2; 40 bits hold no prime above 2^40 - 1
    assert of(16, 20)[1] == 1
    assert of(100, 16) == (23, 1, 23)  # 46 bits leave a margin of 77 for a deviation of 32
    assert of(16, 16, parameters=SHARED.with_plain_modulus(30)) == (20, 1, 30)


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_sum_that_can_be_stays_below_the_plain_modulus(symmetric):
    for cohort, bits in [(1, 1), (3, 5), (16, 16), (31, 12), (1000, 10)]:
        scheme = Bfv.of(SHARED if symmetric else PUBLIC, symmetric, cohort, bits, 10**5, 10)
        largest = scheme.slots(np.full(scheme.values_per_ciphertext, cohort * (2**bits - 1), np.uint64), cohort)
        assert int(largest.max()) < ring(scheme.parameters).plain_modulus
        assert scheme.values_per_slot >= 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="takes 20 bits"):
        Bfv.of(SHARED.with_plain_modulus(18), True, 16, 16, 1000, 1)
    with pytest.raises(ConfigError, match="decrypt wrongly"):
        Bfv.of(SHARED.with_plain_modulus(50), True, 16, 16, 1000, 1)
    with pytest.raises(ConfigError, match="decrypt wrongly"):
        Bfv.of(PUBLIC, False, 1000, 36, 1000, 1)
    with pytest.raises(ConfigError, match="plain_modulus_bits"):
        Bfv.of(SHARED, True, 1000, 60, 1000, 1)
    with pytest.raises(ConfigError, match="not coprime"):
        Bfv.of(PUBLIC.with_plain_modulus(50), False, 2, 16, 1000, 1)


def test_more_sums_need_more_room():
    """The same set is accepted for one round and refused for more than there will ever be."""
    parameters = HeParameters("bfv", 4096, (54, 50), plain_modulus_bits=43)
    assert Bfv.of(parameters, False, 16, 10, 10**6, 1).values_per_slot == 3
    with pytest.raises(ConfigError, match="decrypt wrongly"):
        Bfv.of(parameters, False, 16, 10, 10**6, 10**70)


def test_a_value_of_too_many_bits_is_not_encrypted():
    setup = bfv()
    with pytest.raises(MalformedContribution, match="over 16 bits"):
        setup.scheme.encrypt(np.array([2**16], np.uint64), setup.encryption)


@pytest.mark.parametrize(("symmetric", "most"), [(True, 4.0), (False, 7.8)])
def test_bytes_of_an_upload_for_each_parameter(symmetric, most):
    setup = bfv(symmetric)
    length = 10 * setup.scheme.values_per_ciphertext
    upload = len(setup.scheme.encrypt(integers(1, length, 16)[0], setup.encryption))
    assert upload / length < most
    assert upload / length == pytest.approx(3.384 if symmetric else 6.752, abs=0.002)


@pytest.mark.parametrize("symmetric", [True, False])
def test_without_the_masks_of_just_these_contributions_nothing_opens(symmetric):
    setup = bfv(symmetric)
    messages, mask = uploads(setup, integers(2, 5000, 16), masked=True)
    message = added(setup, messages, 5000)
    other = setup.scheme.add_masks(mask, setup.scheme.draw_mask(mask_key("other"), 5000))
    for wrong, contributors in [(None, 2), (other, 2), (mask, 1), (mask, 3)]:
        with pytest.raises(MalformedContribution, match="counts"):
            setup.scheme.open(message, setup.decryption, contributors, 5000, wrong)
    with pytest.raises(MalformedContribution, match="counts"):
        setup.scheme.open(added(setup, messages[:1] * 2, 5000), setup.decryption, 2, 5000, mask)


def test_masked_slots_are_uniform_to_whoever_decrypts_them():
    setup = bfv()
    vector = np.zeros(16_000, np.uint64)
    mask = setup.scheme.draw_mask(mask_key("uniform"), len(vector))
    message = setup.scheme.encrypt(vector, setup.encryption, mask)
    here = ring(setup.scheme.parameters)
    slots = [here.encoder.decode_uint64(setup.decryption.decrypt(here.cipher(raw))) for raw in here.parse(message, 2)]
    assert chi_square_ratio(np.array(slots, np.uint64), here.plain_modulus) == pytest.approx(1, abs=0.4)


def test_the_key_of_another_opens_nothing():
    mine = bfv()
    theirs = with_keys(bfv().scheme)
    messages, _ = uploads(mine, integers(2, 5000, 16), masked=False)
    with pytest.raises(MalformedContribution, match="counts"):
        mine.scheme.open(added(mine, messages, 5000), theirs.decryption, 2, 5000)
