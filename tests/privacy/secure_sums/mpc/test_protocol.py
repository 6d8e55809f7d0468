"""CrypTen's sum: the contract, its messages, and the options that it refuses."""

from dataclasses import replace

import pytest

from privacy.errors import ConfigError
from privacy.secure_sums.mpc.agreement import SIGNATURE_BYTES
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing.contract import SecureSumContract, vectors
from privacy.testing.harness import UPDATE_BOUND, Round, spec_of
from tests.privacy.secure_sums.mpc.recorded_rounds import COUNT, PARTIES, ROLES, SUM, recorded


class TestCrypten(SecureSumContract):
    @pytest.fixture(params=[2, 3], ids="{} parties".format)
    def secure_sum(self, request):
        return CryptenSum(request.param, UPDATE_BOUND)


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_an_upload_is_as_long_as_the_vector_whatever_the_number_of_parties(parties):
    secure_sum = CryptenSum(parties, UPDATE_BOUND)
    length = 26_010
    spec = spec_of(length, 10)
    vector = vectors(1, length)
    round_ = Round(secure_sum, spec, vector)
    for fractional_bits, width in ((16, 4), (24, 4), (30, 8)):
        secure_sum = round_.secure_sum = CryptenSum(parties, UPDATE_BOUND, fractional_bits)
        upload = secure_sum.respond("share", {}, round_.party("client/0"), lambda: vector["client/0"])
        size = sum(len(name) + len(value) for name, value in upload.items())
        assert width * (length + 1) < size <= (width + 0.1) * length
        long = [role for role in secure_sum.parties.roles if len(upload[role]) > 1000]
        assert long == ["party/0"]


def test_the_vector_goes_round():
    long = {
        client: next(role for role in ROLES if len(upload[role]) > 100)
        for client, upload in recorded(count=6).uploads().items()
    }
    assert long == {f"client/{client}": f"party/{client % 3}" for client in range(6)}


def test_no_share_passes_in_the_open(round_):
    """Messages contain neither the shared vector nor any of its shares, and no two messages share a box."""
    sent = [value for pair in round_.passed.values() for records in pair for value in records.values()]
    wire = b"".join(value if isinstance(value, bytes) else b"" for value in sent)
    ring = SUM.ring(round_.spec)
    for vector in round_.vectors.values():
        assert vector.tobytes() not in wire
        assert ring.encode(vector).tobytes() not in wire
    boxes = [value for upload in round_.uploads().values() for name, value in upload.items() if name in ROLES]
    assert len(set(boxes)) == COUNT * PARTIES
    assert len({upload["manifest"][:32] for upload in round_.uploads().values()}) == COUNT
    assert len(next(iter(round_.uploads().values()))["manifest"]) == 32 + 3 * 32 + SIGNATURE_BYTES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parties": 4}, "secure_sum.parties=4: allowed are 2, 3, 5"),
        ({"aggregate": {"name": "mean"}}, "secure_sum.aggregate.name=mean: allowed are sum, norm_bounded"),
        (
            {"insecure_provider": True},
            "insecure_provider=true: secure_sum/aggregate=sum needs no correlated randomness",
        ),
        ({"bound": 0.0}, "secure_sum.bound=0.0: must be a finite number above 0"),
        ({"bound": float("inf")}, "secure_sum.bound=inf: must be a finite number above 0"),
        ({"timeout_s": 0.0}, "secure_sum.timeout_s=0.0: must be a finite number above 0"),
        ({"rendezvous": "10.0.0.1:5"}, "secure_sum.rendezvous=10.0.0.1:5: must be tcp://HOST:PORT"),
        ({"rendezvous": "tcp://10.0.0.1"}, "secure_sum.rendezvous=tcp://10.0.0.1: must be tcp://HOST:PORT"),
        ({"rendezvous": "tcp://h:x"}, "secure_sum.rendezvous=tcp://h:x: must be tcp://HOST:PORT"),
        ({"rendezvous": "file:///tmp/x"}, "secure_sum.rendezvous=file:///tmp/x: must be tcp://HOST:PORT"),
        (
            {"rendezvous": "tcp://10.0.0.1:5000"},
            "secure_sum.rendezvous=tcp://10.0.0.1:5000: would pass sums of shares in cleartext: name an encrypted "
            "tunnel's interface, secure_sum.tunnel",
        ),
        ({"rendezvous": "tcp://0.0.0.0:5000"}, "would pass sums of shares in cleartext"),
        ({"rendezvous": "tcp://example.org:5000"}, "would pass sums of shares in cleartext"),
        ({"tunnel": "wg0"}, "secure_sum.tunnel=wg0: needs secure_sum.rendezvous=tcp://HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError) as refusal:
        CryptenSum(**options)
    assert message in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_tunnel_and_beyond_it_one_will_do(host):
    assert CryptenSum(rendezvous=f"tcp://{host}:5000").parties.meeting.address[1] == 5000
    assert CryptenSum(rendezvous="tcp://10.0.0.1:5000", tunnel="wg0").parties.meeting.tunnel == "wg0"


def test_a_cohort_whose_sums_wrap_is_refused():
    with pytest.raises(ConfigError, match=r"fractional_bits=52: 4096 contributions up to 1 must stay below 2\^63"):
        CryptenSum(3, 1.0, 52).tolerance(replace(spec_of(3, 4096), segments=spec_of(3, 1).segments[1:]))
