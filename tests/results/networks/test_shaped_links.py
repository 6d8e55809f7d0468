"""The model of links against links shaped by the kernel; no other tests assert times."""

import os
from collections.abc import Iterator

import pytest

from results.networks.links import Link, Network, Profile
from tests.results.networks.shaped.links import exchanged_s, missing, star

CLIENTS = 4
PROFILE = Profile("", "", server=Link(100, 60), client=Link(10, 30), role=Link(1, 1), rtt_ms=40)
WITHIN = 0.15

pytestmark = [pytest.mark.slow, pytest.mark.shaped]


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, list[str]]]:
    if why := missing("tbf"):
        pytest.skip(why)
    if (why := missing("netem")) and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip(f"{why}, and there is no TUN device in its place")
    with star(PROFILE, CLIENTS) as made:
        yield made


@pytest.mark.parametrize(
    ("clients", "down", "up"),
    [
        pytest.param(1, 200, 200, id="a delay and nothing else"),
        pytest.param(1, 60_000, 60_000, id="slow start"),
        pytest.param(1, 200_000, 20_000, id="slow start, and then the link"),
        pytest.param(1, 1_000_000, 1_000_000, id="one client's own link, which is asymmetric"),
        pytest.param(4, 1_000_000, 250_000, id="a cohort that shares the server's link"),
        pytest.param(4, 250_000, 1_000_000, id="a cohort that sends more than it gets"),
    ],
)
def test_a_modelled_round_trip_takes_as_long_as_over_shaped_links(
    namespaces: tuple[str, list[str]], clients: int, down: int, up: int
) -> None:
    server, others = namespaces
    measured_s = exchanged_s(server, others[:clients], down, up)
    addresses = [f"client/{i}" for i in range(clients)]
    modelled_s = Network("shaped", PROFILE).exchange_s(dict.fromkeys(addresses, down), dict.fromkeys(addresses, up))
    print(f"{clients} x ({down}, {up}): modelled {modelled_s:.4f} s, measured {measured_s}")
    assert modelled_s == pytest.approx(min(measured_s), rel=WITHIN)  # other processes can only delay it
