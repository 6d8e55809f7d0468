from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.published.formulas import link_arithmetic
from privacy.errors import ConfigError
from results.networks.links import Link, MachinePair, Network, Profile, load, names, transfer_s

MBPS = 125_000  # bytes a second
SLOW = Profile("", "", Link(80, 40), Link(8, 16), Link(800, 800), rtt_ms=20, initial_window_bytes=None)
NETWORK = Network("slow", SLOW)


def test_a_transfer_is_half_a_round_trip_and_its_bytes() -> None:
    assert transfer_s(1e6, 1e6, 0.2, None) == pytest.approx(1.1)
    assert transfer_s(0, 1e6, 0.2, 1e4) == pytest.approx(0.1)


def test_slow_start_by_hand() -> None:
    # 10, 20 and 40 kB, each acknowledged after 100 ms; then the window of 80 kB covers the remaining 30 kB at 1 MB/s
    assert transfer_s(100_000, 1e6, 0.1, 10_000) == pytest.approx(0.05 + 3 * 0.1 + 0.03)
    # from 40 kB on the window covers the path, 30 kB
    assert transfer_s(100_000, 3e5, 0.1, 10_000) == pytest.approx(0.05 + 2 * 0.1 + 70_000 / 3e5)


sizes = st.floats(0, 1e9)


@given(sizes, sizes, st.floats(1e3, 1e9), st.floats(0, 1), st.none() | st.floats(1, 1e6))
def test_no_transfer_is_faster_than_its_link_nor_slower_for_being_smaller(
    size: float, more: float, rate: float, rtt_s: float, window: float | None
) -> None:
    took_s = transfer_s(size, rate, rtt_s, window)
    assert took_s >= (size / rate + rtt_s / 2) * (1 - 1e-9)
    assert transfer_s(size + more, rate, rtt_s, window) >= took_s * (1 - 1e-9)
    assert took_s <= size / rate + rtt_s / 2 + 31 * rtt_s, "2^30 windows of a byte pass any size"


def test_each_direction_is_bound_by_the_slower_end() -> None:
    assert NETWORK.bytes_per_s("server", "client/3") == 16 * MBPS
    assert NETWORK.bytes_per_s("client/3", "server") == 8 * MBPS
    assert NETWORK.bytes_per_s("server", "keyholder") == 80 * MBPS
    assert NETWORK.bytes_per_s("party/0", "party/1") == 800 * MBPS


def test_a_cohort_shares_the_servers_link() -> None:
    few = {f"client/{i}": 1.0 * MBPS for i in range(2)}
    many = {f"client/{i}": 1.0 * MBPS for i in range(20)}
    assert NETWORK.exchange_s(few, few) == pytest.approx(1 / 16 + 1 / 8 + 0.02), "its own link binds each"
    assert NETWORK.exchange_s(many, many) == pytest.approx(20 / 80 + 20 / 40 + 0.02), "all fill the server's"


def test_the_last_reply_ends_an_exchange_and_who_sends_none_is_not_waited_for() -> None:
    down = {"client/0": 1.0 * MBPS, "client/1": 1.0 * MBPS, "client/2": 1.0 * MBPS}
    assert NETWORK.exchange_s(down, {"client/0": 8.0 * MBPS, "client/1": 0.0}) == pytest.approx(1 / 16 + 1 + 0.02)
    assert NETWORK.exchange_s(down, {}) == 0
    assert NETWORK.exchange_s({}, {}) == 0


def test_places_decide_delay_and_rate() -> None:
    between = {"A-B": MachinePair(100, 4), "A-C": MachinePair(300, 2), "B-C": MachinePair(50, None)}
    spread = Network(
        "x", Profile("", "", *(Link(8, 8),) * 3, places=["A", "B", "C"], within=MachinePair(2), between=between)
    )
    assert spread.rtt_s("server", "client/0") == spread.rtt_s("server", "client/3") == 0.002
    assert spread.rtt_s("server", "client/1") == spread.rtt_s("client/1", "server") == 0.1
    assert spread.rtt_s("keyholder", "party/2") == 0.05
    assert spread.bytes_per_s("client/2", "server") == 2 * MBPS
    assert spread.bytes_per_s("dealer", "party/1") == 8 * MBPS


@pytest.mark.parametrize("name", names())
def test_every_profile_can_be_read_and_says_where_its_figures_are_from(name: str) -> None:
    network = load(name)
    assert network.name == name
    assert network.profile.title
    assert network.profile.source
    clients = [f"client/{i}" for i in range(12)]
    assert 0 < network.exchange_s(dict.fromkeys(clients, 1e6), dict.fromkeys(clients, 1e6)) < 60


def test_the_profiles_that_there_are() -> None:
    expected = {"datacenter_25g", "lan_10g", "wan_1g", "wan_500m", "wan_100m_50ms", "mobile", "world"}
    assert set(names()) == expected


def test_the_back_of_envelope_figures() -> None:
    """A model of 175 billion float32 takes 224 s at 25 Gbps and 5,600 s at 1 Gbps, and 100 nodes move 70 TB."""
    fast, slow = (link_arithmetic(175e9, 4, 100, name) for name in ("datacenter_25g", "wan_1g"))
    assert fast["exchange (s)"] == pytest.approx(224, rel=1e-3)
    assert slow["exchange (s)"] == pytest.approx(5600, rel=1e-3)
    assert fast["moved in a step (TB)"] == slow["moved in a step (TB)"] == pytest.approx(70)


GOOD = """title: mine
source: me
server: {up_mbps: 100, down_mbps: 100}
client: {up_mbps: 100, down_mbps: 100}
role: {up_mbps: 100, down_mbps: 100}
"""


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "rtt_ms: 30\n")
    network = load(str(tmp_path / "mine.yaml"))
    assert (network.name, network.rtt_s("server", "client/0")) == ("mine", 0.03)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "rtt: 30\n", "rtt"),
        (GOOD + "rtt_ms: fast\n", "fast"),
        (GOOD + "rtt_ms: -1\n", "at least 0"),
        (GOOD.replace("up_mbps: 100", "up_mbps: 0", 1), "above 0"),
        (GOOD.replace("server: {up_mbps: 100, down_mbps: 100}\n", ""), "missing"),
        (GOOD + "initial_window_bytes: 0\n", "initial_window_bytes"),
        (GOOD + "places: [A, B, C]\nbetween: {A-B: {rtt_ms: 1}, C-B: {rtt_ms: 1}}\n", "between lacks A-C"),
        ("[1, 2", "mine.yaml"),
    ],
)
def test_a_profile_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="^--network=") as refusal:  # noqa: RUF043
        load(str(tmp_path / "mine.yaml"))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="--network=dialup: allowed are datacenter_25g, lan_10g"):
        load("dialup")
