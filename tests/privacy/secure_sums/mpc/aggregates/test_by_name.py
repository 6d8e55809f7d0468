import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError
from privacy.secure_sums.mpc.aggregates.by_name import AGGREGATES, Sum, named
from tests.privacy.secure_sums.mpc.aggregates.specs import spec_of
from tests.privacy.secure_sums.mpc.committee import shared

OPTIONS = {
    "sum": {},
    "norm_bounded": {"norm": 1.0},
    "trimmed_mean": {"trim": 1},
    "median": {},
    "noised_sum": {"noise_multiplier": 1.0, "clip": 1.0},
}


def residues(shares):
    return Sum().residues(torch.from_numpy(shares))


def test_each_name_gives_its_aggregate():
    assert set(AGGREGATES) == set(OPTIONS)
    for name, options in OPTIONS.items():
        assert named(name, **options).name == name


def test_who_needs_what():
    made = {name: named(name, **options) for name, options in OPTIONS.items()}
    assert {name for name, one in made.items() if one.linear} == {"sum", "noised_sum"}
    assert {name for name, one in made.items() if one.uniform} == {"trimmed_mean", "median", "noised_sum"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mean",
            {},
            r"^secure_sum\.aggregate\.name=mean: allowed are sum, norm_bounded, trimmed_mean, median, noised_sum$",
        ),
        ("sum", {"trim": 1}, r"^secure_sum\.aggregate\.trim=1: sum takes no options$"),
        ("median", {"trim": 1}, r"^secure_sum\.aggregate\.trim=1: median takes memory_mib$"),
        ("trimmed_mean", {}, r"^secure_sum\.aggregate\.trim=null: trimmed_mean needs it$"),
    ],
)
def test_another_name_or_option_is_refused_in_a_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        named(name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["sum", "trimmed_mean", "median"])  # the others have own tests
def test_the_cohorts_sum_must_fit(name):
    """7 contributions up to 8 in 63 bits: 8 * 7 * 2^57 < 2^63, and 2^58 is too much."""
    aggregate = named(name, **OPTIONS[name])
    aggregate.check(spec_of(4, 7, least=3, bound=8.0), 57, 3)
    for bits in (58, 63, 200, -1):
        with pytest.raises(ConfigError, match=rf"^secure_sum\.fractional_bits={bits}: .*7 contributions up to 8"):
            aggregate.check(spec_of(4, 7, least=3, bound=8.0), bits, 3)


@pytest.mark.parametrize("name", OPTIONS)
def test_bounds_must_be_declared_and_residues_are_for_the_sum_alone(name):
    aggregate = named(name, **OPTIONS[name])
    with pytest.raises(ConfigError, match="the update needs a bound"):
        aggregate.check(spec_of(4, 7, least=3, bound=np.inf), 16, 3)
    spec = spec_of(4, 7, least=3, bound=np.inf, modulus_bits=62)
    if name == "sum":
        aggregate.check(spec, 0, 3)
    else:
        with pytest.raises(ConfigError, match=rf"^secure_sum/aggregate={name}: .*use secure_sum/aggregate=sum$"):
            aggregate.check(spec, 0, 3)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    integers=st.lists(st.lists(st.integers(-(2**59), 2**59), min_size=4, max_size=4), min_size=1, max_size=8),
    bits=st.integers(0, 40),
)
def test_a_sum_is_exact(committee, integers, bits):
    found = committee.reveal(Sum(), np.array(integers, np.int64), bits)
    np.testing.assert_array_equal(found, [float(sum(column)) / 2**bits for column in zip(*integers, strict=True)])


@pytest.mark.slow
def test_residues_add_up_modulo_the_ring(committee):
    values = np.random.default_rng(0).integers(0, 2**62, (9, 50))
    for found in committee.call(residues, [(own,) for own in shared(values, committee.parties)]):
        np.testing.assert_array_equal(found & (2**62 - 1), values.astype(object).sum(0) % 2**62)


@pytest.mark.slow
def test_contributions_may_be_added_up_before(committee):
    values = np.random.default_rng(0).integers(-99, 99, (9, 50))
    whole = committee.reveal(Sum(), values, 3)
    np.testing.assert_array_equal(committee.reveal(Sum(), values.sum(0, keepdims=True), 3), whole)
