"""The sums that one opener opens: the contract for each, and what the opener refuses."""

import pytest

from privacy.he import BfvSum, CkksSum, PadSum
from tests.privacy.contract import SecureSumContract

HOLDERS = pytest.mark.parametrize("keys", ["keyholder", "clients"])
BOUND = 4.0


class TestPad(SecureSumContract):
    @pytest.fixture(params=["keyholder", "clients"])
    def secure_sum(self, request):
        return PadSum(request.param, BOUND)


class TestBfv(SecureSumContract):
    @pytest.fixture(params=["keyholder", "clients"])
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND)


class TestCkks(SecureSumContract):
    @pytest.fixture(params=["keyholder", "clients"])
    def secure_sum(self, request):
        return CkksSum(request.param, BOUND)
