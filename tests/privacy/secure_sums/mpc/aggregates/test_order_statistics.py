"""`trimmed_mean` and `median` on real parties, against NumPy's sort of the shared integers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, TooFewContributors
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.aggregates.contract import BYTES_PER_VALUE
from tests.privacy.secure_sums.mpc.aggregates.specs import spec_of
from tests.privacy.secure_sums.mpc.committee import shared

BITS = 16
ONE = 1 << BITS
EXTREMES = [-(2**63), 2**63 - 1, 2**62, -(2**62) - 1, 0, 1, -1]
few = settings(max_examples=15, deadline=None)


def weighed(update_CD: np.ndarray) -> np.ndarray:
    return np.column_stack([update_CD, np.full(len(update_CD), ONE)])


def middle_mean(update_CD: np.ndarray, trim: int) -> np.ndarray:
    """n times the mean of the middle ranks, and n, by definition in Python's integers."""
    count = len(update_CD)
    kept = np.sort(update_CD, axis=0)[trim : count - trim].astype(object).sum(0) / (count - 2 * trim) / ONE
    return np.append(kept.astype(float) * count, count)


words = st.one_of(st.integers(-5, 5), st.integers(-ONE, ONE))
columns = st.integers(1, 70)


def rows(count: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    """Small values, many of them equal, shape (C, D)."""
    return st.builds(
        lambda count, columns, values, seed: np.random.default_rng(seed).choice(np.array(values), (count, columns)),
        count,
        columns,
        st.lists(words, min_size=1, max_size=8),
        st.integers(0, 999),
    )


@pytest.mark.slow
@few
@given(update_CD=rows(st.integers(1, 9)))
def test_the_median_is_that_of_numpy(committee, update_CD):
    found = committee.reveal(named("median"), weighed(update_CD), BITS)
    np.testing.assert_allclose(
        found, [*np.median(update_CD, axis=0) / ONE * len(update_CD), len(update_CD)], rtol=1e-15
    )


@pytest.mark.slow
@few
@given(update_CD=rows(st.integers(5, 12)), trim=st.integers(1, 2))
def test_the_trimmed_mean_is_that_of_the_definition(committee, update_CD, trim):
    found = committee.reveal(named("trimmed_mean", trim=trim), weighed(update_CD), BITS)
    np.testing.assert_allclose(found, middle_mean(update_CD, trim), rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("attackers", [1, 2, 4])
def test_no_word_moves_it_beyond_the_honest_ones(committee, attackers):
    """Differences of these words wrap: by them an attacker's would lie in the middle."""
    generator = np.random.default_rng(attackers)
    honest_CD = generator.integers(-ONE, ONE, (9 - attackers, len(EXTREMES) * 20))
    attacks_CD = generator.choice(np.array(EXTREMES), (attackers, honest_CD.shape[1]))
    everybody_CD = np.vstack([attacks_CD, honest_CD])
    for name, options, trim in [("median", {}, 4), ("trimmed_mean", {"trim": attackers}, attackers)]:
        found = committee.reveal(named(name, **options), weighed(everybody_CD), BITS)
        np.testing.assert_allclose(found, middle_mean(everybody_CD, trim), rtol=1e-15)
        assert (found[:-1] / 9 <= honest_CD.max(0) / ONE).all()
        assert (found[:-1] / 9 >= honest_CD.min(0) / ONE).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 7, -ONE])
def test_equal_values_are_their_own_mean(committee, value):
    update_CD = np.full((6, 65), value)
    for name, options in [("median", {}), ("trimmed_mean", {"trim": 2})]:
        found = committee.reveal(named(name, **options), weighed(update_CD), BITS)
        np.testing.assert_array_equal(found, [*[6 * value / ONE] * 65, 6])


@pytest.mark.slow
def test_the_weights_that_were_sent_do_not_matter(committee):
    integers_CL = weighed(np.arange(15).reshape(5, 3))
    integers_CL[:, -1] = [0, -1, 2**63 - 1, 5, ONE]
    np.testing.assert_array_equal(committee.reveal(named("median"), integers_CL, 0), [30, 35, 40, 5])


@pytest.mark.slow
@pytest.mark.parametrize("contributors", [30, 31])
def test_many_contributors(three_parties, contributors):
    update_CD = np.random.default_rng(1).integers(-ONE, ONE, (contributors, 100))
    found = three_parties.reveal(named("trimmed_mean", trim=7), weighed(update_CD), BITS)
    np.testing.assert_allclose(found, middle_mean(update_CD, 7), rtol=1e-15)


@pytest.mark.slow
def test_fewer_than_are_dropped_are_refused_and_the_parties_go_on(committee):
    with pytest.raises(TooFewContributors, match="4 contributors are left, trimmed_mean needs 5"):
        committee.reveal(named("trimmed_mean", trim=2), weighed(np.zeros((4, 3), np.int64)), BITS)
    np.testing.assert_array_equal(committee.reveal(named("median"), weighed(np.ones((4, 1), np.int64)), 0), [4, 4])


# ---- blocks


def peak_mib(aggregate, shares):
    """In a party: the rise of resident memory over its start."""
    import torch

    from privacy.randomness import OsRandomness

    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    aggregate.reveal(torch.from_numpy(shares), BITS, OsRandomness())
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("median", {}), ("norm_bounded", {"norm": 1.0})])
def test_memory_stays_within_its_bound(three_parties, name, options):
    """The result of all coordinates and the allocator's reserve come on top."""
    integers_CL = weighed(np.random.default_rng(0).integers(-99, 99, (10, 60_000)))
    assert integers_CL.size * BYTES_PER_VALUE > 130 << 20
    aggregate = named(name, memory_mib=16, **options)
    peaks = three_parties.call(peak_mib, [(aggregate, own) for own in shared(integers_CL, 3)])
    assert max(peaks) < 16 * 1.5 + 8


@pytest.mark.slow
def test_blocks_of_coordinates_change_nothing(committee):
    integers_CL = weighed(np.random.default_rng(0).integers(-ONE, ONE, (5, 200)))
    least, most = (committee.reveal(named("median", memory_mib=m), integers_CL, BITS) for m in (0.001, 100))
    np.testing.assert_array_equal(least, most)


# ---- refusals


def test_a_range_that_cannot_hold_is_refused_by_its_arithmetic():
    with pytest.raises(ConfigError) as refused:
        named("median").check(spec_of(10, 10), 60, 3)
    assert str(refused.value) == (
        "secure_sum.fractional_bits=60: 10 contributions up to 1 must stay below 2^63 / 2^fractional_bits: from 0 to 59"
    )
    named("median").check(spec_of(10, 10), 59, 3)


def test_a_trim_leaves_somebody():
    with pytest.raises(ConfigError, match=r"secure_sum\.aggregate\.trim=0: must be at least 1"):
        named("trimmed_mean", trim=0)
    with pytest.raises(
        ConfigError, match=r"server\.min_contributors=4: must be above 2 \* secure_sum\.aggregate\.trim = 4"
    ):
        named("trimmed_mean", trim=2).check(spec_of(10, 10, least=4), BITS, 3)
    named("trimmed_mean", trim=2).check(spec_of(10, 10, least=5), BITS, 3)


@pytest.mark.parametrize(("name", "options"), [("median", {}), ("trimmed_mean", {"trim": 1})])
def test_residues_and_memory_that_is_none_are_refused(name, options):
    spec = spec_of(10, 10, least=10, modulus_bits=16)
    with pytest.raises(ConfigError, match="the mechanism releases residues"):
        named(name, **options).check(spec, 0, 3)
    with pytest.raises(ConfigError, match=r"secure_sum\.aggregate\.memory_mib=-1"):
        named(name, memory_mib=-1, **options)
