"""The driver in memory: who drops out and why, what a hook may change, and what is kept of the wire."""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import pytest

from privacy.errors import (
    BadSignature,
    DuplicateSender,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
)
from privacy.secure_sums.contract import Exchange, Participant
from privacy.secure_sums.exchanges import Exchanges
from privacy.secure_sums.in_memory import Drawn, InMemory, fresh_credentials
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.vectors import Total
from privacy.testing.harness import MemoryStore, spec_of

CLIENTS = ("client/0", "client/1", "client/2")
VECTORS = {address: np.array([place, 2.0, 0.5], np.float32) for place, address in enumerate(CLIENTS)}
SPEC = spec_of(2, 3, 2)


def plain(kind: type[InMemory] = InMemory, **options) -> InMemory:
    return kind(PlainSum(), SPEC, VECTORS, **options)


def with_keys(kind: type[InMemory] = InMemory, **options) -> InMemory:
    """Masked sums with signed replies, as in a run."""
    known = fresh_credentials(CLIENTS, lambda _: MemoryStore())
    return kind(SecAggSum(3, bound=4.0), SPEC, VECTORS, known=known, roster=known["client/0"].roster, **options)


def assert_sum_of(total: Total, *survivors: str) -> None:
    assert total.survivors == survivors
    exact = {("client/0", "client/1", "client/2"): [3, 6], ("client/0", "client/2"): [2, 4]}[survivors]
    assert np.allclose(total.update_D, exact, atol=1e-3)
    assert total.weight == pytest.approx(len(survivors) / 2, abs=1e-3)


@pytest.mark.parametrize("made", [plain, with_keys])
def test_all_roles_are_driven_to_the_sum(made):
    roles = made()
    roles.set_up()
    assert_sum_of(roles.aggregate(), *CLIENTS)
    assert not roles.refused


# ---- drop-outs


@pytest.mark.parametrize(("made", "stage"), [(plain, "collect"), (with_keys, "advertise"), (with_keys, "mask")])
def test_who_is_gone_at_a_stage_is_no_survivor_and_refused_nothing(made, stage):
    roles = made(gone={stage: ["client/1"]}, wire=[])
    assert_sum_of(roles.aggregate(), "client/0", "client/2")
    assert not roles.refused
    assert (stage, "client/1") not in {(passed.stage, passed.address) for passed in roles.wire}


def test_too_few_that_are_left_end_the_drive():
    with pytest.raises(TooFewContributors, match=r"1 contributors .* 2 are needed"):
        plain(gone={"collect": CLIENTS[:2]}).aggregate()


class Unwilling(InMemory):
    """Client/1 does not answer, as a role without keys."""

    def answer(self, stage, request, me, contribution):
        if me.address == "client/1":
            raise PrivacyRefusal("no keys")
        return super().answer(stage, request, me, contribution)


def test_a_role_that_refuses_has_dropped_out_and_its_reason_is_kept():
    roles = plain(Unwilling)
    assert_sum_of(roles.aggregate(), "client/0", "client/2")
    assert str(roles.refused.pop("client/1")) == "no keys"
    assert not roles.refused


def test_a_strict_drive_ends_with_the_first_refusal():
    with pytest.raises(PrivacyRefusal, match="no keys"):
        plain(Unwilling, strict=True).aggregate()
    with pytest.raises(MalformedContribution):
        plain(Shortened, strict=True).aggregate()


def test_a_stage_that_collects_nothing_gets_no_vector():
    roles = plain()
    exchange = Exchange("ask", {"client/0": {}}, lambda address, records: None)
    with pytest.raises(ProtocolError, match="stage ask asks client/0 for no contribution"):
        roles.contribution(exchange, "client/0")()


# ---- hooks


class Shortened(InMemory):
    """Somebody on the wire cuts client/1's vector."""

    def to_server(self, exchange, address, reply):
        return {"vector": reply["vector"][1:]} if address == "client/1" else reply


def test_a_reply_that_was_changed_is_refused_by_the_protocol():
    roles = plain(Shortened)
    assert_sum_of(roles.aggregate(), "client/0", "client/2")
    assert isinstance(roles.refused["client/1"], MalformedContribution)


class Altered(InMemory):
    """Somebody on the wire flips a bit of client/1's masked vector, which the protocol alone would accept."""

    def to_server(self, exchange, address, reply):
        if (exchange.stage, address) != ("mask", "client/1"):
            return reply
        masked = reply["masked"]
        return {**reply, "masked": bytes([masked[0] ^ 1]) + masked[1:]}


def test_signed_replies_are_verified_before_the_protocol_gets_them():
    roles = with_keys(Altered)
    assert_sum_of(roles.aggregate(), "client/0", "client/2")
    assert isinstance(roles.refused["client/1"], BadSignature)


class Lying(InMemory):
    """The server sends client/1 something else than the protocol does."""

    def to_role(self, exchange, address):
        return {"lie": b""} if address == "client/1" else exchange.outbox[address]

    def answer(self, stage, request, me, contribution):
        assert (request == {"lie": b""}) == (me.address == "client/1")
        return super().answer(stage, request, me, contribution)


def test_a_role_gets_the_request_that_the_hook_made_and_the_wire_keeps_it():
    roles = plain(Lying, wire=[])
    assert_sum_of(roles.aggregate(), *CLIENTS)
    assert [passed.request for passed in roles.wire] == [{}, {"lie": b""}, {}]
    for passed in roles.wire:
        assert passed.stage == "collect"
        assert np.array_equal(passed.reply["vector"], VECTORS[passed.address])


class Doubled(InMemory):
    """Every reply arrives twice."""

    def deliver(self, exchange, address, reply):
        super().deliver(exchange, address, reply)
        super().deliver(exchange, address, reply)


def test_a_reply_that_arrives_twice_is_refused_and_counts_once():
    roles = plain(Doubled)
    assert_sum_of(roles.aggregate(), *CLIENTS)
    assert set(roles.refused) == set(CLIENTS)
    assert all(isinstance(error, DuplicateSender) for error in roles.refused.values())


# ---- time


@dataclass
class Clocked(InMemory):
    """A clock that notes the role at work; two pieces of work never overlap."""

    pieces: Counter = field(default_factory=Counter)
    working: list = field(default_factory=list)

    @contextmanager
    def timed(self, address):
        assert not self.working
        self.working.append(address)
        yield
        self.working.remove(address)
        self.pieces[address] += 1

    def answer(self, stage, request, me, contribution):
        assert self.working == [me.address]
        return super().answer(stage, request, me, contribution)

    def to_server(self, exchange, address, reply):
        assert not self.working, "the wire's work is nobody's"
        assert "signature" in reply, "signing is the sender's work"
        return reply


def test_each_piece_of_work_is_timed_as_its_roles():
    """The server works once a reply, and before, between and after the five stages."""
    roles = with_keys(Clocked)
    roles.aggregate()
    assert roles.pieces == {"client/0": 5, "client/1": 5, "client/2": 5, "server": 3 * 5 + 6}


def test_a_vector_is_made_before_its_clients_time_begins_and_not_kept():
    roles = with_keys(Clocked)
    made = []

    def make(address):
        assert not roles.working
        made.append(address)
        return VECTORS[address]

    roles.vectors = Drawn(CLIENTS, make)
    assert len(roles.vectors) == 3
    assert_sum_of(roles.aggregate(), *CLIENTS)
    assert made == [*CLIENTS]


# ---- the parts of a drive


def test_the_last_step_of_the_servers_half_runs_inside_the_context_and_gives_the_result():
    seen = []

    def around(last):
        seen.append(last)
        return nullcontext()

    first = Exchange("one", {}, lambda address, records: None)
    second = Exchange("two", {}, lambda address, records: None)

    def flow():
        assert (yield first) == []
        assert (yield second) == []
        assert seen == [None, first, second]
        return "sum"

    exchanges = Exchanges(flow(), around)
    assert list(exchanges) == [first, second]
    assert exchanges.result == "sum"


def test_a_drive_stops_before_the_stage_that_is_wanted():
    roles = with_keys(wire=[])
    exchange = roles.until(roles.secure_sum.server(roles.cohort, SPEC), lambda exchange: exchange.collect)
    assert exchange.stage == "mask"
    assert not exchange.respondents()
    assert {passed.stage for passed in roles.wire} == {"advertise", "share_keys"}
    with pytest.raises(ProtocolError, match="ended before the wanted stage"):
        plain().until(PlainSum().server(CLIENTS, SPEC), lambda exchange: False)


class SetUp(PlainSum):
    """A set-up whose roles remember the round."""

    def setup(self, roles, spec):
        yield Exchange("hello", {address: {} for address in roles}, lambda address, records: None)

    def respond(self, stage, inbound, me, contribution):
        assert (me.round == 0) == (stage == "hello")
        assert not me.memory
        me.memory["met"] = stage
        return {} if stage == "hello" else super().respond(stage, inbound, me, contribution)


def test_the_set_up_is_round_zero_and_its_memory_ends_with_it():
    roles = InMemory(SetUp(), SPEC, VECTORS, number=4)
    roles.set_up()
    assert roles.number == 4
    assert_sum_of(roles.aggregate(), *CLIENTS)
    assert roles.memories["client/1"] == {"met": "collect"}
    assert not roles.refused


def test_a_participant_is_made_by_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        Participant("client/0", "run", 1, "attempt", SPEC, {}, None)
