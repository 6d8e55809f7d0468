"""Secure aggregation: the contract, drop-outs at any stage, sent bytes and kept state."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError, MalformedContribution, PrivacyRefusal, TooFewContributors
from privacy.secure_sums.secagg.keys import PrivateKeys
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.testing.contract import SecureSumContract, assert_sum, vectors
from privacy.testing.harness import UPDATE_BOUND, Round, identity_of, residue_spec, spec_of
from tests.privacy.secure_sums.he.opened_rounds import plaintexts, windows
from tests.privacy.secure_sums.he.setups import chi_square_ratio
from tests.privacy.secure_sums.secagg.rounds import STAGES, Lying, Sparse, addresses, made, ran


class TestSecAgg(SecureSumContract):
    @pytest.fixture
    def secure_sum(self):
        return SecAggSum(5, bound=UPDATE_BOUND)

    def test_one_survivor(self, secure_sum):
        """The cohort's threshold is above the configured minimum."""
        for stage in STAGES[:3]:
            round_ = made(secure_sum, 3, minimum=1, gone={stage: {"client/0", "client/2"}})
            with pytest.raises(TooFewContributors, match="1 contributors are left of 3, 2 are needed"):
                round_.run()


# ---- drop-outs


@st.composite
def drop_outs(draw, count):
    """The dropped clients by stage, few or many."""
    clients = addresses(count)
    most = draw(st.sampled_from([1, 2, count]))
    return {stage: draw(st.sets(st.sampled_from(clients), max_size=most)) for stage in STAGES}


@pytest.mark.parametrize("kind", [SecAggSum, Sparse])
@settings(deadline=None, max_examples=120)
@given(data=st.data(), count=st.integers(1, 9), minimum=st.integers(1, 4))
def test_the_sum_is_right_or_the_round_refuses_for_every_pattern_of_drop_outs(kind, data, count, minimum):
    gone = data.draw(drop_outs(count))
    secure_sum = kind(count, bound=UPDATE_BOUND)
    round_ = made(secure_sum, count, minimum=minimum, gone=gone)
    try:
        total = round_.run()
    except PrivacyRefusal:
        total = None
    if total is None:
        assert any(gone.values()) or minimum > count, "nobody is gone, and it refuses"
        return
    masked = [address for address in round_.vectors if ("mask", address) in round_.passed]
    assert total.survivors == tuple(masked)
    assert len(total.survivors) >= minimum
    assert_sum(total, round_.vectors, secure_sum)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), count=st.integers(3, 9))
def test_the_drop_outs_that_the_configuration_states_are_withstood(data, count):
    """At any stages, all together no more than 30 % of the cohort, rounded up, but for a majority."""
    most = min(math.ceil(0.3 * count - 1e-9), (count - 1) // 2)
    leaving = data.draw(st.lists(st.sampled_from(addresses(count)), max_size=most, unique=True))
    stages = [data.draw(st.sampled_from(STAGES)) for _ in leaving]
    gone = {
        stage: {a for a, left in zip(leaving, stages, strict=True) if STAGES.index(left) <= STAGES.index(stage)}
        for stage in STAGES
    }
    round_ = made(SecAggSum(count, bound=UPDATE_BOUND), count, minimum=1, gone=gone)
    total = round_.run()
    assert not round_.refusals
    assert set(round_.vectors) - gone["mask"] == set(total.survivors)
    assert_sum(total, round_.vectors, round_.secure_sum)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_thirty_of_a_hundred_drop_out_at_each_stage(stage):
    """A graph that the bounds give, and neighbours beyond the ring's seam."""
    gone = {later: {f"client/{3 * i}" for i in range(30)} for later in STAGES[STAGES.index(stage) :]}
    secure_sum = SecAggSum(100, bound=UPDATE_BOUND)
    assert not secure_sum.plan(100, 100).complete
    round_ = made(secure_sum, 100, gone=gone)
    total = round_.run()
    assert len(total.survivors) == (70 if STAGES.index(stage) <= 2 else 100)
    assert_sum(total, round_.vectors, secure_sum)


def test_more_than_it_withstands_is_refused_with_a_line():
    gone = {"mask": {"client/1", "client/2", "client/3"}}
    with pytest.raises(TooFewContributors, match="2 contributors are left of 5, 3 are needed"):
        made(SecAggSum(5, bound=UPDATE_BOUND), 5, gone=gone).run()


def test_shares_that_are_too_few_are_counted():
    gone = {"unmask": {"client/1", "client/2", "client/3"}}
    with pytest.raises(PrivacyRefusal, match=r"2 neighbours released their share of client/\d's secret, 3 must"):
        made(SecAggSum(5, bound=UPDATE_BOUND), 5, gone=gone).run()


# ---- faults of clients


class Spoiling(Lying):
    """A round in which one client's reply at a stage is altered."""

    def respond(self, exchange, address):
        records = super().respond(exchange, address)
        return self.spoil(exchange.stage, address, dict(records))


@pytest.mark.parametrize("place", [0, 31, 32, 100])
def test_a_wrong_share_ends_the_round_and_never_makes_a_sum(place):
    """The share is of an own mask, or of the key of a client that dropped out."""

    class Wrong(Spoiling):
        def spoil(self, stage, address, records):
            if (stage, address) == ("unmask", "client/2"):
                shares = bytearray(records["shares"])
                shares[place] ^= 1
                records["shares"] = bytes(shares)
            return records

    wrong = "the sum counts .* contributions|the shares of client/1's key do not give it"
    round_ = Wrong(SecAggSum(5, bound=UPDATE_BOUND), spec_of(200, 5), vectors(5, 200), gone={"mask": {"client/1"}})
    with pytest.raises((MalformedContribution, PrivacyRefusal), match=wrong):
        round_.run()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("spoil", [lambda value: value[:-1], lambda value: value + b"\0", lambda value: b""])
def test_a_reply_of_another_length_leaves_its_sender_out(stage, spoil):
    class Short(Spoiling):
        def spoil(self, at, address, records):
            if (at, address) != (stage, "client/2"):
                return records
            return {name: spoil(value) for name, value in records.items()}

    round_ = Short(SecAggSum(5, bound=UPDATE_BOUND), spec_of(3, 5), vectors(5, 3))
    total = round_.run()
    assert isinstance(round_.refused["client/2"], MalformedContribution)
    assert ("client/2" in total.survivors) is (stage in ("confirm", "unmask"))
    assert_sum(total, round_.vectors, round_.secure_sum)


def test_a_neighbour_that_seals_rubbish_costs_others_their_place_and_no_sum_is_wrong():
    class Rubbish(Spoiling):
        def spoil(self, stage, address, records):
            if (stage, address) == ("share_keys", "client/2"):
                records["boxes"] = bytes(len(records["boxes"]))
            return records

    round_ = Rubbish(SecAggSum(5, bound=UPDATE_BOUND), spec_of(3, 5), vectors(5, 3))
    with pytest.raises(TooFewContributors):
        round_.run()
    assert {str(error) for error in round_.refusals.values()} == {"client/2 did not seal this box"}


# ---- sent bytes


def test_a_masked_vector_has_as_many_bits_as_a_sum_takes():
    """Sixteen bits and the carries of a hundred: 22.6, so 23."""
    for cohort, bits in ((1, 16), (2, 17), (16, 20), (100, 23), (1000, 26)):
        masked = SecAggSum(cohort, bound=UPDATE_BOUND).masked(spec_of(100_000, cohort))
        assert masked.bits == bits
        message = masked.protect(np.zeros(100_001, np.float32), [bytes(32)], [])
        assert 8 * len(message) <= 1.001 * bits * 100_000
    for modulus_bits in (2, 8, 17, 62):
        assert SecAggSum(9).masked(residue_spec(10, 9, modulus_bits)).bits == modulus_bits


@pytest.mark.slow
def test_handshakes_fit_beside_a_vector_of_a_hundred_thousand():
    """All bytes of a client, up and down, over k bits a parameter: the bar is 1.15."""
    round_ = ran(count=100)
    shakes = dict.fromkeys(round_.vectors, 0)
    for (_, client), both in round_.passed.items():
        shakes[client] += sum(
            len(name) + (len(value) if isinstance(value, bytes | str) else value.nbytes)
            for records in both
            for name, value in records.items()
            if name != "masked"
        )
    least = 23 * 100_000 / 8
    payload = len(round_.secure_sum.masked(spec_of(100_000, 100)).protect(np.zeros(100_001, np.float32), [], []))
    assert payload <= 1.05 * least
    assert payload + max(shakes.values()) <= 1.15 * least


def test_what_is_sent_is_uniform_and_another_each_time():
    """The uploads of the same vector in two attempts."""
    vectors_ = {address: np.zeros(16_001, np.float32) for address in addresses(4)}
    sent = []
    for attempt in ("first", "second"):
        round_ = Lying(SecAggSum(4, bound=UPDATE_BOUND), spec_of(16_000, 4), vectors_, attempt=attempt)
        round_.run()
        sent.append(
            {client: np.frombuffer(round_.passed["mask", client][1]["masked"], np.uint8) for client in vectors_}
        )
    for client in vectors_:
        first, second = (one[client] for one in sent)
        for bytes_ in (first, first - second, first - sent[0]["client/0"] if client != "client/0" else second):
            assert 0.7 < chi_square_ratio(bytes_, 256) < 1.4


def test_nothing_that_is_secret_passes_or_stays():
    """Neither updates nor seeds nor keys are on the wire before they are released, and none are kept after that."""
    round_ = made(SecAggSum(5, bound=UPDATE_BOUND), 5, length=40, gone={"mask": {"client/3"}})
    private: dict[str, set[bytes]] = {}
    round_.run()
    for client, vector in round_.vectors.items():
        before = round_.before["mask", client].memory if client != "client/3" else round_.memories[client]
        keys = PrivateKeys(before["secagg.keys"][:32], before["secagg.keys"][32:])
        private[client] = windows(keys.mask) | windows(keys.box) | windows(before["secagg.seed"])
        private[client] |= windows(identity_of(client).to_bytes()).union(
            *map(windows, plaintexts(round_.spec, vector).values())
        )
    wire: set[bytes] = set()
    for both in round_.passed.values():
        for value in (value for records in both for value in records.values()):
            wire |= windows(value if isinstance(value, bytes) else str(value).encode())
    for client, secrets in private.items():
        assert not wire & secrets, client
        kept = set().union(*(windows(value) for value in round_.stores[client].values.values()))
        assert not kept & secrets, client
        if client != "client/3":
            assert set(round_.memories[client]) == {
                f"secagg.{name}" for name in ("clients", "public", "sharers", "survivors", "given")
            }


# ---- declarations


@pytest.mark.parametrize(
    ("options", "assumption", "limit"),
    [
        ({"clients": 100}, "the server does not collude with 6 of a client's 66 neighbours", "It takes 36 neighbours"),
        ({"clients": 500, "cohort": 100}, "6 of a client's 66 neighbours", "can try keys until a graph suits it"),
        (
            {"clients": 100, "server": "curious"},
            "the server does not collude with 6 of a client's 26 neighbours",
            "70 must",
        ),
        ({"clients": 10}, "the server does not collude with 4 of a client's 9 neighbours", "It takes 6 neighbours"),
        (
            {"clients": 10, "server": "curious"},
            "with 6 of a client's 9 neighbours",
            "interrupted while its sum is opened",
        ),
        ({"clients": 2}, "the server does not collude with 1 of a client's 1 neighbour", "It takes 1 neighbour where"),
        ({"clients": 1}, "the server is trusted: a cohort of one client", "Any client can end a round"),
    ],
)
def test_the_coalition_is_told(options, assumption, limit):
    secure_sum = SecAggSum(**options)
    assert assumption in secure_sum.assumption
    limits = secure_sum.trust(spec_of(3, options.get("cohort", options["clients"]))).sentences["protocol"]
    assert any(limit in sentence for sentence in limits)
    assert all(sentence[0].isupper() and sentence.endswith((".", ").")) for sentence in limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 0.0}, "secure_sum.bound=0.0: must be a finite number above 0"),
        ({"server": "kind"}, "secure_sum.server=kind: allowed are malicious, curious"),
        ({"dropout_rate": 0.5}, "secure_sum.dropout_rate=0.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError) as error:
        SecAggSum(5, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("bits", [1, 33])
def test_value_bits_have_a_range(bits):
    with pytest.raises(ConfigError, match=f"secure_sum.value_bits={bits}: must be from 2 to 32"):
        SecAggSum(5, value_bits=bits).tolerance(spec_of(3, 5))


def test_a_round_needs_keys():
    class Keyless(Round):
        def credentials(self, address):
            return None

    round_ = Keyless(SecAggSum(3, bound=UPDATE_BOUND), spec_of(3, 3), vectors(3, 3))
    with pytest.raises(PrivacyRefusal, match="has no keys: the roster was not set up"):
        round_.run()
