"""Shared fixtures: every sum opened by one opener, and committees, which take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # TenSEAL and torch take seconds to import, and most tests here need neither
    from privacy.secure_sums.contract import SecureSum
    from tests.privacy.secure_sums.he.opened_rounds import Recorded
    from tests.privacy.secure_sums.mpc.committee import Committee

OPENED = ("pad", "bfv", "ckks")
HOLDERS = ("keyholder", "clients")


@pytest.fixture(params=[(name, keys) for name in OPENED for keys in HOLDERS], ids="-".join)
def secure_sum(request: pytest.FixtureRequest) -> SecureSum:
    """The secure sum under test; the contract's classes have their own fixture."""
    from tests.privacy.secure_sums.he.opened_rounds import BOUND, SUMS

    made = {made.name: made for made in SUMS}
    assert tuple(made) == OPENED
    name, keys = request.param
    return made[name](keys, BOUND)


@pytest.fixture
def round_(secure_sum: SecureSum) -> Recorded:
    """A whole round of the secure sum."""
    from tests.privacy.secure_sums.he.opened_rounds import recorded

    return recorded(secure_sum)


@pytest.fixture(scope="session", params=[2, 3], ids=["2 parties", "3 parties"])
def committee(request: pytest.FixtureRequest) -> Iterator[Committee]:
    """Parties and their dealer, alive all session."""
    yield from alive(request.param)


@pytest.fixture(scope="session")
def three_parties() -> Iterator[Committee]:
    """Three parties, for tests in which two would show nothing more."""
    yield from alive(3)


def alive(parties: int) -> Iterator[Committee]:
    """A committee that has started, until the session ends."""
    from tests.privacy.secure_sums.mpc.committee import Committee

    made = Committee(parties)
    assert made.started() == [True] * parties
    yield made
    made.close()
