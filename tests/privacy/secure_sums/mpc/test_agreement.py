"""The agreement of the parties on one set: what one of them did not sign, or opened before, is refused."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from privacy.addresses import Address
from privacy.errors import BadSignature, PrivacyRefusal, ProtocolError, RuntimeFailure
from privacy.secure_sums.contract import Participant
from privacy.secure_sums.meeting import Peers
from privacy.testing.harness import identity_of
from tests.privacy.secure_sums.mpc.recorded_rounds import ROLES, SUM, Change, Recorded, flipped, fresh, reveal


@dataclass
class Altered(Peers):
    """Peers that change a party's message to one peer, in one of the exchanges."""

    inner: Peers
    change: Callable[[list[bytes]], list[bytes]]
    number: int
    made: int = 0

    def exchange(self, message: bytes) -> list[bytes]:
        answers = self.inner.exchange(message)
        self.made += 1
        return self.change(answers) if self.made == self.number else answers

    def costs(self) -> dict[str, float]:
        return {}


def altered(at: Address, number: int, change: Callable[[list[bytes]], list[bytes]]) -> Change:
    def apply(me: Participant) -> Participant:
        if me.address != at:
            return me
        return replace(me, credentials=replace(me.credentials, peers=Altered(me.credentials.peers, change, number)))

    return apply


@pytest.fixture
def nothing_revealed(round_, monkeypatch):
    """Let the reveal fail as for a lost party, since peers would wait inside CrypTen for a party that refuses."""

    def gone(*_):
        raise RuntimeFailure("a party is gone")

    monkeypatch.setattr("privacy.secure_sums.mpc.protocol.revealed", gone)


@pytest.mark.usefixtures("nothing_revealed")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda answers: [answers[0], answers[1], flipped(answers[2], 3)],
        lambda answers: [answers[0], answers[1], answers[1]],
        lambda answers: [answers[0], answers[1], b""],
    ],
    ids=["flipped", "another's", "nothing"],
)
def test_what_a_party_did_not_sign_is_refused(round_, number, change):
    outcome = reveal(round_, round_.handed, altered("party/0", number, change), patience_s=1.0)["party/0"]
    assert isinstance(outcome, BadSignature)
    assert str(outcome) == "party/2 did not sign this"


def signed(round_: Recorded, what: str, body: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Let party 2 send and sign a different message."""
    me = round_.party("party/2")
    message = body + identity_of("party/2").sign(me.header(f"mpc {what}", "party/2", "parties"), body)
    return lambda answers: [answers[0], answers[1], message]


@pytest.mark.usefixtures("nothing_revealed")
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"held": [], "complaint": ""}', b"\xff"])
def test_a_list_that_is_none_is_refused(round_, body):
    outcome = reveal(round_, round_.handed, altered("party/0", 1, signed(round_, "list", body)), patience_s=1.0)[
        "party/0"
    ]
    assert isinstance(outcome, ProtocolError)
    assert str(outcome) == "party/2 sent no list of contributions"


@pytest.mark.usefixtures("nothing_revealed")
def test_another_set_is_refused(round_):
    outcome = reveal(round_, round_.handed, altered("party/0", 2, signed(round_, "set", bytes(32))), patience_s=1.0)[
        "party/0"
    ]
    assert isinstance(outcome, PrivacyRefusal)
    assert str(outcome) == "party/2 agreed to another set of contributions"


@pytest.mark.usefixtures("nothing_revealed")
@pytest.mark.parametrize("party", ROLES)
def test_a_round_that_one_party_opened_for_others_in_an_earlier_attempt_is_refused_by_all(round_, party):
    """The difference of the two sums would be an update. The others may have died before they noted it."""

    def opened_before(me: Participant) -> Participant:
        if me.address == party:
            me.credentials.store.put(f"set-{me.run}-{me.round}", b"client/0,client/1,client/2")
        return me

    outcomes = reveal(round_, round_.handed, opened_before, patience_s=5.0)
    told = "round 1 was opened for client/0,client/1,client/2 before, and not for client/0,client/1,client/2,client/3: "
    assert all(isinstance(outcome, PrivacyRefusal) for outcome in outcomes.values())
    assert str(outcomes.pop(party)).startswith(told)
    assert {str(outcome) for outcome in outcomes.values()} == {f"{party} agreed to another set of contributions"}


def test_a_party_that_does_not_answer_is_named(round_):
    handed = {role: records for role, records in round_.handed.items() if role != "party/1"}
    for outcome in reveal(round_, handed, patience_s=1.0).values():
        assert isinstance(outcome, RuntimeFailure)
        assert str(outcome) == "party/1 did not answer within 1 s"


def test_a_party_without_keys_or_peers_says_so(round_):
    for changes, match in (({"credentials": None}, "has no keys"), ({}, "has no connection to the others")):
        me = replace(round_.party("party/0"), **changes)
        if me.credentials:
            me = fresh(replace(me, credentials=replace(me.credentials, peers=None)))
        with pytest.raises(PrivacyRefusal, match=match):
            SUM.respond("reveal", round_.handed["party/0"], me, lambda: pytest.fail("trained"))


@pytest.mark.parametrize(("address", "stage"), [("client/0", "reveal"), ("keyholder", "reveal"), ("party/1", "share")])
def test_nobody_does_what_is_anothers(round_, address, stage):
    me = replace(round_.party("party/1"), address=address)
    with pytest.raises(ProtocolError, match=f"{address} (reveals|contributes) nothing"):
        SUM.respond(stage, {}, me, lambda: pytest.fail("trained"))
