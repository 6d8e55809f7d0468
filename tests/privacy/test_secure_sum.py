import math

import numpy as np
import pytest

from privacy.errors import MalformedContribution, NonFiniteContribution
from privacy.secure_sum import OrderedSum, PlainSum
from tests.outside.masked_sum import MaskedSum
from tests.privacy.contract import SecureSumContract, vectors
from tests.privacy.harness import Round, spec_of


class TestPlainSum(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return PlainSum()

    @pytest.mark.parametrize(
        ("spoil", "error"),
        [
            (lambda vector: vector * np.float32(math.nan), NonFiniteContribution),
            (lambda vector: vector[1:], MalformedContribution),
            (lambda vector: vector.astype(np.float64), MalformedContribution),
            (lambda vector: vector.tobytes(), MalformedContribution),
        ],
    )
    def test_the_server_checks_what_a_client_should_not_have_sent(self, secure_sum, spoil, error):
        class Spoiled(Round):
            def respond(self, exchange, address):
                records = super().respond(exchange, address)
                return {"vector": spoil(records["vector"])} if address == "client/1" else records

        round_ = Spoiled(secure_sum, spec_of(6, 3), vectors(3, 6))
        assert round_.run().survivors == ("client/0", "client/2")
        assert type(round_.refused["client/1"]) is error


class TestMaskedSum(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return MaskedSum()


def test_an_ordered_sum_holds_only_what_is_ahead_of_its_turn():
    ordered = OrderedSum(["a", "b", "c"], 2)
    ordered.add("c", np.ones(2, np.float32))
    ordered.add("a", np.ones(2, np.float32))
    assert set(ordered._held) == {"c"}
    ordered.add("b", np.ones(2, np.float32))
    assert not ordered._held
    assert ordered.close().tolist() == [3, 3]
