"""Sums opened by one opener: the contract for each, the opener's refusals, impossible forgeries of uploads."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import (
    BadSignature,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    UnknownSender,
)
from privacy.secure_sums.contract import Records
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.vectors import Vector
from privacy.testing.contract import SecureSumContract
from tests.privacy.secure_sums.he.opened_rounds import (
    ALL,
    BOUND,
    HOLDERS,
    LENGTH,
    Recorded,
    at_opener,
    flips,
    forged,
    opened,
    recorded,
)
from tests.privacy.secure_sums.he.setups import chi_square_ratio


class TestPad(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return PadSum(request.param, BOUND)


class TestBfv(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND)


class TestCkks(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return CkksSum(request.param, BOUND)


# ---- the opener


def test_an_attempt_is_opened_once(round_):
    me = at_opener(round_)
    assert np.array_equal(opened(round_, round_.request, me), next(round_.at("open"))[2]["opened"])
    for again in (me, replace(me, memory={})):
        with pytest.raises(PrivacyRefusal, match="opened before"):
            opened(round_, round_.request, again)
    with pytest.raises(BadSignature):  # another attempt is not the same, and its tags are others
        opened(round_, round_.request, replace(me, attempt="another"))


@pytest.mark.parametrize("spoil", [{"sum": b""}, {"tags": b""}, {"contributors": "client/1"}, {"sum": 7}])
def test_an_opening_that_failed_is_not_tried_again(round_, spoil):
    me = at_opener(round_)
    with pytest.raises((ProtocolError, PrivacyRefusal)):
        opened(round_, {**round_.request, **spoil}, me)
    with pytest.raises(PrivacyRefusal, match="opened before"):
        opened(round_, round_.request, me)


def in_another_attempt(round_: Recorded, gone: set[Address]) -> Recorded:
    """The same round again, with the stores of all roles; `gone` do not contribute."""
    again = Recorded(round_.secure_sum, round_.spec, round_.vectors, stores=round_.stores, attempt="another")
    again.gone = {"collect": gone}
    again.drive(again.secure_sum.server(list(again.vectors), again.spec))
    return again


def test_a_round_that_is_tried_again_is_opened_for_the_same_clients_alone(round_):
    again = in_another_attempt(round_, set())
    assert np.allclose(opened_by(again), opened_by(round_), atol=1e-6)
    with pytest.raises(PrivacyRefusal, match="did not open the sum"):
        in_another_attempt(round_, {"client/3"})


def opened_by(round_: Recorded) -> Vector:
    return next(round_.at("open"))[2]["opened"]


def restricted(round_: Recorded, contributors: list[Address]) -> Records:
    """The request for other contributors, each with its own tag or, without one, that of another client."""
    names = list(round_.vectors)
    size = len(round_.request["tags"]) // len(names)
    places = [names.index(name) if name in names else 0 for name in contributors]
    tags = b"".join(round_.request["tags"][size * place : size * (place + 1)] for place in places)
    return {**round_.request, "contributors": ",".join(contributors), "tags": tags}


@pytest.mark.parametrize(
    ("contributors", "error", "match"),
    [
        (["client/0"], TooFewContributors, "1 contributors .* 2 are needed"),
        (["client/0", "client/0", "client/1"], ProtocolError, "named twice"),
        (["client/0", "client/1", "server"], ProtocolError, "server contributes nothing"),
        (["client/0", "client/1", "keyholder"], ProtocolError, "keyholder contributes nothing"),
        (["client/0", "client/1", ""], ProtocolError, "contributes nothing"),
        (["client/0", "client/1", "client/99"], UnknownSender, "client/99 is not on the roster"),
        (["client/0", "client/1", "client/2", "client/3", "client/4"], ProtocolError, "5 contributors .* cohort of 4"),
        (["client/1", "client/0", "client/2", "client/3"], BadSignature, "client/1"),
    ],
)
def test_who_cannot_be_in_a_sum(round_, contributors, error, match):
    request = restricted(round_, contributors)
    if error is BadSignature:  # everybody's own name, under another's tag
        request = {**request, "tags": round_.request["tags"]}
    with pytest.raises(error, match=match):
        opened(round_, request)


@pytest.mark.parametrize("missing", ["sum", "tags", "contributors", "given"])
def test_half_a_request_opens_nothing(round_, missing):
    request = {name: value for name, value in round_.request.items() if name != missing}
    with pytest.raises((ProtocolError, PrivacyRefusal)):
        opened(round_, request)


@pytest.mark.parametrize("other", [{"round": 2}, {"attempt": "fedcba9876543210"}, {"run": "cd" * 32}], ids=str)
def test_tags_of_another_time_open_nothing(round_, other):
    with pytest.raises(BadSignature, match="client/0 did not authenticate"):
        opened(round_, round_.request, at_opener(round_, **other))


def test_tags_for_another_model_open_nothing(round_):
    with pytest.raises(BadSignature, match="client/0 did not authenticate"):
        opened(round_, {**round_.request, "given": b"another model"})


def test_nobody_else_opens(round_):
    for address in round_.vectors:
        if address != round_.opener:
            with pytest.raises((ProtocolError, PrivacyRefusal)):
                opened(round_, round_.request, replace(round_.party(address), memory={}))


def test_a_flipped_bit_in_hashes_tags_or_salts_opens_nothing(round_):
    for tags in flips(round_.request["tags"]):
        with pytest.raises(BadSignature, match="did not authenticate"):
            opened(round_, {**round_.request, "tags": tags})


def test_a_flipped_bit_in_the_sum(round_):
    """CKKS refuses each; in BFV some are noise that decryption takes away; under masks alone one coordinate is off."""
    honest = opened(round_, round_.request)
    seen = {"refused": 0, "harmless": 0, "one off": 0}
    for message in flips(round_.request["sum"]):
        try:
            differs = opened(round_, {**round_.request, "sum": message}) != honest
        except MalformedContribution:
            seen["refused"] += 1
        else:
            assert differs.sum() <= 1
            seen["one off" if differs.any() else "harmless"] += 1
    if isinstance(round_.secure_sum, CkksSum):
        assert seen["refused"] == 300
    elif isinstance(round_.secure_sum, BfvSum):
        assert seen["one off"] == 0
        assert seen["refused"] > 150
    else:
        assert seen["harmless"] == 0
        assert seen["refused"] > 0


# ---- impossible forgeries of uploads


@pytest.mark.parametrize(
    ("summed", "named"),
    [
        (ALL, ALL[:-1]),
        (ALL[:-1], ALL),
        ([*ALL, ALL[0]], ALL),
        ([*ALL[:-1], ALL[0]], ALL),  # one twice in another's place: the count is right, the masks are not
        ([ALL[0]], ALL[:2]),
        (ALL[:2], ALL[2:]),
    ],
    ids=["out of the set", "out of the sum", "doubled", "in place of another", "alone", "others"],
)
def test_a_sum_of_others_than_are_named_is_not_opened(round_, summed, named):
    assert len(opened(round_, forged(round_, ALL, ALL))) == LENGTH + 1
    with pytest.raises(MalformedContribution, match=r"it was damaged, or is another sum"):
        opened(round_, forged(round_, summed, named))


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("made", [BfvSum, CkksSum])
def test_each_ciphertext_of_a_sum_is_checked(made, keys):
    """Somebody left out of the last ciphertext alone."""
    round_ = recorded(made(keys, BOUND), count=3, length=9000)
    whole, less = (forged(round_, summed, ALL[:3])["sum"] for summed in (ALL[:3], ALL[:2]))
    count = 3 if made is CkksSum else 2
    start = len(whole) - (len(whole) - 8) // count
    assert len(opened(round_, {**round_.request, "sum": whole})) == 9001
    with pytest.raises(MalformedContribution, match="is another sum"):
        opened(round_, {**round_.request, "sum": whole[:start] + less[start:]})


@pytest.mark.parametrize("keys", HOLDERS)
def test_what_a_server_takes_out_under_the_check_of_a_pad_is_uniform(keys):
    """Only the last integer is checked; elsewhere such a server gets values that the mask makes uniform."""
    round_ = recorded(PadSum(keys, BOUND), count=3, length=16_000)
    scheme = round_.secure_sum.scheme(round_.spec)
    size = 8 * (15_000 * scheme.bits // 64)
    size -= size % scheme.bits
    whole, less = (forged(round_, summed, ALL[:3])["sum"] for summed in (ALL[:3], ALL[:2]))
    found = opened(round_, {**round_.request, "sum": less[:size] + whole[size:]})
    honest = opened(round_, round_.request)
    changed = 8 * size // scheme.bits
    assert np.array_equal(found[changed:], honest[changed:])
    fixed = FixedPoint.of(round_.spec, 16, "test")
    integers = np.rint(found[:changed] / (BOUND / fixed.levels)).astype(np.int64) % (1 << scheme.bits)
    assert chi_square_ratio(integers, 1 << scheme.bits) == pytest.approx(1, abs=0.4)
