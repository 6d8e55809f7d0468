"""The example of a hiding sum from outside keeps the contract, hides, and is stopped where its masks are off."""

import numpy as np
import pytest

from fl import runtimes
from fl.checkpoint import Checkpoints, State
from fl.server import Errand
from fl.threats import threat_card
from privacy.addresses import KEYHOLDER
from privacy.errors import (
    BadSignature,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    WitnessAlarm,
)
from privacy.secure_sums.contract import array_of
from privacy.secure_sums.declarations import Fixed, Numbers, Uniform
from privacy.secure_sums.signed_replies import fingerprint
from privacy.secure_sums.traits import Withstands
from privacy.testing.contract import SecureSumContract, vectors
from privacy.testing.harness import UPDATE_BOUND, Round, spec_of
from tests.composed import workspace_of
from tests.fl.card.sentences import ONE_MODEL
from tests.outside import hiding_sum
from tests.outside.bare_hiding import BareHidingSum
from tests.outside.hiding_sum import HidingSum
from tests.privacy.witness.test_examine import BOUND, uploaded

HIDING = ("secure_sum._target_=tests.outside.hiding_sum.HidingSum",)
BARE = ("secure_sum._target_=tests.outside.bare_hiding.BareHidingSum",)


class TestHidingSum(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return HidingSum(UPDATE_BOUND)


class Asked(Round):
    """A round that keeps the request to the keyholder."""

    def serve(self, exchange):
        if exchange.stage == "unmask":
            self.request = exchange.outbox[KEYHOLDER]
        super().serve(exchange)


@pytest.fixture
def asked():
    round_ = Asked(HidingSum(UPDATE_BOUND), spec_of(20, 3, 2), vectors(3, 20))
    round_.run()
    return round_


def unmask(asked, request, attempt):
    """The keyholder's answer to a request, under an attempt of its own."""
    asked.attempt = attempt
    return asked.secure_sum.respond("unmask", request, asked.party(KEYHOLDER), lambda: pytest.fail("trained"))


def without(request, client):
    """A request for the other clients alone."""
    left = [name for name in request["contributors"].split(",") if name != client]
    return {**request, "contributors": ",".join(left)}


def test_the_keyholder_opens_once_in_an_attempt(asked):
    with pytest.raises(PrivacyRefusal, match="was opened before, in this attempt"):
        unmask(asked, asked.request, asked.attempt)


def test_the_keyholder_opens_a_round_for_one_set_of_clients(asked):
    with pytest.raises(PrivacyRefusal, match="the difference would reveal an update"):
        unmask(asked, without(asked.request, "client/1"), "another")


def test_the_keyholder_opens_nothing_over_too_few(asked):
    alone = without(without(asked.request, "client/1"), "client/2")
    with pytest.raises(TooFewContributors, match="1 contributors are left of 3, 2 are needed"):
        unmask(asked, alone, "another")
    with pytest.raises(ProtocolError, match="named twice"):
        unmask(asked, {**alone, "contributors": "client/0,client/0"}, "another")


def test_a_seed_serves_one_attempt_alone(asked):
    with pytest.raises(BadSignature):
        unmask(asked, asked.request, "another")


def test_a_seed_serves_one_client_alone():
    class Swapped(Round):
        def serve(self, exchange):
            if exchange.stage == "unmask":
                request = exchange.outbox[KEYHOLDER]
                request["client/0"] = request["client/1"]
            super().serve(exchange)

    round_ = Swapped(HidingSum(UPDATE_BOUND), spec_of(20, 3, 2), vectors(3, 20))
    with pytest.raises(PrivacyRefusal, match="the keyholder did not open the sum"):
        round_.run()
    assert isinstance(round_.refused[KEYHOLDER], BadSignature)


def test_a_client_opens_nothing(asked):
    with pytest.raises(ProtocolError, match="unmask"):
        asked.secure_sum.respond("unmask", asked.request, asked.party("client/0"), lambda: pytest.fail("trained"))


# ---- arrays are as good as byte strings


def test_the_witness_stops_masks_that_are_off():
    uploaded(HidingSum(BOUND), rehearse=False)
    with pytest.raises(WitnessAlarm, match=r"stops stage mask: .*nothing was sent"):
        uploaded(BareHidingSum(BOUND), rehearse=False)


class Beside(HidingSum):
    """A hiding sum that sends one more array, under a declaration of its own."""

    def __init__(self, beside, kind):
        super().__init__(BOUND)
        self._beside = beside
        self._kind = kind

    def respond(self, stage, inbound, me, contribution):
        records = super().respond(stage, inbound, me, contribution)
        return {**records, "beside": self._beside(contribution())} if stage == "mask" else records

    def declare(self, stage, records, me):
        return {**super().declare(stage, records, me), "beside": self._kind}


@pytest.mark.parametrize(
    ("beside", "kind", "alarm"),
    [
        (lambda vector_D: vector_D, Uniform([]), "beside holds a piece of the update"),
        (lambda vector_D: vector_D.astype(">f8"), Uniform([]), "beside holds a piece of the update"),
        (lambda vector_D: vector_D[:100:2][:, None], Fixed(100), "beside is not 100 bytes"),
        (lambda vector_D: np.array(["text"]), Uniform([]), "must be bytes or an array of numbers"),
        (lambda vector_D: 7, Uniform([]), "beside must be bytes or an array of numbers, got int"),
        (lambda vector_D: np.arange(3000), Uniform([Numbers.of("these", np.arange(3000), 1 << 64)]), "not uniform"),
    ],
)
def test_the_witness_examines_arrays_like_byte_strings(beside, kind, alarm):
    with pytest.raises(WitnessAlarm, match=alarm):
        uploaded(Beside(beside, kind), rehearse=False)


def test_an_array_of_the_declared_size_may_leave():
    uploaded(Beside(lambda _: np.arange(8, dtype=np.uint64), Fixed(64)), rehearse=False)


def test_arrays_are_signed():
    first = fingerprint({"masked": np.arange(4, dtype=np.uint64)})
    assert first != fingerprint({"masked": np.arange(4, dtype=np.uint32)})
    assert first != fingerprint({"masked": np.arange(4, dtype=np.uint64).tobytes()})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "masked must be an array, got NoneType"),
        (b"12345678", "masked must be an array, got bytes"),
        (np.zeros(2, np.int64), r"masked must be uint64 of shape \(2,\), got int64 of shape \(2,\)"),
        (np.zeros((2, 1), np.uint64), r"got uint64 of shape \(2, 1\)"),
    ],
)
def test_an_array_of_another_kind_is_refused(value, message):
    with pytest.raises(MalformedContribution, match=message):
        array_of({} if value is None else {"masked": value}, "masked", np.uint64, 2)


# ---- whole runs, with a keyholder in a process of its own


def run(folder, *overrides: str) -> State:
    runtimes.run(workspace_of(*overrides), folder, Errand(folder))
    state = Checkpoints(folder, 2).latest()
    assert state is not None
    return state


def test_a_run_ends_where_the_plain_one_does_but_for_rounding(tmp_path):
    hiding = run(tmp_path / "hiding", *HIDING)
    plain = run(tmp_path / "plain")
    assert (hiding.weights_D - plain.weights_D).abs().max() < 1e-5


@pytest.mark.slow
def test_its_sabotaged_form_ends_the_run(tmp_path):
    with pytest.raises(WitnessAlarm, match="stops stage mask"):
        run(tmp_path, *BARE)
    rows = Checkpoints(tmp_path, 2).rows()
    assert "mask" not in rows.filter(rows["metric"] == "up_bytes")["stage"].to_list(), "nothing of an update left"


def test_its_card_is_its_own():
    card = threat_card(workspace_of(*HIDING))
    assert card[0] == "The server and the keyholder do not collude."
    assert "The server and the keyholder together read one client's update." in card
    assert "The keyholder holds the seeds of all masks." in card


@pytest.mark.parametrize(
    ("withstands", "assumed", "said"),
    [
        (Withstands(), "The server follows the protocol, and the server and the keyholder do not collude.", False),
        (Withstands(malicious=True), "All clients get the same model, and the server and the keyholder do not", True),
    ],
)
def test_a_sum_that_does_not_say_what_it_withstands_has_that_on_its_card(monkeypatch, withstands, assumed, said):
    monkeypatch.setattr(HidingSum, "withstands", withstands)
    card = threat_card(workspace_of(*HIDING))
    assert card[0].startswith(assumed)
    assert (ONE_MODEL in card) == said


def test_the_contract_finds_a_sum_that_binds_its_clients_to_no_model(monkeypatch):
    monkeypatch.setattr(hiding_sum, "_header", lambda me, client, _: me.header("mask seed", client, KEYHOLDER))
    with pytest.raises(AssertionError, match="reads the update of the one client with another model"):
        SecureSumContract().test_contributions_to_two_models_do_not_add_up(HidingSum(UPDATE_BOUND))
