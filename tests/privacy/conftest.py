"""Shared fixtures: every sum opened by one opener, and committees, which take seconds to start."""

from collections.abc import Iterator

import pytest

from privacy.secure_sums.contract import SecureSum
from tests.privacy.secure_sums.he.opened_rounds import BOUND, HOLDERS, SUMS, Recorded, recorded
from tests.privacy.secure_sums.mpc.committee import Committee


@pytest.fixture(params=[(made, keys) for made in SUMS for keys in HOLDERS], ids=lambda p: f"{p[0].name}-{p[1]}")
def secure_sum(request: pytest.FixtureRequest) -> SecureSum:
    """The secure sum under test; the contract's classes have their own fixture."""
    made, keys = request.param
    return made(keys, BOUND)


@pytest.fixture
def round_(secure_sum: SecureSum) -> Recorded:
    """A whole round of the secure sum."""
    return recorded(secure_sum)


@pytest.fixture(scope="session", params=[2, 3], ids=["2 parties", "3 parties"])
def committee(request: pytest.FixtureRequest) -> Iterator[Committee]:
    """Parties and their dealer, alive all session."""
    made = Committee(request.param)
    assert made.started() == [True] * request.param
    yield made
    made.close()


@pytest.fixture(scope="session")
def three_parties() -> Iterator[Committee]:
    """Three parties, for tests to which two parties add nothing."""
    made = Committee(3)
    assert made.started() == [True] * 3
    yield made
    made.close()
