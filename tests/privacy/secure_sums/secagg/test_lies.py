"""A server of secure aggregation that lies: it hands out other lists, asks for both secrets, asks twice, replays."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from privacy.addresses import Address
from privacy.errors import (
    BadSignature,
    FedveilError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    UnknownSender,
)
from privacy.secure_sums.contract import Participant, Records
from privacy.secure_sums.secagg.keys import SIGNATURE_BYTES, ClosedList, PrivateKeys, advertised, parts
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.testing.harness import UPDATE_BOUND
from tests.privacy.secure_sums.he.opened_rounds import flipped
from tests.privacy.secure_sums.secagg.rounds import (
    STAGES,
    VICTIM,
    Lying,
    addresses,
    copied,
    made,
    ran,
    refusal,
    ring_neighbours,
    wider,
)


def asked(round_: Lying, stage: str, changes: Mapping[str, object], client: Address = VICTIM, **me: object) -> Records:
    """The answer of a client, after the earlier stages, to a changed request."""
    party = replace(copied(round_.before[stage, client]), **me)
    return round_.again(stage, client, {**round_.passed[stage, client][0], **changes}, party)


def refused(round_: Lying, stage: str, changes: Mapping[str, object], **me: object) -> FedveilError:
    return refusal(lambda: asked(round_, stage, changes, **me))


# ---- once an attempt


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_asked_in_this_attempt_is_not_answered_again(stage):
    class Twice(Lying):
        def respond(self, exchange, address):
            records = super().respond(exchange, address)
            if exchange.stage == stage:
                error = refusal(lambda: self.again(stage, address))
                assert isinstance(error, PrivacyRefusal)
                assert "before, in this attempt" in str(error) or "has used them up" in str(error)
                met.append(address)
            return records

    met = []
    template = made(SecAggSum(5, bound=UPDATE_BOUND), 5)
    round_ = Twice(template.secure_sum, template.spec, template.vectors)
    round_.run()
    assert sorted(met) == addresses(5)


@pytest.mark.parametrize("stage", ["mask", "confirm", "unmask"])
def test_nor_by_a_client_that_has_forgotten_it(honest, stage):
    """Its memory is that of before, as when a process dies between answer and note; the store knows."""
    store = honest.party(VICTIM).own.store
    before = copied(honest.before[stage, VICTIM])
    party = replace(before, credentials=replace(before.own, store=store))
    error = refusal(lambda: honest.again(stage, VICTIM, None, party))
    assert isinstance(error, PrivacyRefusal)
    assert "before, in this attempt at round 1" in str(error)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_no_stage_comes_before_those_that_it_follows(honest, stage):
    for earlier in STAGES[: STAGES.index(stage)]:
        party = copied(honest.before[earlier, VICTIM])
        error = refusal(lambda stage=stage, party=party: honest.again(stage, VICTIM, None, party))
        assert isinstance(error, PrivacyRefusal)
        assert VICTIM in str(error)


# ---- the closed list


def listed(round_: Lying, names: list[Address], **changed: tuple[bytes, bytes]) -> Records:
    """The list of these clients as the server would send it."""
    adverts = {name: round_.passed["advertise", name][1] for name in names if ("advertise", name) in round_.passed}
    both = {name: (advert["keys"], advert["signed"]) for name, advert in adverts.items()} | {
        f"client/{index[1:]}": value for index, value in changed.items()
    }
    keys, signatures = (b"".join(both[name][half] for name in names) for half in (0, 1))
    return {"clients": ",".join(names), "keys": keys, "signatures": signatures}


def test_keys_that_their_owner_did_not_sign_are_refused(honest):
    server = PrivateKeys(bytes([7]) * 32, bytes([9]) * 32).public
    signed = honest.passed["advertise", "client/3"][1]["signed"]
    error = refused(honest, "share_keys", listed(honest, addresses(5), c3=(server, signed)))
    assert isinstance(error, BadSignature)
    assert str(error) == "client/3 did not sign this"


@pytest.mark.parametrize("changes", [{"attempt": "another"}, {"number": 2}])
def test_keys_of_another_attempt_are_refused(honest, changes):
    other = made(honest.secure_sum, 5, **changes)
    party = replace(other.party("client/3"), **({"round": 2} if "number" in changes else {}))
    advert = advertised(PrivateKeys(bytes([7]) * 32, bytes([9]) * 32), party)
    stale = listed(honest, addresses(5), c3=(advert["keys"], advert["signed"]))
    assert isinstance(refused(honest, "share_keys", stale), BadSignature)


def test_keys_of_low_order_are_refused(honest):
    """Their owner may sign them, but its agreed secrets would be known to all."""
    bad = bytes(64)
    party = honest.party("client/3")
    signature = party.own.identity.sign(party.header("secagg keys", "client/3", "cohort"), bad)
    error = refused(honest, "share_keys", listed(honest, addresses(5), c3=(bad, signature)))
    assert isinstance(error, BadSignature)
    assert "client/3 advertised a public key of low order" in str(error)


def test_a_client_takes_no_list_without_itself_or_with_other_keys_of_it(honest):
    without = [name for name in addresses(5) if name != VICTIM]
    error = refused(honest, "share_keys", listed(honest, without))
    assert str(error) == "client/1 is not on the list of those who take part"
    advert = advertised(PrivateKeys(bytes([7]) * 32, bytes([9]) * 32), honest.party(VICTIM))
    error = refused(honest, "share_keys", listed(honest, addresses(5), c1=(advert["keys"], advert["signed"])))
    assert str(error) == "the list has other keys of client/1 than it advertised"


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["client/1", "client/0"], MalformedContribution),
        (["client/0", "client/1", "client/1"], MalformedContribution),
        (["client/1"], TooFewContributors),
        (["client/0", "client/1", "client/9"], UnknownSender),
        (["client/1", "keyholder"], ProtocolError),
    ],
    ids=["unsorted", "twice", "alone", "stranger", "no client"],
)
def test_a_list_that_none_can_be_is_refused(honest, names, error):
    extra = {f"c{name.partition('/')[2]}": (bytes(64), bytes(64)) for name in names if name == "client/9"}
    records = listed(honest, [name for name in names if name != "keyholder"], **extra)
    if "keyholder" in names:
        records = {**records, "clients": ",".join(names), "keys": records["keys"] + bytes(64)}
        records["signatures"] += bytes(SIGNATURE_BYTES)
    assert isinstance(refused(honest, "share_keys", records), error)


def test_more_than_a_cohort_is_refused(honest):
    error = refused(honest, "share_keys", {}, spec=wider(honest.spec, cohort_size=4))
    assert "5 clients are more than a cohort of 4" in str(error)


def test_clients_that_were_handed_different_lists_do_not_mask(honest):
    """A client's state is bound to its list: no client opens boxes sealed under another list."""
    shorter = listed(honest, addresses(4))
    party = copied(honest.before["share_keys", VICTIM])
    honest.again("share_keys", VICTIM, shorter, party)
    boxes = dict(
        zip(ring_neighbours(honest, VICTIM), parts(honest.passed["mask", VICTIM][0]["boxes"], 92), strict=True)
    )
    others = [name for name in neighbours_in(honest, party) if name in boxes]
    delivery = {"sharers": ",".join(others), "boxes": b"".join(boxes[name] for name in others)}
    error = refusal(lambda: honest.again("mask", VICTIM, delivery, party))
    assert isinstance(error, BadSignature)
    assert str(error).endswith("did not seal this box")


def neighbours_in(round_: Lying, party: Participant) -> list[Address]:
    """A client's neighbours according to its list."""
    closed = ClosedList.read(party.memory["secagg.clients"], party.memory["secagg.public"])
    return round_.secure_sum.ring(closed, round_.spec).neighbours(party.address)


# ---- boxes


def test_boxes_that_were_tampered_with_are_refused(honest):
    boxes = honest.passed["mask", VICTIM][0]["boxes"]
    for place in (0, 12 * 8, 50 * 8, 91 * 8 + 7, 92 * 8 * 3):
        assert isinstance(refused(honest, "mask", {"boxes": flipped(boxes, place)}), BadSignature)
    swapped = boxes[92:184] + boxes[:92] + boxes[184:]
    assert isinstance(refused(honest, "mask", {"boxes": swapped}), BadSignature)
    assert isinstance(refused(honest, "mask", {"boxes": boxes[:-1]}), MalformedContribution)


def test_boxes_of_another_attempt_are_refused(honest):
    other = ran(attempt="fedcba9876543210")
    order = dict(zip(ring_neighbours(other, VICTIM), parts(other.passed["mask", VICTIM][0]["boxes"], 92), strict=True))
    boxes = b"".join(order[name] for name in ring_neighbours(honest, VICTIM))
    assert isinstance(refused(honest, "mask", {"boxes": boxes}), BadSignature)


def test_a_client_masks_with_no_fewer_than_can_take_its_mask_off(honest):
    names = ring_neighbours(honest, VICTIM)[:1]
    boxes = honest.passed["mask", VICTIM][0]["boxes"][:92]
    error = refused(honest, "mask", {"sharers": names[0], "boxes": boxes})
    assert isinstance(error, PrivacyRefusal)
    assert "1 neighbours of client/1 hold its shares, too few" in str(error)


@pytest.mark.parametrize("names", ["client/1", "client/7", "client/0,client/0", ",", "x" * 2000])
def test_nobody_else_is_a_neighbour(honest, names):
    assert isinstance(refused(honest, "mask", {"sharers": names}), MalformedContribution)


# ---- the survivors


@pytest.mark.parametrize(
    ("survivors", "error", "match"),
    [
        ([0, 2, 3, 4], ProtocolError, "client/1 is not among the survivors"),
        ([0, 1], TooFewContributors, "2 contributors are left of 5, 3 are needed"),
        ([1], TooFewContributors, "1 contributors"),
        ([1, 0, 2, 3], MalformedContribution, "in their order"),
        ([0, 1, 1, 2], MalformedContribution, "in their order"),
        ([0, 1, 2, 9], MalformedContribution, "in their order"),
    ],
)
def test_a_list_of_survivors_that_none_can_be_is_refused(honest, survivors, error, match):
    names = ",".join(f"client/{client}" for client in survivors)
    said = refused(honest, "confirm", {"survivors": names})
    assert isinstance(said, error)
    assert match in str(said)


def test_a_client_enforces_the_minimum_itself(honest):
    names = "client/0,client/1,client/2"
    assert asked(honest, "confirm", {"survivors": names})
    said = refused(honest, "confirm", {"survivors": names}, spec=wider(honest.spec, min_contributors=4))
    assert isinstance(said, TooFewContributors)
    assert "3 contributors are left of 5, 4 are needed" in str(said)


def test_who_gave_no_share_cannot_survive():
    """A client that dropped out before the masks has none, and its secrets are with nobody."""
    round_ = made(SecAggSum(5, bound=UPDATE_BOUND), 5, gone={"share_keys": {"client/3"}})
    round_.run()
    said = refused(round_, "confirm", {"survivors": ",".join(addresses(5))})
    assert str(said) == "client/3 is among the survivors, and client/1 has no share of it"


def test_signatures_of_another_list_do_not_count():
    """Some clients are told that client/4 dropped out: neither group, or only one, has enough signatures."""

    def lie(address, records):
        return {"survivors": ",".join(addresses(4))} if address in ("client/0", "client/1", "client/2") else records

    round_ = made(SecAggSum(6, bound=UPDATE_BOUND), 6, lies={"confirm": lie})
    with pytest.raises(PrivacyRefusal):
        round_.run()
    refusals = {key: str(error) for key, error in round_.refusals.items()}
    assert set(refusals) == {("unmask", address) for address in addresses(6)}
    assert {line.partition(" signed")[0][-20:] for line in refusals.values()}
    assert all("signed the same survivors as it did, 4 must" in line for line in refusals.values())


def test_a_survivor_is_not_struck_off_afterwards(honest):
    """The signed list counts: a list sent with the signatures is ignored."""
    released = asked(honest, "unmask", {"survivors": ",".join(addresses(4))})
    assert released == honest.passed["unmask", VICTIM][1]


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_fewer_signatures_than_the_threshold_release_nothing(honest, keep):
    request = honest.passed["unmask", VICTIM][0]
    names = str(request["signers"]).split(",")[:keep]
    said = refused(honest, "unmask", {"signers": ",".join(names), "signatures": request["signatures"][: 64 * keep]})
    assert isinstance(said, PrivacyRefusal)
    assert f"{keep} neighbours of client/1 signed the same survivors as it did, 3 must" in str(said)


def test_forged_signatures_and_one_given_many_times_do_not_count(honest):
    request = honest.passed["unmask", VICTIM][0]
    one = request["signatures"][:SIGNATURE_BYTES]
    for signatures in (one * 5, bytes(5 * SIGNATURE_BYTES)):
        assert isinstance(refused(honest, "unmask", {"signatures": signatures}), PrivacyRefusal)
    first = str(request["signers"]).split(",")[0]
    said = refused(honest, "unmask", {"signers": ",".join([first] * 5), "signatures": one * 5})
    assert isinstance(said, MalformedContribution)
    said = refused(honest, "unmask", {"signatures": one})
    assert isinstance(said, MalformedContribution)


def test_signatures_of_another_attempt_do_not_count(honest):
    other = ran(attempt="fedcba9876543210").passed["unmask", VICTIM][0]
    order = dict(zip(str(other["signers"]).split(","), parts(other["signatures"], 64), strict=True))
    names = str(honest.passed["unmask", VICTIM][0]["signers"]).split(",")
    said = refused(honest, "unmask", {"signatures": b"".join(order[name] for name in names)})
    assert isinstance(said, PrivacyRefusal)


def test_a_round_that_is_tried_again_is_opened_for_the_same_clients_only():
    first = ran()
    again = made(first.secure_sum, 5, attempt="fedcba9876543210", gone={"mask": {"client/4"}})
    again.stores = first.stores
    with pytest.raises(TooFewContributors):
        again.run()
    assert all("round 1 was opened for client/0,client/1" in str(error) for error in again.refusals.values())
    assert {stage for stage, _ in again.refusals} == {"unmask"}
    same = made(first.secure_sum, 5, attempt="0000000000000000")
    same.stores = first.stores
    assert same.run().survivors == tuple(addresses(5))
