from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.vectors import Segment, VectorSpec
from privacy.testing.harness import residue_spec


def spec_with(bounds: list[float], cohort: int) -> VectorSpec:
    segments = tuple(Segment(f"part{i}", 2, bound) for i, bound in enumerate(bounds))
    return VectorSpec((*segments, Segment("weight", 1, 1.0)), cohort)


@given(
    st.data(),
    st.lists(st.sampled_from([1e-6, 0.3, 1.0, 7.5, 1e4]), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(2, 32),
)
@settings(max_examples=200, deadline=None)
def test_a_sum_is_off_by_half_a_step_a_contribution_at_most(data, bounds, count, bits):
    spec = spec_with(bounds, count)
    fixed = FixedPoint.of(spec, bits, "secure_sum")
    limits = np.nextafter(np.repeat([*bounds, 1.0], [2] * len(bounds) + [1]).astype(np.float32), np.float32(0))
    shares = st.lists(st.floats(-1, 1, width=32), min_size=len(limits), max_size=len(limits))
    vectors = [np.array(data.draw(shares), np.float32) * limits for _ in range(count)]
    vectors = [np.clip(vector, -limits, limits) for vector in vectors]
    total = np.zeros(len(limits), np.uint64)
    for vector in vectors:
        encoded = fixed.encode(spec.check(vector))
        assert encoded.dtype == np.uint64
        assert int(encoded.max()) < 2**bits
        total += encoded
    assert int(total.max()) < 2**fixed.sum_bits
    opened = fixed.decode(total, count)
    for j, bound in enumerate(np.repeat([*bounds, 1.0], [2] * len(bounds) + [1])):
        exact = sum(Fraction(float(vector[j])) for vector in vectors)
        step = Fraction(float(bound)) / (2 ** (bits - 1) - 1)
        assert abs(Fraction(opened[j]) - exact) <= count * step * Fraction(501, 1000)


@given(st.data(), st.integers(1, 20), st.sampled_from([4, 16, 40, 62]))
def test_residues_come_through_as_they_are(data, count, bits):
    fixed = FixedPoint.of(residue_spec(3, count, bits), 16, "secure_sum")
    value = st.integers(0, 2**bits - 1)
    vectors = [np.array([*data.draw(st.tuples(value, value, value)), 1], np.int64) for _ in range(count)]
    total = np.sum([fixed.encode(vector) for vector in vectors], axis=0, dtype=np.uint64)  # modulo 2^64
    expected = [sum(int(vector[j]) for vector in vectors) % 2**bits for j in range(4)]
    assert fixed.decode(total, count).tolist() == expected
    assert fixed.tolerance == 0


@pytest.mark.parametrize(
    ("bounds", "cohort", "bits", "message"),
    [
        ([1.0], 4, 1, r"^secure_sum\.value_bits=1: must be from 2 to 32$"),
        ([1.0], 4, 33, r"^secure_sum\.value_bits=33: must be from 2 to 32$"),
        ([1.0, float("inf")], 4, 16, r"^secure_sum\.bound=None: the part1 needs a bound: give the largest value$"),
        ([1.0], 2**33, 32, r"^secure_sum\.value_bits=32: a sum of 8589934592 takes 65 bits, 64 at most$"),
    ],
)
def test_what_is_refused(bounds, cohort, bits, message):
    with pytest.raises(ConfigError, match=message):
        FixedPoint.of(spec_with(bounds, cohort), bits, "secure_sum")


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_more_bits_are_closer(bits):
    spec = spec_with([1.0], 1)
    vector = np.array([0.1, -0.7, 1.0], np.float32)
    fixed = FixedPoint.of(spec, bits, "secure_sum")
    error = np.abs(fixed.decode(fixed.encode(vector), 1) - vector.astype(np.float64)).max()
    assert error <= fixed.tolerance
    assert error > 0 or bits == 24


@pytest.mark.parametrize("contributors", [1, 2, 4, 7])
def test_a_sum_is_decoded_by_who_is_in_it_and_not_by_the_cohort(contributors):
    """A cohort of seven: each integer holds an offset, of which there are as many as contributions."""
    spec = spec_with([4.0], 7)
    fixed = FixedPoint.of(spec, 16, "secure_sum")
    vector = np.array([-4.0, 1.0, 0.5], np.float32)
    total = np.sum([fixed.encode(vector) for _ in range(contributors)], axis=0, dtype=np.uint64)
    assert fixed.decode(total, contributors) == pytest.approx(contributors * vector, abs=1e-3)
