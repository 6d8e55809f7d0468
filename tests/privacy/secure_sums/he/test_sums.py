"""Configuration of the three sums, and refusals."""

from dataclasses import replace

import pytest

from privacy.errors import (
    ConfigError,
    PrivacyRefusal,
)
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.vectors import Segment, VectorSpec
from privacy.testing.contract import assert_sum, vectors
from privacy.testing.harness import Round, spec_of
from tests.privacy.secure_sums.he.opened_rounds import BOUND, HOLDERS, LENGTH, SUMS, numbers, recorded


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PadSum("server"), "secure_sum.keys=server: allowed are keyholder, clients"),
        (lambda: PadSum(None), "secure_sum.keys=None: allowed are keyholder, clients"),
        (lambda: CkksSum(bound=0.0), "secure_sum.bound=0.0: must be a finite number above 0"),
        (lambda: BfvSum(bound=float("inf")), "secure_sum.bound=inf: must be"),
        (lambda: PadSum(bound=float("nan")), "secure_sum.bound=nan: must be"),
        (lambda: PadSum(value_bits=1), "secure_sum.value_bits=1: must be from 2 to 32"),
        (lambda: BfvSum(value_bits=33), "secure_sum.value_bits=33: must be from 2 to 32"),
        (lambda: CkksSum(parameters="tiny"), "secure_sum.parameters=tiny: ckks has lean, tutorial"),
        (lambda: BfvSum(parameters="tutorial"), "secure_sum.parameters=tutorial: bfv has lean"),
        (lambda: CkksSum(parameters=None), "secure_sum.parameters=None: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters=[54]), "secure_sum.parameters=[54]: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters={}), "secure_sum.parameters={}: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters=numbers(galois=True)), "galois"),
        (lambda: CkksSum(parameters=numbers(scheme="bfv")), "scheme"),
        (lambda: CkksSum(parameters=numbers(poly_modulus_degree=4096.0)), "poly_modulus_degree"),
        (lambda: CkksSum(parameters=numbers(coeff_modulus_bits=54)), "coeff_modulus_bits"),
        (lambda: CkksSum(parameters=numbers(coeff_modulus_bits=[60, 60])), "secure at 128 bits up to 109"),
        (lambda: CkksSum(parameters=numbers(poly_modulus_degree=5000)), "poly_modulus_degree=5000: must be one of"),
        (lambda: CkksSum(parameters=numbers(plain_modulus_bits=20)), "ckks has none: set it to null"),
        (lambda: BfvSum(parameters=numbers(scale_bits=20)), "bfv has none: set it to null"),
        (lambda: CkksSum(parameters=numbers(scale_bits=51)), "wraps above"),
        (lambda: BfvSum(parameters=numbers(plain_modulus_bits=48)), "decrypt wrongly"),
    ],
)
def test_configuration_errors_are_one_line(make, line):
    with pytest.raises(ConfigError) as caught:
        make().tolerance(spec_of(5, 10))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("made", SUMS)
def test_an_update_without_a_bound_is_refused(made):
    segments = (Segment("update", 5), Segment("weight", 1, 1.0))
    with pytest.raises(ConfigError, match=r"secure_sum.bound=None: the update needs a bound"):
        made("keyholder", BOUND).tolerance(VectorSpec(segments, 3))


def test_sums_over_64_bits_are_refused():
    PadSum(value_bits=32).tolerance(spec_of(5, 2**32))
    with pytest.raises(ConfigError, match=r"secure_sum.value_bits=32: a sum of \d+ takes 65 bits, 64 at most"):
        PadSum(value_bits=32).tolerance(spec_of(5, 2**33))


@pytest.mark.parametrize("made", [CkksSum, BfvSum])
def test_a_set_may_be_given_in_numbers(made):
    contributions = vectors(3, LENGTH)
    for keys in HOLDERS:
        secure_sum = made(keys, BOUND, parameters=numbers())
        total = Round(secure_sum, spec_of(LENGTH, 3), contributions).run()
        assert_sum(total, contributions, secure_sum)


def test_a_role_without_keys_refuses(secure_sum):
    round_ = recorded(secure_sum)
    me = replace(round_.party("client/0"), credentials=None)
    with pytest.raises(PrivacyRefusal, match="client/0 has no keys: the roster was not set up"):
        secure_sum.respond("collect", {"opener": round_.opener}, me, lambda: pytest.fail("trained"))
