"""CrypTen's sum: the contract, counted contributions, and refusals of the parties and the server."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import (
    BadSignature,
    ConfigError,
    FedveilError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    RuntimeFailure,
    TooFewContributors,
)
from privacy.secure_sums.contract import Exchange, Participant, Records
from privacy.secure_sums.meeting import Peers
from privacy.secure_sums.mpc.agreement import SIGNATURE_BYTES, Manifest, manifest_bytes
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.secure_sums.vectors import VectorSpec
from privacy.testing import party_threads
from privacy.testing.contract import SecureSumContract, assert_sum, vectors
from privacy.testing.harness import UPDATE_BOUND, MemoryStore, Round, identity_of, spec_of

COUNT = 4
LENGTH = 30
PARTIES = 3
MINIMUM = 2
ROLES = ("party/0", "party/1", "party/2")
SUM = CryptenSum(PARTIES, UPDATE_BOUND)
REPORT = {"digest", "left out"}


class TestCrypten(SecureSumContract):
    @pytest.fixture(params=[2, 3], ids="{} parties".format)
    def secure_sum(self, request):
        return CryptenSum(request.param, UPDATE_BOUND)


# ---- recorded rounds


@dataclass
class Recorded(Round):
    passed: dict[tuple[str, Address], tuple[Records, Records]] = field(default_factory=dict)

    def respond(self, exchange: Exchange, address: Address) -> Records:
        records = super().respond(exchange, address)
        self.passed[exchange.stage, address] = exchange.outbox[address], records
        return records

    @property
    def handed(self) -> dict[Address, dict]:
        """The records sent to each party."""
        return {role: dict(self.passed["reveal", role][0]) for role in ROLES}

    def uploads(self) -> dict[Address, Records]:
        return {address: reply for (stage, address), (_, reply) in self.passed.items() if stage == "share"}


def recorded(secure_sum: CryptenSum = SUM, count: int = COUNT, length: int = LENGTH) -> Recorded:
    round_ = Recorded(secure_sum, spec_of(length, count, MINIMUM), vectors(count, length))
    round_.run()
    return round_


@pytest.fixture
def round_():
    return recorded()


Change = Callable[[Participant], Participant]
Outcome = Records | FedveilError


def reveal(
    round_: Recorded,
    handed: Mapping[Address, Records],
    change: Change = lambda me: me,
    patience_s: float = party_threads.PATIENCE_S,
) -> dict[str, Outcome]:
    """The answer of each fresh party; `change` alters the parties."""
    round_.peers = party_threads.peers_among(ROLES, patience_s)

    def respond(address: Address, me: Participant) -> Outcome:
        try:
            return round_.secure_sum.respond("reveal", handed[address], me, lambda: pytest.fail("trained"))
        except FedveilError as error:
            return error

    parties = {role: change(fresh(round_.party(role))) for role in ROLES}
    futures = [
        party_threads.submit(PARTIES, index, respond, role, parties[role])
        for index, role in enumerate(ROLES)
        if role in handed
    ]
    return dict(zip(handed, (future.result() for future in futures), strict=True))


def fresh(me: Participant) -> Participant:
    return replace(me, credentials=replace(me.credentials, store=MemoryStore()))


def assert_refused(outcomes: Mapping[str, Outcome], party: Address, error: type[Exception], match: str) -> None:
    """Assert that one party refuses for a reason, and the others because it told them."""
    assert isinstance(outcomes[party], error), outcomes
    assert match in str(outcomes[party])
    for other in set(outcomes) - {party}:
        assert isinstance(outcomes[other], PrivacyRefusal), outcomes
        assert str(outcomes[other]).startswith(f"{party}: "), outcomes
        assert match in str(outcomes[other])


def flipped(value: bytes, place: int = 40) -> bytes:
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


# ---- which contributions count


def test_all_parties_open_the_same_and_one_tells_it(round_):
    outcomes = reveal(round_, round_.handed)
    assert len({outcome["digest"] for outcome in outcomes.values()}) == 1
    assert [set(outcomes[role]) for role in ROLES] == [REPORT | {"sum", "contributors"}, REPORT, REPORT]
    exact = np.sum([vector.astype(np.float64) for vector in round_.vectors.values()], axis=0)
    assert np.abs(outcomes["party/0"]["sum"] - exact).max() <= COUNT * 2**-17


def test_a_negative_sum_just_above_a_whole_number_is_itself():
    """CrypTen's own decoder is off by one there."""
    vector = np.array([-1.5, -2.0, -3.75, 1.0], np.float32)
    rest = np.array([-0.5 + 2**-16, 2**-16, -0.25 + 3 * 2**-16, 1.0], np.float32)
    total = Round(SUM, spec_of(3, 2), {"client/0": vector, "client/1": rest}).run()
    assert total.update_D.tolist() == [-2 + 2**-16, -2 + 2**-16, -4 + 3 * 2**-16]


@pytest.mark.parametrize("where", ROLES)
def test_a_contribution_that_one_party_was_not_handed_is_left_out_by_all(round_, where):
    handed = round_.handed
    handed[where] = without(handed[where], "client/2")
    outcomes = reveal(round_, handed)
    assert outcomes["party/0"]["contributors"] == "client/0,client/1,client/3"
    assert len({outcome["digest"] for outcome in outcomes.values()}) == 1
    left = [round_.vectors[f"client/{client}"].astype(np.float64) for client in (0, 1, 3)]
    assert np.abs(outcomes["party/0"]["sum"] - np.sum(left, axis=0)).max() <= 3 * 2**-17


def without(records: Records, client: Address) -> Records:
    names = str(records["contributors"]).split(",")
    place = names.index(client)
    size = manifest_bytes(PARTIES)
    manifests = records["manifests"][: size * place] + records["manifests"][size * (place + 1) :]
    kept = {name: value for name, value in records.items() if name != client}
    return {**kept, "contributors": ",".join(n for n in names if n != client), "manifests": manifests}


def test_sets_that_have_too_little_in_common_are_refused_by_all(round_):
    handed = round_.handed
    handed["party/0"] = without(without(handed["party/0"], "client/2"), "client/3")
    handed["party/2"] = without(handed["party/2"], "client/0")
    for outcome in reveal(round_, handed).values():
        assert isinstance(outcome, TooFewContributors)
        assert "1 contributors are left of 4, 2 are needed" in str(outcome)


def test_more_than_a_cohort_is_refused(round_):
    smaller = VectorSpec(round_.spec.segments, COUNT - 1, MINIMUM)
    for outcome in reveal(round_, round_.handed, lambda me: replace(me, spec=smaller)).values():
        assert isinstance(outcome, PrivacyRefusal)
        assert "4 contributors are more than a cohort of 3" in str(outcome)


def test_the_set_is_kept_before_anything_is_revealed(round_, monkeypatch):
    stores: dict[Address, MemoryStore] = {}

    def remember(me: Participant) -> Participant:
        stores[me.address] = me.credentials.store
        return me

    def gone(*_):
        raise RuntimeFailure("the power failed")

    monkeypatch.setattr("privacy.secure_sums.mpc.protocol.revealed", gone)
    assert all(isinstance(outcome, RuntimeFailure) for outcome in reveal(round_, round_.handed, remember).values())
    sizes = manifest_bytes(PARTIES)
    manifests = round_.handed["party/0"]["manifests"]
    expected = {f"client/{i}": hashlib.sha256(manifests[sizes * i : sizes * (i + 1)]).hexdigest() for i in range(COUNT)}
    for role in ROLES:
        name = f"{round_.party(role).run}-1-{round_.party(role).attempt}"
        attempt = f"set-{name}"
        whole = f"set-{round_.party(role).run}-1"
        assert set(stores[role].values) == {f"revealed-{name}", attempt, whole}
        assert json.loads(stores[role].values[attempt]) == expected
        assert stores[role].values[whole] == ",".join(sorted(expected)).encode()


def test_an_attempt_is_revealed_once(round_):
    outcomes = reveal(round_, round_.handed, round_used(round_, *ROLES))
    assert {str(outcome) for outcome in outcomes.values()} == {"round 1 was revealed before, in this attempt"}
    assert all(isinstance(outcome, PrivacyRefusal) for outcome in outcomes.values())


@pytest.mark.parametrize("party", ROLES)
def test_a_party_that_restarts_remembers_and_the_others_hear_of_it(round_, party):
    outcomes = reveal(round_, round_.handed, round_used(round_, party))
    assert_refused(outcomes, party, PrivacyRefusal, "round 1 was revealed before, in this attempt")


def round_used(round_: Recorded, *roles: Address) -> Change:
    """A round whose parties keep the stores with which they have answered."""

    def change(me: Participant) -> Participant:
        store = round_.stores[me.address] if me.address in roles else me.credentials.store
        return replace(me, credentials=replace(me.credentials, store=store))

    return change


# ---- altered messages


@pytest.mark.parametrize("party", ROLES)
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda records: {**records, "client/1": flipped(records["client/1"])}, BadSignature),
        (lambda records: {**records, "client/1": flipped(records["client/1"], -1)}, BadSignature),
        (lambda records: {**records, "client/1": records["client/1"][:-1]}, BadSignature),
        (lambda records: {**records, "client/1": records["client/3"]}, BadSignature),
        (lambda records: {**records, "client/1": 7}, MalformedContribution),
        (lambda records: {n: v for n, v in records.items() if n != "client/1"}, MalformedContribution),
    ],
    ids=["flipped", "tag", "short", "another's", "number", "none"],
)
def test_a_box_that_was_tampered_with_is_named_by_all(round_, party, spoil, error):
    handed = round_.handed
    handed[party] = spoil(handed[party])
    assert_refused(reveal(round_, handed), party, error, "the contribution of client/1 was altered on its way")


@pytest.mark.parametrize("place", [0, 32, 40, manifest_bytes(PARTIES) - 1])
def test_who_did_not_sign_the_manifest_that_one_party_has_is_left_out_by_all(round_, place):
    handed = round_.handed
    manifests = handed["party/1"]["manifests"]
    handed["party/1"]["manifests"] = flipped(manifests, manifest_bytes(PARTIES) + place)
    assert_left_out(round_, reveal(round_, handed), "client/1", {"party/1": "client/1: client/1 did not sign this"})


def assert_left_out(round_: Recorded, outcomes: Mapping[str, Outcome], client: Address, told: dict[str, str]) -> None:
    """Assert that all parties open the sum of the others; the parties that know the reason report it."""
    exact = np.sum([v.astype(np.float64) for name, v in round_.vectors.items() if name != client], axis=0)
    assert np.abs(outcomes["party/0"]["sum"] - exact).max() <= COUNT * 2**-17
    assert client not in outcomes["party/0"]["contributors"].split(",")
    assert len({outcome["digest"] for outcome in outcomes.values()}) == 1
    assert {role: outcome["left out"] for role, outcome in outcomes.items() if outcome["left out"]} == told


@pytest.mark.parametrize(
    "changes",
    [{"contributors": "client/0"}, {"contributors": "client/0,client/0,client/1,client/3"}, {"manifests": b""}],
)
def test_contributors_and_manifests_must_match(round_, changes):
    handed = round_.handed
    handed["party/2"] |= changes
    assert_refused(reveal(round_, handed), "party/2", ProtocolError, "contributors and their manifests do not match")


@pytest.mark.parametrize("name", ["party/1", "client/", "client/x", "client/9", "", "client/٣"])
def test_who_is_no_client_of_the_roster_contributes_nothing(round_, name):
    handed = round_.handed
    for role in ROLES:
        handed[role]["contributors"] = f"client/0,{name},client/2,client/3"
        handed[role][name] = handed[role]["client/1"]
    outcomes = reveal(round_, handed)
    assert outcomes["party/0"]["contributors"] == "client/0,client/2,client/3"
    assert all(outcome["left out"].startswith(f"{name}: ") for outcome in outcomes.values())


@pytest.mark.parametrize("changes", [{"attempt": "another"}, {"round": 2}, {"run": "cd" * 32}])
def test_what_was_sealed_for_another_attempt_is_refused(round_, changes):
    for outcome in reveal(round_, round_.handed, lambda me: replace(me, **changes)).values():
        assert isinstance(outcome, TooFewContributors)
        assert "0 contributors are left" in str(outcome)
        assert "left out is client/0: client/0 did not sign this" in str(outcome)


def again(round_: Recorded, client: Address) -> Records:
    """The upload of a client asked again in the same attempt."""
    round_.stages.append("share")  # so that its randomness is another
    return SUM.respond("share", {}, round_.party(client), lambda: round_.vectors[client])


def replaced(records: Records, client: Address, upload: Records, party: Address) -> Records:
    size = manifest_bytes(PARTIES)
    place = str(records["contributors"]).split(",").index(client)
    manifests = records["manifests"]
    manifests = manifests[: size * place] + upload["manifest"] + manifests[size * (place + 1) :]
    return {**records, client: upload[party], "manifests": manifests}


def test_a_client_that_gives_different_sets_of_boxes_is_named_by_all(round_):
    second = again(round_, "client/2")
    handed = round_.handed
    handed["party/1"] = replaced(handed["party/1"], "client/2", second, "party/1")
    for outcome in reveal(round_, handed).values():
        assert isinstance(outcome, PrivacyRefusal)
        assert str(outcome) == "client/2 gave the parties different sets of boxes"


def test_a_box_of_another_submission_under_the_first_manifest_is_named_by_all(round_):
    """Its client sealed it, in this attempt: the sum of such shares would be noise."""
    second = again(round_, "client/2")
    handed = round_.handed
    handed["party/1"]["client/2"] = second["party/1"]
    outcomes = reveal(round_, handed)
    assert_refused(outcomes, "party/1", BadSignature, "of client/2 was altered on its way: a box is not the one")


def test_a_client_may_submit_again_to_all(round_):
    second = again(round_, "client/2")
    handed = round_.handed
    handed = {role: replaced(handed[role], "client/2", second, role) for role in ROLES}
    total = reveal(round_, handed)["party/0"]["sum"]
    assert np.array_equal(total, round_.passed["reveal", "party/0"][1]["sum"])


def test_the_same_boxes_sealed_by_somebody_else_are_refused(round_):
    """A client cannot pass on boxes sealed by another, under its own manifest."""
    handed = round_.handed
    boxes = [handed[role]["client/1"] for role in ROLES]
    stolen = Manifest.of(bytes(32), boxes).signed(round_.party("client/3"))
    for role in ROLES:
        handed[role] = replaced(handed[role], "client/3", {role: handed[role]["client/1"], "manifest": stolen}, role)
    told = "client/3: client/3 did not seal this box"
    assert_left_out(round_, reveal(round_, handed), "client/3", dict.fromkeys(ROLES, told))


def test_who_shares_a_vector_of_another_length_is_left_out_by_all(round_):
    """At the party that gets it: the others have keys."""
    longer = replace(round_.party("client/1"), spec=spec_of(LENGTH + 1, COUNT))
    upload = SUM.respond("share", {}, longer, lambda: vectors(2, LENGTH + 1)["client/1"])
    handed = {role: replaced(records, "client/1", upload, role) for role, records in round_.handed.items()}
    told = {"party/1": f"client/1: a share must have {4 * (LENGTH + 1)} bytes, got {4 * (LENGTH + 2)}"}
    assert_left_out(round_, reveal(round_, handed), "client/1", told)


def test_shares_of_another_length_leave_nobody(round_):
    class Short(CryptenSum):
        def _whole(self, client):
            return (super()._whole(client) + 1) % PARTIES  # keys where vectors are expected

    short = Recorded(Short(PARTIES, UPDATE_BOUND), round_.spec, round_.vectors)
    short.run()
    short.secure_sum = SUM
    for outcome in reveal(short, short.handed).values():
        assert isinstance(outcome, TooFewContributors)
        assert ": a share must have" in str(outcome)


# ---- between the parties


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


# ---- the server


def at_server(change: Callable[[str, Address, Records], Records]) -> Recorded:
    """A round in which the server gets altered records."""

    class Changed(Recorded):
        def respond(self, exchange, address):
            return change(exchange.stage, address, super().respond(exchange, address))

    return Changed(SUM, spec_of(LENGTH, COUNT, MINIMUM), vectors(COUNT, LENGTH))


@pytest.mark.parametrize(
    "changes",
    [{"manifest": b""}, {"manifest": bytes(manifest_bytes(PARTIES))}, {"party/2": b""}, {"party/0": bytes(99)}],
)
def test_a_client_whose_boxes_are_not_those_of_its_manifest_is_left_out(changes):
    round_ = at_server(lambda _, address, records: {**records, **(changes if address == "client/1" else {})})
    total = round_.run()
    assert total.survivors == ("client/0", "client/2", "client/3")
    assert isinstance(round_.refused["client/1"], ProtocolError)
    assert_sum(total, round_.vectors, SUM)


@pytest.mark.parametrize(
    ("party", "changes", "error"),
    [
        ("party/0", {"sum": np.zeros(LENGTH + 1)}, "^party/0 reports a different sum from the one it revealed$"),
        ("party/1", {"digest": bytes(32)}, "^party/1 revealed a different sum from party/0: one of them is broken$"),
        ("party/0", {"contributors": "client/0"}, "^party/0 reports a different sum from the one it revealed$"),
        ("party/0", {"sum": np.full(LENGTH + 1, np.nan)}, "party/0 did not reveal the sum"),
        ("party/0", {"sum": np.zeros(LENGTH)}, "party/0 did not reveal the sum"),
        ("party/2", {"digest": None}, "party/2 did not reveal the sum"),
    ],
)
def test_a_wrong_report_is_found_out(party, changes, error):
    def change(stage, address, records):
        changed = {**records, **changes} if address == party and stage == "reveal" else records
        return {name: value for name, value in changed.items() if value is not None}

    with pytest.raises(PrivacyRefusal, match=error):
        at_server(change).run()


def test_contributors_that_sent_nothing_are_refused():
    flow = SUM.server(["client/0", "client/1"], spec_of(2, 2))
    exchange = next(flow)
    uploads = recorded(count=2, length=2).uploads()
    for address, upload in uploads.items():
        exchange.deliver(address, upload)
    exchange = flow.send(exchange.respondents())
    digest = hashlib.sha256(np.zeros(3).tobytes() + b"client/0,client/7").digest()
    for role in ROLES:
        exchange.deliver(role, {"sum": np.zeros(3), "contributors": "client/0,client/7", "digest": digest})
    with pytest.raises(PrivacyRefusal, match="name contributors that sent nothing"):
        flow.send(exchange.respondents())


@pytest.mark.parametrize("gone", [{"party/1"}, {"party/0", "party/2"}])
def test_parties_that_are_missing_are_named(gone):
    class Without(Round):
        def answers(self, exchange, there):
            if exchange.stage == "reveal":
                return [(role, lambda: {"digest": b"", "sum": np.zeros(5)}) for role in there]
            return super().answers(exchange, there)

    round_ = Without(SUM, spec_of(4, 2), vectors(2, 4), gone={"reveal": gone})
    with pytest.raises(PrivacyRefusal, match=f"^{' and '.join(sorted(gone))} did not reveal the sum$"):
        round_.run()


def test_the_server_waits_for_parties_no_longer_than_it_was_told():
    exchanges = []

    class Noted(Round):
        def serve(self, exchange):
            exchanges.append(exchange)
            super().serve(exchange)

    Noted(CryptenSum(3, UPDATE_BOUND, timeout_s=7.5), spec_of(4, 2), vectors(2, 4)).run()
    assert [(exchange.stage, exchange.timeout_s) for exchange in exchanges] == [("share", None), ("reveal", 7.5)]


# ---- messages


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_an_upload_is_as_long_as_the_vector_whatever_the_number_of_parties(parties):
    secure_sum = CryptenSum(parties, UPDATE_BOUND)
    length = 26_010
    spec = spec_of(length, 10)
    vector = vectors(1, length)
    round_ = Round(secure_sum, spec, vector)
    for fractional_bits, width in ((16, 4), (24, 4), (30, 8)):
        secure_sum = round_.secure_sum = CryptenSum(parties, UPDATE_BOUND, fractional_bits)
        upload = secure_sum.respond("share", {}, round_.party("client/0"), lambda: vector["client/0"])
        size = sum(len(name) + len(value) for name, value in upload.items())
        assert width * (length + 1) < size <= (width + 0.1) * length
        long = [role for role in secure_sum.parties.roles if len(upload[role]) > 1000]
        assert long == ["party/0"]


def test_the_vector_goes_round():
    long = {
        client: next(role for role in ROLES if len(upload[role]) > 100)
        for client, upload in recorded(count=6).uploads().items()
    }
    assert long == {f"client/{client}": f"party/{client % 3}" for client in range(6)}


def test_no_share_passes_in_the_open(round_):
    """Messages contain neither the shared vector nor any of its shares, and no two messages share a box."""
    sent = [value for pair in round_.passed.values() for records in pair for value in records.values()]
    wire = b"".join(value if isinstance(value, bytes) else b"" for value in sent)
    ring = SUM.ring(round_.spec)
    for vector in round_.vectors.values():
        assert vector.tobytes() not in wire
        assert ring.encode(vector).tobytes() not in wire
    boxes = [value for upload in round_.uploads().values() for name, value in upload.items() if name in ROLES]
    assert len(set(boxes)) == COUNT * PARTIES
    assert len({upload["manifest"][:32] for upload in round_.uploads().values()}) == COUNT
    assert len(next(iter(round_.uploads().values()))["manifest"]) == 32 + 3 * 32 + SIGNATURE_BYTES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parties": 4}, "secure_sum.parties=4: allowed are 2, 3, 5"),
        ({"aggregate": {"name": "mean"}}, "secure_sum.aggregate.name=mean: allowed are sum, norm_bounded"),
        (
            {"insecure_provider": True},
            "insecure_provider=true: secure_sum/aggregate=sum needs no correlated randomness",
        ),
        ({"bound": 0.0}, "secure_sum.bound=0.0: must be a finite number above 0"),
        ({"bound": float("inf")}, "secure_sum.bound=inf: must be a finite number above 0"),
        ({"timeout_s": 0.0}, "secure_sum.timeout_s=0.0: must be a finite number above 0"),
        ({"rendezvous": "10.0.0.1:5"}, "secure_sum.rendezvous=10.0.0.1:5: must be tcp://HOST:PORT"),
        ({"rendezvous": "tcp://10.0.0.1"}, "secure_sum.rendezvous=tcp://10.0.0.1: must be tcp://HOST:PORT"),
        ({"rendezvous": "tcp://h:x"}, "secure_sum.rendezvous=tcp://h:x: must be tcp://HOST:PORT"),
        ({"rendezvous": "file:///tmp/x"}, "secure_sum.rendezvous=file:///tmp/x: must be tcp://HOST:PORT"),
        (
            {"rendezvous": "tcp://10.0.0.1:5000"},
            "secure_sum.rendezvous=tcp://10.0.0.1:5000: would pass sums of shares in cleartext: name an encrypted "
            "tunnel's interface, secure_sum.tunnel",
        ),
        ({"rendezvous": "tcp://0.0.0.0:5000"}, "would pass sums of shares in cleartext"),
        ({"rendezvous": "tcp://example.org:5000"}, "would pass sums of shares in cleartext"),
        ({"tunnel": "wg0"}, "secure_sum.tunnel=wg0: needs secure_sum.rendezvous=tcp://HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError) as refusal:
        CryptenSum(**options)
    assert message in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_tunnel_and_beyond_it_one_will_do(host):
    assert CryptenSum(rendezvous=f"tcp://{host}:5000").parties.meeting.address[1] == 5000
    assert CryptenSum(rendezvous="tcp://10.0.0.1:5000", tunnel="wg0").parties.meeting.tunnel == "wg0"


def test_a_cohort_whose_sums_wrap_is_refused():
    with pytest.raises(ConfigError, match=r"fractional_bits=52: 4096 contributions up to 1 must stay below 2\^63"):
        CryptenSum(3, 1.0, 52).tolerance(replace(spec_of(3, 4096), segments=spec_of(3, 1).segments[1:]))
