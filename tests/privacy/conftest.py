"""Committees that many tests ask: they take seconds to start."""

from collections.abc import Iterator

import pytest

from tests.privacy.committee import Committee


@pytest.fixture(scope="session", params=[2, 3], ids=["2 parties", "3 parties"])
def committee(request: pytest.FixtureRequest) -> Iterator[Committee]:
    """Parties and their dealer, alive all session."""
    made = Committee(request.param)
    assert made.started() == [True] * request.param
    yield made
    made.close()


@pytest.fixture(scope="session")
def three_parties() -> Iterator[Committee]:
    """Where two would show nothing more."""
    made = Committee(3)
    assert made.started() == [True] * 3
    yield made
    made.close()
