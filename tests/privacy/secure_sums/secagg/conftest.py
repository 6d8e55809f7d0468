"""A round in which the server was honest, for servers that lie afterwards."""

import pytest

from tests.privacy.secure_sums.secagg.rounds import Lying, ran


@pytest.fixture(scope="module")
def honest() -> Lying:
    """Five clients after a round, unchanged by tests, since each request goes to a copy."""
    return ran()
