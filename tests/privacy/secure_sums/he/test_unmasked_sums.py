"""Sums without masks, as in other systems: the contract, keys that last a round, flooding, and copies for all."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.attacks.ckks_key import recover_key, secret_coefficients
from privacy.errors import ConfigError, PrivacyRefusal, ProtocolError, TooFewContributors
from privacy.secure_sums.contract import SecureSum
from privacy.secure_sums.he.key_delivery import PUBLIC, SECRET
from privacy.secure_sums.he.sums import BfvSum, CkksSum
from privacy.secure_sums.traits import MALICIOUS_SERVER, Withstands
from privacy.testing.contract import SecureSumContract, vectors
from privacy.testing.harness import Round, spec_of
from tests.privacy.secure_sums.he.opened_rounds import BOUND, COUNT, HOLDERS, LENGTH, Recorded, numbers, recorded

FULL = 4095  # values of one ciphertext, the reserved one apart


class TestCkksWithoutMasks(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return CkksSum(request.param, BOUND, masks=False)


class TestBfvWithoutMasks(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND, masks=False)


class TestBroadcast(SecureSumContract):
    @pytest.fixture(params=[CkksSum, BfvSum])
    def secure_sum(self, request):
        return request.param("clients", BOUND, masks=False, broadcast=True)


@pytest.fixture(params=[(made, keys) for made in (CkksSum, BfvSum) for keys in HOLDERS], ids=str)
def secure_sum(request) -> SecureSum:
    made, keys = request.param
    return made(keys, BOUND, masks=False)


# ---- keys


def test_keys_last_for_one_attempt_and_are_in_no_store(secure_sum):
    round_ = recorded(secure_sum)
    assert "keys" in {stage for stage, *_ in round_.passed}
    secrets = {address: memory.get(SECRET) for address, memory in round_.memories.items()}
    holders = {"keyholder"} if secure_sum.parties.roles else set(round_.vectors)
    assert {address for address, secret in secrets.items() if secret} == holders
    for store in round_.stores.values():
        assert not {PUBLIC, SECRET} & set(store.values)
    again = Recorded(secure_sum, round_.spec, round_.vectors, stores=round_.stores, attempt="another")
    again.run()
    assert again.memories[round_.opener][SECRET] != secrets[round_.opener]


def test_there_is_no_set_up(secure_sum):
    round_ = Recorded(secure_sum, spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    round_.set_up()
    assert not round_.passed


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("parameters", ["tutorial", "nvflare", "fedml_he"])
def test_published_sets_encrypt_to_a_public_key_whoever_holds_the_secret_one(keys, parameters):
    contributions = vectors(3, 60)
    secure_sum = CkksSum(keys, BOUND, parameters, masks=False, flooding_bits=0)
    round_ = Recorded(secure_sum, spec_of(60, 3), contributions)
    total = round_.run()
    exact = sum(vector.astype(np.float64) for vector in contributions.values())
    assert np.abs(total.update_D - exact[:-1]).max() < 1e-4
    uploads = [len(reply["message"]) for _, _, reply in round_.at("collect")]
    assert min(uploads) > 200_000, "two polynomials of 8,192 coefficients, not one and a seed"


def test_a_client_without_its_key_of_the_round_is_left_out(secure_sum):
    contributions = vectors(COUNT, LENGTH)
    total = Round(secure_sum, spec_of(LENGTH, COUNT), contributions, gone={"deliver": {"client/2"}}).run()
    assert total.survivors == ("client/0", "client/1", "client/3")
    with pytest.raises(PrivacyRefusal, match="made no key"):
        Round(secure_sum, spec_of(LENGTH, COUNT), contributions, gone={"keys": {"keyholder", "client/0"}}).run()
    with pytest.raises(TooFewContributors):
        Round(secure_sum, spec_of(LENGTH, COUNT, 4), contributions, gone={"deliver": {"client/2"}}).run()


# ---- information in an opening


def opened_sum(secure_sum: CkksSum | BfvSum):
    """One full ciphertext: the scheme, the sum's message and its opening in units of the bound, and the true key."""
    round_ = recorded(secure_sum, count=3, length=FULL - 1)
    scheme = secure_sum.scheme(round_.spec)
    opening = next(reply for _, _, reply in round_.at("open"))["opened"] / round_.spec.bounds_D
    key = secret_coefficients(scheme.parameters, round_.memories[round_.opener][SECRET])
    return scheme, round_.request["sum"], opening, key


@pytest.mark.parametrize("keys", HOLDERS)
def test_without_flooding_the_key_of_the_round_comes_out(keys):
    scheme, message, opening, key = opened_sum(CkksSum(keys, BOUND, masks=False, flooding_bits=0))
    assert np.array_equal(recover_key(scheme.ckks, message, opening, 3), key)


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("bits", [None, 10])
def test_flooding_keeps_it(keys, bits):
    secure_sum = CkksSum(keys, BOUND, masks=False, flooding_bits=bits)
    scheme, message, opening, _ = opened_sum(secure_sum)
    assert recover_key(scheme.ckks, message, opening, 3) is None


@pytest.mark.parametrize(("bits", "deviation"), [(30, 2**15), (20, 2**10), (40, 2**20)])
def test_the_noise_of_an_opening_is_that_of_the_rule(bits, deviation):
    """sqrt(12 tau) 2^(s/2) times the noise of a sum, tau ciphertexts under a key, measured on the opened values."""
    count = 3
    length = 3 * FULL - 1
    contributions = vectors(count, length)
    exact = sum(vector.astype(np.float64) for vector in contributions.values())
    errors = {}
    for flooding in (0, bits):
        secure_sum = CkksSum("clients", BOUND, masks=False, flooding_bits=flooding, flooding_tolerance=1e9)
        total = Round(secure_sum, spec_of(length, count), contributions).run()
        errors[flooding] = np.std(total.update_D - exact[:-1])
        assert np.abs(total.update_D - exact[:-1]).max() <= count * secure_sum.tolerance(spec_of(length, count))
    # the plaintext's rounding (1/12) is a little of the noise beside 10.5
    assert errors[bits] / errors[0] == pytest.approx(np.sqrt(12 * 3) * deviation, rel=0.05)


def test_a_sum_that_flooding_would_drown_is_refused_with_the_arithmetic():
    with pytest.raises(ConfigError) as caught:
        CkksSum("keyholder", 1.0, "nvflare", masks=False).tolerance(spec_of(26_010, 10))
    line = str(caught.value)
    assert line.startswith("secure_sum.flooding_bits=30: flooding by sqrt(12 * 7) * 2^(30/2) * ")
    assert "is an error of up to" in line
    assert "0.001 is allowed" in line
    assert CkksSum("keyholder", 1.0, masks=False).tolerance(spec_of(26_010, 10)) < 1e-3


# ---- copies


def test_every_client_opens_its_copy_and_a_damaged_one_is_noticed():
    round_ = recorded(CkksSum("clients", BOUND, masks=False, broadcast=True))
    copies = {address: sent for address, sent, _ in round_.at("broadcast")}
    assert set(copies) == set(round_.vectors) - {round_.opener}
    for address, sent in copies.items():
        assert sent["sum"] == round_.request["sum"]
        other = replace(round_.party(address), spec=spec_of(LENGTH, COUNT))
        wrong = {**sent, "contributors": ",".join(list(round_.vectors)[:2])}
        with pytest.raises(ProtocolError, match="it was damaged, or is another sum"):
            round_.secure_sum.respond("broadcast", wrong, other, lambda: pytest.fail("trained"))


def test_nobody_opens_a_copy_where_the_sum_is_not_broadcast():
    round_ = recorded(CkksSum("clients", BOUND))
    with pytest.raises(ProtocolError, match="no stage is called broadcast"):
        round_.secure_sum.respond("broadcast", round_.request, round_.party("client/2"), lambda: None)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: CkksSum(flooding_bits=30), "secure_sum.flooding_bits=30: belongs to secure_sum.masks=false"),
        (lambda: CkksSum(masks=False, flooding_bits=-1), "secure_sum.flooding_bits=-1: must be from 0 (none) to 128"),
        (lambda: CkksSum(masks=False, flooding_bits=129), "secure_sum.flooding_bits=129: must be from 0"),
        (lambda: CkksSum(masks=False, flooding_tolerance=0), "secure_sum.flooding_tolerance=0: must be a finite"),
        (lambda: CkksSum("clients", broadcast=True), "secure_sum.broadcast=True: every client can open the sum only"),
        (lambda: BfvSum("keyholder", masks=False, broadcast=True), "secure_sum.broadcast=True: every client"),
        (lambda: CkksSum(parameters=numbers(scale_bits=30), masks=False), "secure_sum.flooding_bits=30: flooding by"),
    ],
)
def test_configuration_errors_are_one_line(make, line):
    with pytest.raises(ConfigError) as caught:
        make().tolerance(spec_of(5, 10))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_server_must_be_honest():
    assert CkksSum(masks=False).withstands == Withstands()
    assert CkksSum(masks=True).withstands == MALICIOUS_SERVER
