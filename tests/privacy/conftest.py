"""What several files here try: every sum that one opener opens, in both arrangements of keys."""

import pytest

from privacy.secure_sum import SecureSum
from tests.privacy.opened_rounds import BOUND, HOLDERS, SUMS, Recorded, recorded


@pytest.fixture(params=[(made, keys) for made in SUMS for keys in HOLDERS], ids=lambda p: f"{p[0].name}-{p[1]}")
def secure_sum(request: pytest.FixtureRequest) -> SecureSum:
    """The contract's classes have their own."""
    made, keys = request.param
    return made(keys, BOUND)


@pytest.fixture
def round_(secure_sum: SecureSum) -> Recorded:
    """A whole round of it."""
    return recorded(secure_sum)
