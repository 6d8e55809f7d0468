"""A recorded round of CrypTen's sum for the tests of its parties."""

import pytest

from tests.privacy.secure_sums.mpc.recorded_rounds import Recorded, recorded


@pytest.fixture
def round_() -> Recorded:
    """A whole round of CrypTen's sum, with four clients and three parties."""
    return recorded()
