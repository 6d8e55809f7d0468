"""Secure aggregation: the contract."""

import pytest

from privacy.secagg import SecAggSum
from tests.privacy.contract import SecureSumContract
from tests.privacy.harness import UPDATE_BOUND


class TestSecAgg(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return SecAggSum(5, bound=UPDATE_BOUND)
