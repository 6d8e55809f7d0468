import math
from fractions import Fraction

import numpy as np
import pytest
import tenseal as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, MalformedContribution
from privacy.secure_sums.he.ckks import Ckks, Flooding
from privacy.secure_sums.he.parameters import HeParameters, named
from privacy.secure_sums.he.ring import ring
from tests.privacy.secure_sums.he.setups import (
    Setup,
    added,
    chi_square_ratio,
    ckks,
    generator,
    mask_key,
    opened,
    reals,
    uploads,
    with_keys,
)

LEAN = [("lean", True), ("lean", False)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("name", "symmetric"), [*LEAN, ("nvflare", False)])
def test_a_sum_is_that_of_float64_within_the_tolerance(name, symmetric, masked):
    setup = ckks(name, symmetric)
    vectors = reals(10, 9000)
    error = opened(setup, vectors, masked) - sum(vectors)
    assert np.abs(error).max() <= setup.scheme.tolerance(10)
    assert error.std() == pytest.approx(setup.scheme.error_deviation(10), rel=0.08)


def test_errors_under_a_public_key_have_the_tail_of_laplace_and_under_a_shared_one_of_gauss():
    """So twelve deviations, which no Gaussian reaches, are too few for a public key."""
    for symmetric, beyond_3 in [(True, math.erfc(3 / math.sqrt(2))), (False, math.exp(-3 * math.sqrt(2)))]:
        setup = ckks("lean", symmetric)
        zeros = np.zeros(4095 * 60)
        error = np.abs(opened(setup, [zeros], masked=False)) / setup.scheme.error_deviation(1)
        assert np.mean(error > 3) == pytest.approx(beyond_3, rel=0.3)  # 0.0027 and 0.0144
        deviations = setup.scheme.tolerance(1) / setup.scheme.error_deviation(1)
        tail = math.erfc(deviations / math.sqrt(2)) if symmetric else math.exp(-deviations * math.sqrt(2))
        assert tail < 2**-100


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 9000), st.booleans(), st.data())
def test_any_length_comes_back(count, length, symmetric, data):
    setup = ckks("lean", symmetric)
    values = st.lists(st.floats(-1, 1), min_size=3, max_size=3)
    vectors = [np.resize(np.array(data.draw(values)), length) for _ in range(count)]
    total = opened(setup, vectors)
    assert total.shape == (length,)
    assert total.dtype == np.float64
    assert np.abs(total - sum(vectors)).max() <= setup.scheme.tolerance(count)


def test_the_last_real_of_a_ciphertext_is_reserved():
    lean = ckks().scheme
    published = ckks("nvflare", False).scheme
    assert (lean.values_per_ciphertext, published.values_per_ciphertext) == (4095, 4095)
    assert [lean.ciphertexts(length) for length in (1, 4095, 4096, 26010, 10**6)] == [1, 1, 2, 7, 245]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 10_000), st.floats(1e-6, 1e6), st.sampled_from([(54,), (54, 50), (60, 40, 40), (30,)]))
def test_the_scale_is_the_largest_power_of_two_that_does_not_wrap(cohort, bound, bits):
    parameters = HeParameters("ckks", 8192, bits)
    modulus = Fraction(ring(parameters).modulus)
    try:
        scheme = Ckks.of(parameters, True, cohort, bound)
    except ConfigError:
        assert 4 * cohort * Fraction(bound) * 2 > modulus or math.log2(modulus / (4 * cohort * bound)) > 26
        return
    scale = Fraction(scheme.scale)
    assert 4 * cohort * Fraction(bound) * scale <= modulus < 8 * cohort * Fraction(bound) * scale


@pytest.mark.parametrize(("cohort", "bound"), [(0, 1.0), (10, 0.0), (10, math.inf), (10, math.nan), (10, 1e17)])
def test_a_range_without_a_scale_is_refused(cohort, bound):
    with pytest.raises(ConfigError):
        Ckks.of(named("lean", "ckks", True), True, cohort, bound)


def test_a_fixed_scale_that_could_wrap_is_refused_with_the_arithmetic():
    fitting = HeParameters("ckks", 4096, (54,), scale_bits=47)
    assert Ckks.of(fitting, True, 16, 1.0).scale == 2.0**47
    with pytest.raises(ConfigError, match=r"scale_bits=48: a sum of 16 values up to 1 wraps above 2\^47") as refusal:
        Ckks.of(fitting.with_scale(48), True, 16, 1.0)
    assert "q = 2^54.0" in str(refusal.value)


def test_the_worst_vectors_do_not_wrap_under_the_rule():
    """All values at their bounds, of one sign or in the signs of one coefficient: that one is as large as it gets."""
    setup = ckks("lean", True, cohort=4)
    exponents = np.array([pow(5, slot, 8192) for slot in range(2048)])
    angles = np.exp(2j * np.pi * exponents * 1234 / 8192)
    signs = np.sign(np.stack([angles.real, angles.imag], axis=1)).reshape(-1)[:4095]
    for worst in (np.ones(4095), signs, -signs):
        assert np.abs(opened(setup, [worst] * 4, masked=True) - 4 * worst).max() <= setup.scheme.tolerance(4)


def test_a_sum_that_wraps_is_caught_where_the_scale_was_not_checked():
    setup = with_keys(Ckks(HeParameters("ckks", 4096, (54,), scale_bits=52), True, 10, 1.0))
    vectors = [np.ones(4095)] * 10
    with pytest.raises(MalformedContribution, match="10 contributions add up to 10"):
        opened(setup, vectors)


@pytest.mark.parametrize("value", [1.0000001, -2.0, math.nan, math.inf])
def test_a_value_beyond_the_bound_is_not_encrypted(value):
    setup = ckks()
    with pytest.raises(MalformedContribution, match="bound"):
        setup.scheme.encrypt(np.array([0.0, value]), setup.encryption)


def test_bytes_of_an_upload_for_each_parameter():
    """At 1 M parameters, and against the sizes of the published sets in TenSEAL itself."""
    values = reals(1, 4095 * 5)[0]
    per_parameter = {}
    for name, symmetric in [*LEAN, ("tutorial", False), ("nvflare", False), ("fedml_he", False)]:
        setup = ckks(name, symmetric)
        per_parameter[name, symmetric] = len(setup.scheme.encrypt(values, setup.encryption)) / len(values)
    assert per_parameter["lean", True] == pytest.approx(6.77, abs=0.01)
    assert per_parameter["lean", False] == pytest.approx(13.51, abs=0.01)
    assert per_parameter["tutorial", False] == pytest.approx(82, abs=3)
    assert per_parameter["nvflare", False] == pytest.approx(57, abs=2)
    assert per_parameter["fedml_he", False] == pytest.approx(62, abs=1)


@pytest.mark.parametrize("name", ["tutorial", "nvflare", "fedml_he"])
def test_published_sets_cost_what_tenseal_says(name):
    parameters = named(name, "ckks", symmetric=False)
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.poly_modulus_degree,
        coeff_mod_bit_sizes=list(parameters.coeff_modulus_bits),
    )
    context.global_scale = 2.0**parameters.scale_bits
    values = reals(1, 4095)[0]
    theirs = len(ts.ckks_vector(context, values.tolist()).serialize())
    setup = ckks(name, symmetric=False)
    for mask in (None, setup.scheme.draw_mask(mask_key("size"), 4095)):
        assert len(setup.scheme.encrypt(values, setup.encryption, mask)) == pytest.approx(theirs, rel=0.01)


def masked_pair(setup: Setup):
    vectors = reals(2, 4095)
    messages, mask = uploads(setup, vectors, masked=True)
    return vectors, messages, mask


@pytest.mark.parametrize(("name", "symmetric"), [*LEAN, ("nvflare", False)])
def test_without_the_masks_of_just_these_contributions_nothing_opens(name, symmetric):
    setup = ckks(name, symmetric)
    _, messages, mask = masked_pair(setup)
    message = added(setup, messages, 4095)
    other = setup.scheme.add_masks(mask, setup.scheme.draw_mask(mask_key("other"), 4095))
    for wrong, contributors in [(None, 2), (other, 2), (mask, 1), (mask, 3)]:
        with pytest.raises(MalformedContribution, match="contributions add up to"):
            setup.scheme.open(message, setup.decryption, contributors, 4095, wrong)
    twice = added(setup, [messages[0]] * 2, 4095)
    with pytest.raises(MalformedContribution, match="contributions add up to"):
        setup.scheme.open(twice, setup.decryption, 2, 4095, mask)


def test_a_masked_plaintext_is_uniform_to_whoever_decrypts_it():
    """And opens to the vector once the mask is off, so that it is the plaintext that was masked."""
    setup = ckks()
    vector = np.zeros(4095 * 4)
    mask = setup.scheme.draw_mask(mask_key("uniform"), len(vector))
    message = setup.scheme.encrypt(vector, setup.encryption, mask)
    here = ring(setup.scheme.parameters)
    decoded = []
    for raw in here.parse(message, 4):
        plaintext = setup.decryption.decrypt(here.cipher(raw))
        decoded.append(np.array(here.encoder.decode_complex(plaintext)).view(np.float64))
    # coefficients uniform modulo q make slots whose parts have the deviation q/sqrt(12) sqrt(N/2) / scale
    spread = here.modulus / math.sqrt(12) * math.sqrt(4096 / 2) / setup.scheme.scale
    assert np.std(decoded) == pytest.approx(spread, rel=0.03)
    assert chi_square_ratio(mask, here.modulus) == pytest.approx(1, abs=0.4)
    assert np.abs(setup.scheme.open(message, setup.decryption, 1, len(vector), mask)).max() < 1e-9


def test_a_mask_of_another_length_is_never_cut_to_fit():
    setup = ckks()
    short = setup.scheme.draw_mask(mask_key("short"), 4095)
    with pytest.raises(ValueError, match="zip"):
        setup.scheme.encrypt(np.zeros(5000), setup.encryption, short)


def test_the_key_of_another_opens_nothing():
    mine = ckks()
    theirs = with_keys(ckks().scheme)
    messages, _ = uploads(mine, reals(2, 4095), masked=False)
    with pytest.raises(MalformedContribution, match="damaged"):
        mine.scheme.open(added(mine, messages, 4095), theirs.decryption, 2, 4095)


def test_flooding_has_the_deviation_that_was_asked_for():
    setup = ckks()
    vectors = reals(10, 4095 * 3)
    messages, _ = uploads(setup, vectors, masked=False)
    flooding = Flooding(2.0**30, generator("flooding"))
    found = setup.scheme.open(
        added(setup, messages, len(vectors[0])), setup.decryption, 10, len(vectors[0]), None, flooding
    )
    error = found - sum(vectors)
    assert error.std() == pytest.approx(2.0**30 * math.sqrt(2048) / setup.scheme.scale, rel=0.03)
    assert error.std() == pytest.approx(setup.scheme.error_deviation(10, flooding.deviation), rel=0.03)
    assert np.abs(error).max() < setup.scheme.tolerance(10, flooding.deviation)


def test_flooding_follows_the_published_rule_or_is_refused_with_the_arithmetic():
    scheme = ckks().scheme
    deviation = scheme.flooding_deviation(opened=245, tolerance=1e-3)
    noise = math.sqrt(10 * (10.5 + 1 / 12))
    assert deviation == pytest.approx(math.sqrt(12 * 245) * 2**15 * noise)
    with pytest.raises(ConfigError) as refusal:
        scheme.flooding_deviation(opened=245, tolerance=1e-3, security_bits=60)
    line = str(refusal.value)
    assert line.startswith("secure_sum.flooding_bits=60: flooding by sqrt(12 * 245) * 2^(60/2) * 10.3 = 2^39.1")
    assert "0.001 is allowed" in line
