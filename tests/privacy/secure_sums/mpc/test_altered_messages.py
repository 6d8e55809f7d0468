"""Altered boxes, manifests and sets of boxes: named, refused or left out by all parties."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import BadSignature, MalformedContribution, PrivacyRefusal, ProtocolError, TooFewContributors
from privacy.secure_sums.mpc.agreement import Manifest, manifest_bytes
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing.contract import vectors
from privacy.testing.harness import UPDATE_BOUND, spec_of
from tests.privacy.secure_sums.mpc.recorded_rounds import (
    COUNT,
    LENGTH,
    PARTIES,
    ROLES,
    SUM,
    Recorded,
    again,
    assert_left_out,
    assert_refused,
    flipped,
    replaced,
    reveal,
)


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
