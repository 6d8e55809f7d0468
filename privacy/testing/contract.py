"""The contract of every secure sum. A subclass named `Test...` with a fixture `secure_sum` inherits the whole suite."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.addresses import Address
from privacy.errors import (
    ConfigError,
    DuplicateSender,
    MalformedContribution,
    NonFiniteContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    UnknownSender,
)
from privacy.secure_sums.contract import Exchange, Records, SecureSum
from privacy.secure_sums.vectors import Total
from privacy.testing.harness import UPDATE_BOUND, Round, residue_spec, spec_of


def vectors(count: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`[v * update, v]` of `count` clients, shape (length + 1,) each."""
    generator = np.random.default_rng([count, length, seed])
    made = {}
    for client in range(count):
        v = generator.uniform(0.1, 1.0)
        update = generator.uniform(-UPDATE_BOUND, UPDATE_BOUND, length)
        made[f"client/{client}"] = np.append(v * update, v).astype(np.float32)
    return made


def assert_sum(total: Total, contributions: dict[str, np.ndarray], secure_sum: SecureSum) -> None:
    """Compare a sum with the correctly rounded sum over the survivors, coordinate by coordinate."""
    survivors = [contributions[address].astype(np.float64) for address in total.survivors]
    exact = np.array([math.fsum(column) for column in zip(*survivors, strict=True)])
    magnitude = np.array([math.fsum(abs(x) for x in column) for column in zip(*survivors, strict=True)])
    error = np.abs(np.append(total.update_D, total.weight) - exact)
    spec = spec_of(len(exact) - 1, len(contributions))
    allowed = len(survivors) * secure_sum.tolerance(spec) + 1e-12 * magnitude
    assert (error <= allowed).all(), f"off by {error.max():g}, allowed {allowed.min():g}"


def require_exact(secure_sum: SecureSum) -> None:
    """Skip what only an exact sum promises."""
    if not secure_sum.carries.exact:
        pytest.skip("the sum is approximate")


INHERITED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]  # one test, many subclasses


class SecureSumContract:
    """The contract suite; inherit it, and supply the fixture `secure_sum`."""

    def test_the_sum_is_that_of_float64(self, secure_sum: SecureSum) -> None:
        contributions = vectors(7, 300)
        total = Round(secure_sum, spec_of(300, 7), contributions).run()
        assert total.survivors == tuple(contributions)
        assert_sum(total, contributions, secure_sum)

    @settings(deadline=None, max_examples=25, suppress_health_check=INHERITED)
    @given(data=st.data(), length=st.integers(1, 40), count=st.integers(1, 6))
    def test_any_length_and_any_values(
        self, secure_sum: SecureSum, data: st.DataObject, length: int, count: int
    ) -> None:
        value = st.floats(-UPDATE_BOUND, UPDATE_BOUND, width=32)
        contributions = {
            f"client/{client}": np.array(
                [*data.draw(st.lists(value, min_size=length, max_size=length)), data.draw(st.floats(0, 1, width=32))],
                np.float32,
            )
            for client in range(count)
        }
        total = Round(secure_sum, spec_of(length, count), contributions).run()
        assert_sum(total, contributions, secure_sum)

    def test_the_order_of_arrival_changes_no_bit(self, secure_sum: SecureSum) -> None:
        require_exact(secure_sum)
        contributions = vectors(6, 50)
        for i, vector in enumerate(contributions.values()):  # so far apart that float64 rounds each addition
            vector[:-1] *= np.float32(2.0) ** (-35 * ((np.arange(50) + i) % 3))
        shuffled = np.random.default_rng(3).permutation
        totals = [
            Round(secure_sum, spec_of(50, 6), contributions, arrival=arrival).run()
            for arrival in (list, lambda addresses: addresses[::-1], lambda addresses: [*shuffled(addresses)])
        ]
        for total in totals[1:]:
            assert np.array_equal(total.update_D, totals[0].update_D)
            assert total.survivors == totals[0].survivors

    @settings(deadline=None, max_examples=25, suppress_health_check=INHERITED)
    @given(data=st.data(), length=st.integers(1, 30), count=st.integers(1, 6), bits=st.sampled_from([4, 8, 16, 31, 62]))
    def test_residues_are_summed_exactly(
        self, secure_sum: SecureSum, data: st.DataObject, length: int, count: int, bits: int
    ) -> None:
        require_exact(secure_sum)
        value = st.integers(0, 2**bits - 1)
        drawn = [[*data.draw(st.lists(value, min_size=length, max_size=length)), 1] for _ in range(count)]
        contributions = {f"client/{i}": np.array(vector, np.int64) for i, vector in enumerate(drawn)}
        try:
            total = Round(secure_sum, residue_spec(length, count, bits), contributions).run()
        except ConfigError:
            assert bits > 16, "what is wide may be refused"
            return
        expected = [sum(column) % 2**bits for column in zip(*drawn, strict=True)]
        assert [*total.update_D.tolist(), total.weight] == expected

    @pytest.mark.parametrize("value", [-1, 2**16, 2**62])
    def test_what_is_no_residue_never_leaves(self, secure_sum: SecureSum, value: float) -> None:
        require_exact(secure_sum)
        contributions = {f"client/{i}": np.array([i, i, 1], np.int64) for i in range(3)}
        contributions["client/1"][0] = value
        round_ = Round(secure_sum, residue_spec(2, 3, 16), contributions)
        assert round_.run().survivors == ("client/0", "client/2")
        assert isinstance(round_.refused["client/1"], MalformedContribution)

    def test_drop_out_at_every_stage(self, secure_sum: SecureSum) -> None:
        contributions = vectors(5, 20)
        whole = Round(secure_sum, spec_of(20, 5), contributions)
        whole.run()
        for stage in whole.stages:
            round_ = Round(secure_sum, spec_of(20, 5), contributions, gone={stage: {"client/1", "client/4"}})
            total = round_.run()
            assert {"client/0", "client/2", "client/3"} <= set(total.survivors)
            assert set(total.survivors) <= set(round_.contributed), "a survivor whom nobody asked to contribute"
            assert_sum(total, contributions, secure_sum)

    def test_nobody(self, secure_sum: SecureSum) -> None:
        with pytest.raises(TooFewContributors, match="0 contributors"):
            Round(secure_sum, spec_of(4, 3), {}).run()

    def test_everybody_drops_out(self, secure_sum: SecureSum) -> None:
        contributions = vectors(3, 4)
        whole = Round(secure_sum, spec_of(4, 3), contributions)
        whole.run()
        for stage in whole.client_stages:
            with pytest.raises(TooFewContributors):
                Round(secure_sum, spec_of(4, 3), contributions, gone={stage: set(contributions)}).run()

    def test_one_survivor(self, secure_sum: SecureSum) -> None:
        contributions = vectors(3, 4)
        whole = Round(secure_sum, spec_of(4, 3), contributions)
        whole.run()
        gone = {whole.client_stages[0]: {"client/0", "client/2"}}
        total = Round(secure_sum, spec_of(4, 3), contributions, gone=gone).run()
        assert total.survivors == ("client/1",)
        assert_sum(total, contributions, secure_sum)

    def test_fewer_than_the_minimum_are_refused(self, secure_sum: SecureSum) -> None:
        contributions = vectors(3, 4)
        whole = Round(secure_sum, spec_of(4, 3), contributions)
        whole.run()
        for stage in whole.client_stages:
            with pytest.raises(TooFewContributors, match=r"2 contributors .* 3 are needed"):
                Round(secure_sum, spec_of(4, 3, 3), contributions, gone={stage: {"client/2"}}).run()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("position", [0, 3, -1])
    def test_what_is_not_finite_never_leaves(self, secure_sum: SecureSum, value: float, position: int) -> None:
        contributions = vectors(3, 6)
        contributions["client/1"][position] = value
        round_ = Round(secure_sum, spec_of(6, 3), contributions)
        total = round_.run()
        assert isinstance(round_.refused["client/1"], NonFiniteContribution)
        assert total.survivors == ("client/0", "client/2")
        assert_sum(total, contributions, secure_sum)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda vector: vector[:-1],
            lambda vector: np.append(vector, np.float32(0)),
            lambda vector: vector.astype(np.float64),
            lambda vector: vector.reshape(1, -1),
            lambda vector: vector[:0],
        ],
        ids=["short", "long", "float64", "two-dimensional", "empty"],
    )
    def test_another_length_or_type_never_leaves(
        self, secure_sum: SecureSum, spoil: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        contributions = vectors(3, 6)
        contributions["client/1"] = spoil(contributions["client/1"])
        round_ = Round(secure_sum, spec_of(6, 3), contributions)
        total = round_.run()
        assert isinstance(round_.refused["client/1"], MalformedContribution)
        assert total.survivors == ("client/0", "client/2")

    @pytest.mark.parametrize(("position", "value"), [(-1, 1.01), (-1, -1.5), (2, 4.5)])
    def test_a_value_over_its_bound_never_leaves(self, secure_sum: SecureSum, position: int, value: float) -> None:
        contributions = vectors(3, 6)
        contributions["client/1"][position] = value
        round_ = Round(secure_sum, spec_of(6, 3), contributions)
        round_.run()
        assert isinstance(round_.refused["client/1"], MalformedContribution)

    def test_unknown_senders_are_refused_at_every_stage(self, secure_sum: SecureSum) -> None:
        intruder = "client/99"
        met = []

        class Intruded(Round):
            def serve(self, exchange: Exchange) -> None:
                with pytest.raises(UnknownSender, match=intruder):
                    exchange.deliver(intruder, {})
                met.append(exchange.stage)
                super().serve(exchange)

        contributions = vectors(3, 6)
        total = Intruded(secure_sum, spec_of(6, 3), contributions).run()
        assert met
        assert_sum(total, contributions, secure_sum)

    def test_duplicates_are_refused_at_every_stage_and_count_once(self, secure_sum: SecureSum) -> None:
        met = []

        class Doubled(Round):
            def serve(self, exchange: Exchange) -> None:
                sent = {}
                deliver = exchange.deliver

                def remember(address: Address, records: Records) -> None:
                    sent[address] = records
                    deliver(address, records)

                exchange.deliver = remember  # type: ignore[method-assign]
                super().serve(exchange)
                for address, records in sent.items():
                    with pytest.raises(DuplicateSender, match=address):
                        deliver(address, records)
                    met.append(exchange.stage)

        contributions = vectors(3, 6)
        total = Doubled(secure_sum, spec_of(6, 3), contributions).run()
        assert met
        assert_sum(total, contributions, secure_sum)

    def test_an_empty_answer_leaves_its_sender_out(self, secure_sum: SecureSum) -> None:
        class Emptied(Round):
            def respond(self, exchange: Exchange, address: Address) -> Records:
                records = super().respond(exchange, address)
                return {} if address == "client/1" and exchange.collect else records

        contributions = vectors(3, 6)
        round_ = Emptied(secure_sum, spec_of(6, 3), contributions)
        total = round_.run()
        assert "client/1" in round_.refused
        assert total.survivors == ("client/0", "client/2")
        assert_sum(total, contributions, secure_sum)

    def test_contributions_to_two_models_do_not_add_up(self, secure_sum: SecureSum) -> None:
        if not secure_sum.withstands.several_models:
            pytest.skip("this sum does not bind contributions to a model")
        contributions = {client: np.zeros_like(vector) for client, vector in vectors(5, 20).items()}
        victim = vectors(5, 20)["client/1"]
        contributions["client/1"] = victim
        round_ = Round(secure_sum, spec_of(20, 5, 2), contributions, givens={"client/1": b"another model"})
        try:
            total = round_.run()
        except (PrivacyRefusal, ProtocolError):
            return
        if "client/1" in total.survivors:
            off = np.abs(total.update_D - victim[:-1]).max()
            assert off > 0.1, "the server reads the update of the one client with another model"

    def test_an_unknown_stage_is_refused(self, secure_sum: SecureSum) -> None:
        round_ = Round(secure_sum, spec_of(6, 3), vectors(3, 6))
        with pytest.raises(ProtocolError, match="no-such-stage"):
            secure_sum.respond("no-such-stage", {}, round_.party("client/0"), lambda: pytest.fail("trained"))

    def test_memory_is_flat(self, secure_sum: SecureSum) -> None:
        round_ = Round(secure_sum, spec_of(6, 3), vectors(3, 6))
        round_.run()
        for memory in round_.memories.values():
            assert all(isinstance(value, np.ndarray | bytes | int | float | str) for value in memory.values())

    def test_the_trust_assumption_is_said(self, secure_sum: SecureSum) -> None:
        assert secure_sum.name
        assert len(secure_sum.assumption) > 10
        assert secure_sum.tolerance(spec_of(3, 2)) >= 0
