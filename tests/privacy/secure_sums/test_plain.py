import math

import numpy as np
import pytest

from privacy.errors import MalformedContribution, NonFiniteContribution
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.vectors import OrderedSum
from privacy.testing.contract import SecureSumContract, vectors
from privacy.testing.harness import Round, residue_spec, spec_of
from tests.outside.masked_sum import MaskedSum


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

    def test_the_server_checks_residues_too(self, secure_sum):
        class Spoiled(Round):
            def respond(self, exchange, address):
                records = super().respond(exchange, address)
                wide = records["vector"].astype(np.int64)
                return {"vector": wide} if address == "client/1" else records

        contributions = {f"client/{i}": np.array([i, 9, 1], np.int64) for i in range(3)}
        round_ = Spoiled(secure_sum, residue_spec(2, 3, 12), contributions)
        assert round_.run().survivors == ("client/0", "client/2")
        assert isinstance(round_.refused["client/1"], MalformedContribution)

    @pytest.mark.parametrize(("bits", "bytes_each"), [(8, 1), (9, 2), (16, 2), (17, 4), (62, 8)])
    def test_residues_travel_in_the_narrowest_type(self, secure_sum, bits, bytes_each):
        party = Round(secure_sum, residue_spec(3, 1, bits), {}).party("client/0")
        vector = np.array([2**bits - 1, 0, 5, 1], np.int64)
        assert secure_sum.respond("collect", {}, party, lambda: vector)["vector"].nbytes == 4 * bytes_each


class TestMaskedSum(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return MaskedSum()


def test_an_ordered_sum_holds_only_what_is_ahead_of_its_turn():
    ordered = OrderedSum(["a", "b", "c"], spec_of(1, 3))
    ordered.add("c", np.ones(2, np.float32))
    ordered.add("a", np.ones(2, np.float32))
    assert set(ordered._held) == {"c"}
    ordered.add("b", np.ones(2, np.float32))
    assert not ordered._held
    assert ordered.close().tolist() == [3, 3]
