"""The opener as an oracle for its key: a server that has something else opened than the sum of what clients sent."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from experiments.attacks import key_oracle
from experiments.attacks.ckks_key import secret_coefficients, secret_key
from experiments.attacks.scene import CONTROL_ROUND, OTHER, VICTIM, Scene, message_of, scene
from privacy.addresses import Address
from privacy.errors import MalformedContribution
from privacy.randomness import OsRandomness
from privacy.sealing import mac, uniform
from privacy.secure_sums.contract import Contribution, Participant, Records
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.linear_check import LinearCheck
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import SealRing, ring
from privacy.secure_sums.he.seal_files import RawPolynomials
from privacy.secure_sums.he.sums import BfvSum, CkksSum
from tests.privacy.secure_sums.he.opened_rounds import BOUND, HOLDERS, Recorded, forged, opened, recorded
from tests.privacy.secure_sums.he.setups import added, bfv, ckks, generator, integers, reals, uploads

LENGTH = 9000  # two ciphertexts at least
SHARED = "secure_sum.keys=clients"
ANOTHER = "another sum"


# ---- the attack that ships, with and without the check


@pytest.mark.parametrize(
    "case", [case for case in key_oracle.CASES if SHARED not in case.overrides], ids=lambda case: case.setting
)
def test_a_crafted_sum_gives_the_key_to_who_may_craft_it(case):
    finding = case.mount(case.overrides)
    assert finding.succeeded == case.succeeds, finding.evidence
    assert case.shows in finding.evidence


def accomplice(here: Scene) -> Callable[..., Records]:
    """The answers of the roles, where one client adds the server's polynomial to its own ciphertext."""
    inner = key_oracle._inner(here)
    its_ring = ring(inner.parameters)
    encrypt = type(here.scheme).encrypt

    def crafting(scheme: CipherScheme, *arguments: object) -> bytes:
        first, *others = its_ring.parse(encrypt(scheme, *arguments), inner.ciphertexts(here.spec.length))
        return its_ring.message([key_oracle._with_polynomial(inner, first), *others])

    def answer(stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        with pytest.MonkeyPatch.context() as patch:
            if stage == "collect" and me.address == OTHER:
                patch.setattr(type(here.scheme), "encrypt", crafting)
            return here.secure_sum.respond(stage, inbound, me, contribution)

    return answer


def test_with_a_client_the_server_learns_the_key_and_no_update_of_the_others(monkeypatch):
    with scene(("secure_sum=ckks",)) as here:
        honest = here.honest_round()
        monkeypatch.setattr(here, "answer", accomplice(here))
        attempt = here.attempt(CONTROL_ROUND)
        parameters = here.scheme.parameters
        key_N = key_oracle.recovered(here, honest, attempt)
        np.testing.assert_array_equal(key_N, secret_coefficients(parameters, here.secret(attempt)))
        upload = message_of(attempt.uploads[VICTIM])
        with pytest.raises(MalformedContribution, match=ANOTHER):  # masked: not even the reserved value is right
            here.scheme.open(upload, secret_key(parameters, key_N), 1, None, OsRandomness())


# ---- what is opened is the sum of what was sent


@pytest.fixture(
    scope="module", params=itertools.product((CkksSum, BfvSum), HOLDERS), ids=lambda made: f"{made[0].name} {made[1]}"
)
def round_(request) -> Recorded:
    kind, keys = request.param
    return recorded(kind(keys, BOUND), length=LENGTH)


def ring_of(round_: Recorded) -> SealRing:
    return ring(round_.secure_sum.scheme(round_.spec).parameters)


def changed(round_: Recorded, change: Callable[[list[np.ndarray]], None]) -> Records:
    """The request with a change to the residues of its ciphertexts."""
    here = ring_of(round_)
    request = round_.request
    ciphertexts = round_.secure_sum.scheme(round_.spec).check.ciphertexts
    residues = [raw.residues_PKN.copy() for raw in here.parse(request["sum"], ciphertexts)]
    change(residues)
    return {**request, "sum": here.message(map(RawPolynomials, residues))}


def one_more(round_: Recorded, ciphertext: int, polynomial: int, place: int) -> Records:
    modulus = ring_of(round_).moduli[0]

    def change(residues: list[np.ndarray]) -> None:
        row_N = residues[ciphertext][polynomial, 0]
        row_N[place] = (int(row_N[place]) + 1) % modulus

    return changed(round_, change)


def refuses(round_: Recorded, request: Records) -> None:
    with pytest.raises(MalformedContribution, match=ANOTHER):
        opened(round_, request)


def test_the_honest_sum_is_opened(round_):
    sum_D = sum(vector.astype(float) for vector in round_.vectors.values())
    assert np.abs(opened(round_, round_.request) - sum_D).max() <= 4 * round_.secure_sum.tolerance(round_.spec)


@pytest.mark.parametrize("ciphertext", [0, -1])
@pytest.mark.parametrize("polynomial", [0, 1])
@pytest.mark.parametrize("place", [0, 1777, 4095])
def test_one_changed_residue_is_found(round_, ciphertext, polynomial, place):
    refuses(round_, one_more(round_, ciphertext, polynomial, place))


def test_ciphertexts_in_another_order_are_found(round_):
    refuses(round_, changed(round_, lambda residues: residues.reverse()))


@pytest.mark.parametrize("summed", [(0, 1, 2), (0, 1, 2, 3, 3), (0, 1, 1, 3), (0, 0, 0, 0)])
def test_a_sum_of_other_uploads_is_found(round_, summed):
    names = list(round_.vectors)
    refuses(round_, forged(round_, [names[place] for place in summed], names))


def test_a_multiple_of_the_sum_is_found(round_):
    moduli_K1 = np.array(ring_of(round_).moduli, np.uint64)[:, None]

    def double(residues: list[np.ndarray]) -> None:
        for residues_PKN in residues:
            residues_PKN[:] = (residues_PKN + residues_PKN) % moduli_K1

    refuses(round_, changed(round_, double))


def test_the_sum_of_an_earlier_attempt_is_found(round_):
    again = Recorded(round_.secure_sum, round_.spec, round_.vectors, stores=round_.stores, attempt="another")
    again.drive(again.secure_sum.server(list(again.vectors), again.spec))
    refuses(again, {**again.request, "sum": round_.request["sum"]})


def test_coefficients_are_others_in_each_attempt_and_round(round_):
    me = round_.party(round_.opener)
    keys = {
        round_.secure_sum._keys.attempt_key(replace(me, **change), me.own)
        for change in ({}, {"attempt": "another"}, {"round": 2}, {"run": "cd" * 32})
    }
    assert len(keys) == 4


def test_all_roles_derive_the_same_coefficients(round_):
    addresses: list[Address] = [*round_.vectors, *round_.secure_sum.parties.roles]
    parties = [round_.party(address) for address in addresses]
    assert len({round_.secure_sum._keys.attempt_key(me, me.own) for me in parties}) == 1


# ---- the digest itself


def by_definition(check: LinearCheck, message: bytes, key: bytes) -> list[list[int]]:
    """<r, c> modulo each prime, in whole numbers; SEAL expands seeds."""
    here = ring(check.parameters)
    totals = [[0] * check.checks for _ in here.moduli]
    for index, raw in enumerate(here.parse(message, check.ciphertexts)):
        residues_PKN = here.raw(here.cipher(raw)).residues_PKN
        drawn = uniform(mac(key, [index.to_bytes(8, "big")]), 4 * check.checks * here.degree, 1 << 16)
        halves_PHTN = drawn.reshape(2, 2, check.checks, here.degree)
        for polynomial in range(2):
            low_TN, high_TN = halves_PHTN[polynomial].astype(object)
            for t in range(check.checks):
                r_N = low_TN[t] + (high_TN[t] << 16)
                for k, modulus in enumerate(here.moduli):
                    row_N = residues_PKN[polynomial, k].astype(object)
                    totals[k][t] = (totals[k][t] + int((r_N * row_N).sum())) % modulus
    return totals


@pytest.mark.parametrize("made", [ckks(), ckks(symmetric=False), ckks("tutorial", symmetric=False), bfv()], ids=str)
def test_a_digest_is_the_inner_product_and_adds_up(made):
    length = 2 * made.scheme.values_per_ciphertext
    vectors = integers(2, length, 16) if made.scheme.parameters.scheme == "bfv" else reals(2, length)
    messages, _ = uploads(made, vectors, masked=True)
    check = LinearCheck(made.scheme.parameters, made.scheme.ciphertexts(length))
    key = generator("check key").bytes(32)
    digests = [check.digest(message, key) for message in messages]
    for digest_KT, message in zip(digests, messages, strict=True):
        assert digest_KT.tolist() == by_definition(check, message, key)
    check.require_sum(added(made, messages, length), digests, key)
    with pytest.raises(MalformedContribution, match=ANOTHER):
        check.require_sum(added(made, messages[:1], length), digests, key)


@pytest.mark.parametrize("bits", [(54, 50), (60, 40, 40, 60), (34, 33, 34), (32, 32), (30, 30, 30), (20, 20), (17, 20)])
def test_an_error_in_one_prime_passes_with_probability_2_to_minus_64_at_most(bits):
    check = LinearCheck(HeParameters("ckks", 8192, bits, scale_bits=10), 1)
    words = 2**32
    for modulus in ring(check.parameters).moduli:
        equal = -(-words // modulus)  # coefficients that are equal modulo the prime
        assert Fraction(equal, words) ** check.checks <= Fraction(1, 2**64)


@pytest.mark.parametrize("polynomial", [0, 1])
@pytest.mark.parametrize("prime", [0, 1, 2])
def test_an_error_in_one_prime_of_several_changes_its_digest_alone(polynomial, prime):
    made = ckks("tutorial", symmetric=False)
    here = ring(made.scheme.parameters)
    [message], _ = uploads(made, reals(1, 100), masked=True)
    check = LinearCheck(made.scheme.parameters, 1)
    [raw] = here.parse(message, 1)
    damaged_PKN = raw.residues_PKN.copy()
    damaged_PKN[polynomial, prime, 4711] ^= np.uint64(1)
    key = generator("check key").bytes(32)
    differs_KT = check.digest(here.message([RawPolynomials(damaged_PKN)]), key) != check.digest(message, key)
    assert differs_KT[prime].all()
    assert not np.delete(differs_KT, prime, axis=0).any()


def test_a_sealed_digest_is_read_with_the_key_of_its_pair_alone():
    made = ckks()
    [message], _ = uploads(made, reals(1, 100), masked=True)
    check = LinearCheck(made.scheme.parameters, 1)
    key = generator("check key").bytes(32)
    sealed = check.sealed(message, key, b"\x01" * 32)
    assert len(sealed) == check.sealed_bytes == 16
    assert np.array_equal(check.opened(sealed, b"\x01" * 32), check.digest(message, key))
    assert sealed != check.sealed(message, key, b"\x02" * 32)
