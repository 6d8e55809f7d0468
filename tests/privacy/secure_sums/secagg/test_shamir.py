"""Shamir's sharing: any t shares give the secret, and fewer are equally consistent with every secret."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.randomness import OsRandomness, Randomness
from privacy.secure_sums.secagg.shamir import PRIME, combine, split

SECRETS = st.one_of(
    st.sampled_from([0, 1, PRIME - 1]).map(lambda element: element.to_bytes(32, "big")),
    st.integers(0, 99).map(lambda seed: (seed**40 % PRIME).to_bytes(32, "big")),
)


class Given(Randomness):
    """A source that returns given values."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = iter(keys)

    def key(self) -> bytes:
        return next(self.keys)


def interpolated(points: dict[int, int], at: int) -> int:
    """Lagrange's textbook formula in Python's integers."""
    total = 0
    for i, value in points.items():
        for j in points:
            if j != i:
                value = value * (at - j) * pow(i - j, -1, PRIME) % PRIME
        total += value
    return total % PRIME


def coefficients(points: dict[int, int]) -> list[int]:
    """Coefficients of the polynomial through these points, lowest first: elimination of Vandermonde's system."""
    xs = list(points)
    rows = [[pow(x, power, PRIME) for power in range(len(xs))] + [points[x]] for x in xs]
    for column in range(len(xs)):
        pivot = next(r for r in range(column, len(xs)) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for r in range(len(xs)):
            if r != column:
                factor = rows[r][column]
                rows[r] = [(a - factor * b) % PRIME for a, b in zip(rows[r], rows[column], strict=True)]
    return [row[-1] for row in rows]


def test_the_modulus_is_a_prime_that_a_key_just_fits_below():
    """Miller and Rabin's test, with 40 random bases."""
    odd = PRIME - 1
    twos = 0
    while odd % 2 == 0:
        odd = odd // 2
        twos = twos + 1
    for _ in range(40):
        value = pow(2 + int.from_bytes(os.urandom(31), "big"), odd, PRIME)
        assert value in (1, PRIME - 1) or PRIME - 1 in [pow(value, 1 << i, PRIME) for i in range(twos)]
    assert PRIME.bit_length() == 256
    assert 2**256 - PRIME == 189


@given(data=st.data(), secret=SECRETS, holders=st.integers(1, 12))
def test_whoever_is_there_puts_the_secret_together(data, secret, holders):
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold, holders, OsRandomness())
    there = data.draw(st.sets(st.integers(1, holders), min_size=threshold))
    order = data.draw(st.permutations(sorted(there)))
    assert combine({holder: shares[holder - 1] for holder in order}, holders) == secret


@given(data=st.data(), secret=SECRETS, holders=st.integers(2, 8))
def test_shares_are_points_of_one_polynomial_of_that_degree(data, secret, holders):
    threshold = data.draw(st.integers(1, holders))
    values = [int.from_bytes(share, "big") for share in split(secret, threshold, holders, OsRandomness())]
    points = {holder: values[holder - 1] for holder in data.draw(st.permutations(range(1, holders + 1)))[:threshold]}
    assert interpolated(points, 0) == int.from_bytes(secret, "big")
    for holder in range(1, holders + 1):
        assert interpolated(points, holder) == values[holder - 1]


@given(secret=SECRETS, other=SECRETS, data=st.data(), holders=st.integers(1, 7))
def test_fewer_shares_are_those_of_any_other_secret_too(secret, other, data, holders):
    """For each set of t - 1 holders some randomness gives the other secret, and them the very same shares."""
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold, holders, OsRandomness())
    for few in itertools.combinations(range(1, holders + 1), threshold - 1):
        seen = {holder: int.from_bytes(shares[holder - 1], "big") for holder in few}
        drawn = coefficients({0: int.from_bytes(other, "big"), **seen})[1:]
        again = split(other, threshold, holders, Given([c.to_bytes(32, "big") for c in drawn]))
        assert [again[holder - 1] for holder in few] == [shares[holder - 1] for holder in few]


def test_too_few_shares_give_something_else():
    secret = os.urandom(32)
    shares = dict(enumerate(split(secret, 4, 6, OsRandomness()), 1))
    for few in itertools.combinations(shares, 3):
        assert combine({holder: shares[holder] for holder in few}, 6) != secret


def test_a_coefficient_beyond_the_prime_is_drawn_again():
    beyond = PRIME.to_bytes(32, "big")
    fine = (7).to_bytes(32, "big")
    assert split(bytes(32), 2, 2, Given([beyond, b"\xff" * 32, fine])) == split(bytes(32), 2, 2, Given([fine]))
    assert [int.from_bytes(share, "big") for share in split(bytes(32), 2, 2, Given([fine]))] == [7, 14]


@pytest.mark.parametrize(("threshold", "holders"), [(39, 72), (179, 314)])
def test_many_holders(threshold, holders):
    secret = os.urandom(32)
    shares = dict(enumerate(split(secret, threshold, holders, OsRandomness()), 1))
    for there in (range(1, holders + 1), range(1, threshold + 1), range(holders - threshold + 1, holders + 1)):
        assert combine({holder: shares[holder] for holder in there}, holders) == secret
