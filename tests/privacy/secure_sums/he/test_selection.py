"""Selective encryption: the contract with a part in the clear, the choice of this part, and no other leak."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import BadSignature, ConfigError, MalformedContribution, PrivacyRefusal, ProtocolError
from privacy.secure_sums.contract import Exchange
from privacy.secure_sums.he.selection import Selection, at_random, most_sensitive
from privacy.secure_sums.he.selective_protocol import POSITIONS
from privacy.secure_sums.he.sums import BfvSum, CkksSum
from privacy.secure_sums.vectors import Vector
from privacy.testing.contract import SecureSumContract, assert_sum, vectors
from privacy.testing.harness import Round, residue_spec, spec_of
from tests.privacy.secure_sums.he.opened_rounds import (
    BOUND,
    COUNT,
    HOLDERS,
    LENGTH,
    Recorded,
    on_the_wire,
    plaintexts,
    recorded,
    windows,
)


class TestRandomCkks(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return CkksSum(request.param, BOUND, encrypt_fraction=0.3)


class TestRandomBfv(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND, encrypt_fraction=0.3)


class TestSensitiveCkks(SecureSumContract):
    @pytest.fixture(params=[(keys, masks) for keys in HOLDERS for masks in (True, False)], ids=str)
    def secure_sum(self, request):
        keys, masks = request.param
        return CkksSum(keys, BOUND, masks=masks, encrypt_fraction=0.3, encrypt_by="sensitivity")


class TestSensitiveBfv(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND, encrypt_fraction=0.3, encrypt_by="sensitivity")


# ---- selections


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 3), st.integers(0, 2**32))
def test_what_is_split_merges_again(encrypted, behind, seed):
    selection = Selection(np.array(encrypted))
    vector = np.random.default_rng(seed).normal(size=len(encrypted) + behind)
    protected, clear = selection.split(vector)
    assert len(protected) == sum(encrypted) + behind
    assert np.array_equal(protected[len(protected) - behind :], vector[-behind:]), "the weight is always encrypted"
    assert set(clear) == {value for value, kept in zip(vector, encrypted, strict=False) if not kept}
    assert np.array_equal(selection.merge(protected, clear), vector)


def test_random_values_are_the_same_for_everybody_and_spread():
    chosen = at_random(10_000, 2_500)
    at_random.cache_clear()
    assert np.array_equal(chosen.encrypted_U, at_random(10_000, 2_500).encrypted_U)
    quarters = chosen.encrypted_U.reshape(4, -1).sum(axis=1)
    assert quarters.sum() == 2_500
    assert np.abs(quarters - 625).max() < 100


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30), st.data())
def test_the_most_sensitive_are_those(values, data):
    count = data.draw(st.integers(1, len(values)))
    encrypted = most_sensitive(np.array(values), count).encrypted_U
    assert encrypted.sum() == count
    assert sorted(np.array(values)[encrypted]) == sorted(values)[len(values) - count :]


@pytest.mark.parametrize("bits", [b"", bytes(4), b"\xff" * 4, b"\xff" * 5])
def test_positions_of_another_number_are_refused(bits):
    with pytest.raises(MalformedContribution, match=r"positions of 30 values|values would be encrypted, 9 are needed"):
        Selection.from_bytes(bits, spec_of(30, 4), 0.3)


# ---- leakage


@pytest.mark.parametrize("made", [CkksSum, BfvSum])
@pytest.mark.parametrize("by", ["random", "sensitivity"])
def test_the_open_part_is_all_that_passes_the_server(made, by):
    secure_sum = made("keyholder", BOUND, encrypt_fraction=0.5, encrypt_by=by)
    round_ = recorded(secure_sum, length=60)
    wire = on_the_wire(round_)
    for address, _, reply in round_.at("collect"):
        me = round_.party(address)
        selection = secure_sum._selection(me, me.credentials)
        protected, clear = selection.split(round_.vectors[address])
        assert np.array_equal(reply["clear"], clear)
        spec = spec_of(len(protected) - 1, COUNT)
        for name, data in plaintexts(spec, protected).items():
            assert not windows(data) & wire, name
    assert not secure_sum.hides


# ---- the clients' sensitivities


class Surveyed(Recorded):
    """Clients with sensitivities different from their updates."""

    def respond(self, exchange: Exchange, address: str):
        updates = self.vectors
        self.vectors = {a: self.map_of(a) for a in self.vectors}
        if exchange.stage != "sensitivity":
            self.vectors = updates
        try:
            return super().respond(exchange, address)
        finally:
            self.vectors = updates

    def map_of(self, address: str) -> Vector:
        """The map of client i: values 7, 8, 9 and one of its own are sensitive; the last value is its weight."""
        vector = np.zeros(self.spec.length, np.float32)
        vector[[7, 8, 9]] = 0.5
        vector[int(address[-1]) + 20] = 1.0 + int(address[-1]) / 2
        vector[-1] = 0.5
        return vector


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("made", [CkksSum, BfvSum])
def test_the_largest_of_the_summed_sensitivities_are_encrypted(made, keys):
    secure_sum = made(keys, BOUND, encrypt_fraction=5 / LENGTH, encrypt_by="sensitivity")
    round_ = Surveyed(secure_sum, spec_of(LENGTH, COUNT, 2), vectors(COUNT, LENGTH))
    total = round_.run()
    assert_sum(total, round_.vectors, secure_sum)
    # sums: 2 at 7, 8 and 9; 1, 1.5, 2 and 2.5 where the clients differ
    for store in round_.stores.values():
        kept = np.unpackbits(np.frombuffer(store.values[POSITIONS], np.uint8), count=LENGTH)
        assert set(np.flatnonzero(kept)) == {7, 8, 9, 22, 23}


def test_positions_that_the_opener_did_not_sign_are_refused():
    secure_sum = CkksSum("keyholder", BOUND, encrypt_fraction=0.3, encrypt_by="sensitivity")
    round_ = recorded(secure_sum)
    sent = next(sent for to, sent, _ in round_.at("positions") if to == "client/1")
    me = replace(round_.party("client/1"), round=0)
    other = bytearray(sent["positions"])
    other[0] ^= 0xFF
    for changes, error in [
        ({"positions": bytes(other)}, BadSignature),
        ({"signed": bytes(64)}, BadSignature),
        ({"chooser": "client/0"}, ProtocolError),
        ({"positions": 3}, MalformedContribution),
    ]:
        with pytest.raises(error):
            secure_sum.respond("positions", {**sent, **changes}, me, lambda: pytest.fail("trained"))
    with pytest.raises(BadSignature):  # a box of another set-up
        secure_sum.respond("positions", sent, replace(me, attempt="another"), lambda: None)
    assert secure_sum.respond("positions", sent, me, lambda: None) == {}


def test_who_missed_the_choice_says_so():
    class Missed(Recorded):
        def set_up(self):
            super().set_up()
            del self.stores["client/2"].values[POSITIONS]

    secure_sum = CkksSum("keyholder", BOUND, encrypt_fraction=0.3, encrypt_by="sensitivity")
    round_ = Missed(secure_sum, spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    assert round_.run().survivors == ("client/0", "client/1", "client/3")
    assert "does not know which values to encrypt" in str(round_.refusals["client/2"])


@pytest.mark.parametrize("stage", ["rank", "positions"])
def test_no_choice_no_run(stage):
    secure_sum = CkksSum("keyholder", BOUND, encrypt_fraction=0.3, encrypt_by="sensitivity")
    everybody = {"keyholder", *vectors(COUNT, LENGTH)}
    round_ = Round(secure_sum, spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH), gone={stage: everybody})
    with pytest.raises(PrivacyRefusal, match="the values to encrypt"):
        round_.drive(secure_sum.setup([*round_.vectors, "keyholder"], round_.spec))


# ---- configuration


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"encrypt_fraction": 0}, "secure_sum.encrypt_fraction=0: must lie above 0 and be at most 1"),
        ({"encrypt_fraction": 1.5}, "secure_sum.encrypt_fraction=1.5: must lie above 0"),
        ({"encrypt_fraction": float("nan")}, "secure_sum.encrypt_fraction=nan: must lie above 0"),
        ({"encrypt_fraction": 0.5, "encrypt_by": "size"}, "secure_sum.encrypt_by=size: allowed are random, sens"),
        ({"encrypt_by": "sensitivity"}, "secure_sum.encrypt_by=sensitivity: belongs to secure_sum.encrypt_fraction"),
    ],
)
def test_configuration_errors_are_one_line(options, line):
    with pytest.raises(ConfigError) as caught:
        CkksSum(**options)
    assert str(caught.value).startswith(line)


def test_residues_are_encrypted_whole():
    with pytest.raises(ConfigError, match=r"encrypt_fraction=0\.5: shares of integer noise protect a sum"):
        BfvSum(encrypt_fraction=0.5).tolerance(residue_spec(10, 3, 16))


def test_the_assumption_says_how_much_is_in_the_clear():
    assert CkksSum(encrypt_fraction=0.1).assumption.endswith("do not collude, and 0.9 of each update is in the clear")
