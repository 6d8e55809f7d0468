"""The contributions that all parties count, and a set that is opened once."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal, RuntimeFailure, TooFewContributors
from privacy.secure_sums.contract import Participant
from privacy.secure_sums.mpc.agreement import manifest_bytes
from privacy.secure_sums.vectors import VectorSpec
from privacy.testing.harness import MemoryStore, Round, spec_of
from tests.privacy.secure_sums.mpc.recorded_rounds import (
    COUNT,
    MINIMUM,
    PARTIES,
    REPORT,
    ROLES,
    SUM,
    assert_refused,
    reveal,
    round_used,
    without,
)


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
