"""The default minimum of contributions for opening a sum."""

import pytest

from privacy.errors import ConfigError
from tests.composed import workspace_of


@pytest.mark.parametrize(
    ("overrides", "minimum"),
    [
        (["secure_sum=plain"], 1),
        (["secure_sum=pad"], 2),
        (["secure_sum=ckks", "cohort=2"], 2),
        (["secure_sum=ckks", "secure_sum.encrypt_fraction=0.5"], 2),
        (["secure_sum=ckks", "server.min_contributors=1"], 1),
        (["secure_sum=plain", "server.min_contributors=3"], 3),
        (["secure_sum=plain", "cohort=1"], 1),
        (["secure_sum=pad", "cohort=1", "server.min_contributors=1"], 1),
    ],
)
def test_what_hides_contributions_hides_one_among_two_at_least(overrides, minimum):
    assert workspace_of(*overrides).spec.min_contributors == minimum


@pytest.mark.parametrize("alone", ["cohort=1", "clients=1"])
def test_a_cohort_of_one_hides_nothing(alone):
    with pytest.raises(ConfigError) as refusal:
        workspace_of("secure_sum=pad", alone)
    assert str(refusal.value) == (
        "server.min_contributors=null: a sum over one is its update, which pad is to hide: ask more, or set it to 1"
    )
