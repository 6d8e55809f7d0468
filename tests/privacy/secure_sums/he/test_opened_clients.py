"""The clients of an opened sum: recipients of their masks, accepted keys, and no secret at the server."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import (
    BadSignature,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
)
from privacy.secure_sums.he.key_delivery import PUBLIC, SECRET
from privacy.secure_sums.he.protocol import _mask_key
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.packing import unpack_words
from privacy.secure_sums.plain import PlainSum
from privacy.testing.contract import vectors
from privacy.testing.harness import Round, spec_of
from tests.privacy.secure_sums.he.opened_rounds import (
    ALL,
    BOUND,
    COUNT,
    HOLDERS,
    LENGTH,
    SUMS,
    Recorded,
    at_opener,
    collected,
    flipped,
    masks_of,
    on_the_wire,
    opened,
    plaintexts,
    recorded,
    secrets_of,
    windows,
)
from tests.privacy.secure_sums.he.setups import chi_square_ratio


@pytest.mark.parametrize("made", SUMS)
def test_clients_mask_for_the_keyholder_alone(made):
    round_ = recorded(made("keyholder", BOUND))
    for opener in ("client/1", "client/0", "server", "party/1", ""):
        with pytest.raises(ProtocolError, match="is not the opener"):
            collected(round_, "client/0", opener)
    with pytest.raises(ProtocolError, match="is not the opener"):
        round_.secure_sum.respond("collect", {}, round_.party("client/0"), lambda: pytest.fail("trained"))


def test_asked_twice_in_one_attempt_a_client_masks_differently(secure_sum):
    round_ = Recorded(secure_sum, spec_of(16_000, 2), vectors(2, 16_000))
    round_.run()
    me = round_.party("client/1")
    me.randomness.key()  # advanced like a process that answered before
    again = round_.secure_sum.respond("collect", {"opener": round_.opener}, me, lambda: round_.vectors["client/1"])
    first = next(reply for address, _, reply in round_.at("collect") if address == "client/1")
    scheme = secure_sum.scheme(round_.spec)
    assert not {first[name] for name in first} & {again[name] for name in again}
    masks = [masks_of(round_, "client/1", reply["salt"]) for reply in (first, again)]
    secret = round_.stores[round_.opener].get(SECRET) or b""
    for reply, own, other in ((first, *masks), (again, *masks[::-1])):
        scheme.open(reply["message"], secret, 1, own)
        with pytest.raises(MalformedContribution, match="another sum"):
            scheme.open(reply["message"], secret, 1, other)
    if isinstance(secure_sum, PadSum):
        words = [unpack_words(reply["message"], 16_002, scheme.bits) for reply in (first, again)]
        assert chi_square_ratio((words[0] - words[1]) & np.uint64((1 << scheme.bits) - 1), 1 << scheme.bits) < 1.4


@pytest.mark.parametrize("made", SUMS)
def test_two_openers_share_no_mask(made):
    """Nor does a client contribute to two of them in one round: they could be given two different sets."""
    round_ = recorded(made("clients", BOUND))
    me = round_.party("client/1")
    salt = bytes(32)
    keys = {_mask_key(me, me.credentials, "client/1", f"client/{opener}", salt) for opener in range(COUNT)}
    assert len(keys) == COUNT
    with pytest.raises(BadSignature):
        opened(round_, round_.request, at_opener(replace(round_, passed=[("open", "client/2", {}, {})])))
    for again in (me, replace(me, memory={}), replace(me, memory={}, attempt="another")):
        with pytest.raises(ProtocolError, match=r"client/2 is not client/0, for whom .* masked in round 1"):
            round_.secure_sum.respond("collect", {"opener": "client/2"}, again, lambda: round_.vectors["client/1"])
    assert collected(round_, "client/1", "client/0")
    other = replace(me, memory={}, round=2)
    assert round_.secure_sum.respond("collect", {"opener": "client/2"}, other, lambda: round_.vectors["client/1"])


# ---- keys that the clients share


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
@pytest.mark.parametrize("keys", HOLDERS)
def test_who_missed_the_delivery_says_so(made, keys):
    class Missed(Recorded):
        def set_up(self):
            super().set_up()
            del self.stores["client/2"].values[PUBLIC if keys == "keyholder" else SECRET]

    round_ = Missed(made(keys, BOUND), spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    assert round_.run().survivors == ("client/0", "client/1", "client/3")
    assert isinstance(round_.refusals["client/2"], PrivacyRefusal)
    assert "it missed the set-up" in str(round_.refusals["client/2"])


@pytest.mark.parametrize("made", SUMS)
def test_a_round_without_its_opener(made):
    contributions = vectors(COUNT, LENGTH)

    def total_without(gone, minimum=2):
        round_ = Round(made("clients", BOUND), spec_of(LENGTH, COUNT, minimum), contributions, gone=gone)
        return round_.run()

    first = {"client/0"}
    others = tuple(ALL[1:])
    assert total_without({"elect": first}).survivors == others  # another is elected
    assert total_without({"collect": first}).survivors == others  # it comes back to open
    with pytest.raises(PrivacyRefusal, match="client/0 did not open the sum"):
        total_without({"open": first})
    with pytest.raises(PrivacyRefusal, match="client/0 did not open the sum"):
        total_without({"collect": first, "open": first})
    with pytest.raises(TooFewContributors, match="3 contributors"):
        total_without({"collect": first}, minimum=4)


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
@pytest.mark.parametrize("keys", HOLDERS)
def test_no_keys_no_round(made, keys):
    secure_sum = made(keys, BOUND)
    maker = "keyholder" if keys == "keyholder" else "client/0"
    for stage, match in [("keys", f"{maker} made no key"), ("deliver", "no client took its key")]:
        round_ = Round(secure_sum, spec_of(LENGTH, 2), vectors(2, LENGTH), gone={stage: {*ALL, "keyholder"}})
        with pytest.raises(PrivacyRefusal, match=match):
            round_.drive(secure_sum.setup([*round_.vectors, *secure_sum.parties.roles], round_.spec))


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
def test_a_key_comes_from_the_keyholder_or_not_at_all(made):
    round_ = recorded(made("keyholder", BOUND))
    me = round_.party("client/1")
    parcel = next(sent for to, sent, _ in round_.at("deliver") if to == "client/1")
    for wrong in ({"maker": "client/0"}, {"maker": "server"}, {}):
        with pytest.raises(ProtocolError, match="makes no keys"):
            round_.secure_sum.respond("deliver", {"parcel": parcel["parcel"], **wrong}, me, lambda: None)
    for parcel_ in (b"", flipped(parcel["parcel"], 77), parcel["parcel"][:-1], 3):
        with pytest.raises(BadSignature):
            round_.secure_sum.respond("deliver", {"maker": "keyholder", "parcel": parcel_}, me, lambda: None)
    with pytest.raises(BadSignature):  # a box sealed to another client
        round_.secure_sum.respond("deliver", dict(parcel), round_.party("client/2"), lambda: None)
    with pytest.raises(ProtocolError, match="client/1 makes no keys"):
        round_.secure_sum.respond("keys", {"clients": "client/1"}, me, lambda: None)


# ---- no secret crosses the server


def test_no_secret_passes_the_server(secure_sum):
    round_ = recorded(secure_sum)
    stages = {stage for stage, *_ in round_.passed}
    assert stages >= {"collect", "open"} | (set() if isinstance(secure_sum, PadSum) else {"keys", "deliver"})
    wire = on_the_wire(round_)
    secrets = secrets_of(round_)
    assert len(secrets) >= 2 * COUNT
    for name, secret in secrets.items():
        assert windows(secret), name
        assert not windows(secret) & wire, name


def test_the_search_finds_what_a_plain_sum_sends():
    round_ = Recorded(PlainSum(), spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    round_.run()
    wire = on_the_wire(round_)
    for vector in round_.vectors.values():
        seen = {how for how, data in plaintexts(round_.spec, vector).items() if windows(data) & wire}
        assert seen == {"float32"}


def test_the_search_finds_a_pad_without_its_mask():
    round_ = recorded(PadSum("keyholder", BOUND))
    scheme = round_.secure_sum.scheme(round_.spec)
    vector = round_.vectors["client/1"]
    zero = scheme.encrypt(vector, b"", np.zeros(LENGTH + 2, np.uint64))
    assert windows(zero) & windows(plaintexts(round_.spec, vector)["packed"])
