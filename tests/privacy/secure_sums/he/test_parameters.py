import pytest
from tenseal import sealapi

from privacy.errors import ConfigError
from privacy.secure_sums.he.parameters import NAMES, SECURITY_BITS, HeParameters, named


def test_the_table_is_the_one_that_seal_holds():
    for degree, bits in SECURITY_BITS.items():
        assert sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128) == bits


@pytest.mark.parametrize("degree", SECURITY_BITS)
def test_the_last_bit_that_is_secure_is_allowed_and_one_more_is_not(degree):
    limit = SECURITY_BITS[degree]
    count = -(-limit // 50)
    bits = [limit // count + (i < limit % count) for i in range(count)]
    assert sum(HeParameters("ckks", degree, tuple(bits)).coeff_modulus_bits) == limit
    bits[0] += 1
    with pytest.raises(ConfigError) as refusal:
        HeParameters("ckks", degree, tuple(bits))
    line = str(refusal.value)
    assert f"{limit + 1} bits" in line
    assert f"up to {limit}" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("ckks", 4095, (54,)), "poly_modulus_degree"),
        (("ckks", 512, (20,)), "poly_modulus_degree"),
        (("ckks", 4096, ()), "coeff_modulus_bits"),
        (("ckks", 4096, (61,)), "coeff_modulus_bits"),
        (("ckks", 4096, (13,)), "coeff_modulus_bits"),
        (("ckks", 4096, (54, "50")), "coeff_modulus_bits"),
        (("ckks", 4096, (54,), 53), "scale_bits"),
        (("ckks", 4096, (54, 50), 53), "scale_bits"),
        (("ckks", 4096, (54,), 0), "scale_bits"),
        (("bfv", 4096, (54,), 40), "scale_bits"),
        (("ckks", 4096, (54,), None, 40), "plain_modulus_bits"),
        (("bfv", 4096, (54,), None, 53), "plain_modulus_bits"),
        (("bfv", 4096, (54,), None, 13), "plain_modulus_bits"),
    ],
)
def test_a_set_that_is_unsafe_or_means_nothing_is_refused_in_one_line(arguments, key):
    with pytest.raises(ConfigError, match=f"^{key}=") as refusal:
        HeParameters(*arguments)
    assert "\n" not in str(refusal.value)


def test_named_sets_are_the_published_ones():
    published = {name: named(name, "ckks", symmetric=False) for name in NAMES[1:]}
    numbers = {
        name: (one.poly_modulus_degree, list(one.coeff_modulus_bits), one.scale_bits) for name, one in published.items()
    }
    assert numbers == {
        "tutorial": (8192, [60, 40, 40, 60], 40),
        "nvflare": (8192, [60, 40, 40], 40),
        "fedml_he": (8192, [60, 52, 60], 52),
    }
    assert not any(one.dense for one in published.values())


@pytest.mark.parametrize("scheme", ["ckks", "bfv"])
def test_lean_has_a_special_prime_only_for_a_public_key(scheme):
    shared = named("lean", scheme, symmetric=True)
    public = named("lean", scheme, symmetric=False)
    assert (shared.coeff_modulus_bits, shared.data_bits) == ((54,), (54,))
    assert (public.coeff_modulus_bits, public.data_bits) == ((54, 50), (54,))


@pytest.mark.parametrize(("name", "scheme"), [("nvflare", "bfv"), ("fast", "ckks")])
def test_an_unknown_name_is_answered_with_the_known_ones(name, scheme):
    with pytest.raises(ConfigError, match=f"parameters={name}: {scheme} has lean"):
        named(name, scheme, symmetric=True)
