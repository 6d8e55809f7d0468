"""What a configuration leaves open is said, and nothing else."""

import pytest

from fl.threats import threat_card
from tests.composed import workspace_of

DP_SGD = ("mechanism=dp_sgd", "delta=1e-5")


def card(*overrides: str) -> str:
    return "\n".join(threat_card(workspace_of(*overrides)))


@pytest.mark.parametrize(
    ("overrides", "said", "unsaid"),
    [
        ((), "The server is trusted", "Noise"),
        ((), "Weights tell how many examples a client holds, not declared public", "Pixels"),
        (DP_SGD, "noise=os", "noise=seeded"),
        ((*DP_SGD, "noise=seeded"), "so nothing is protected", "noise=os"),
        (DP_SGD, "training.sample_rate=null", "Weights tell"),
        ((*DP_SGD, "training.sample_rate=0.1"), "Pixels are normalised", "sample_rate"),
        (DP_SGD, "The noise of dp_sgd is floating-point", "client_diagnostics"),
        ((*DP_SGD, "runtime.client_diagnostics=true"), "client_diagnostics=true", "Weights tell"),
        (("mechanism=distributed_dp", "delta=1e-2"), "noise=os", "floating-point"),
        (("secure_sum=pad",), "The server and the keyholder do not collude.", "trusted"),
        (("secure_sum=crypten",), "Not all 3 parties collude (any 2 may, with the server).", "trusted"),
        (("secure_sum=crypten",), "security is passive", "keyholder"),
        (("secure_sum=crypten",), "not encrypted: it stays on the machine.", "tunnel"),
        (
            ("secure_sum=crypten", "secure_sum.rendezvous=tcp://10.0.0.1:5000", "secure_sum.tunnel=wg0"),
            "it goes through the tunnel wg0.",
            "stays on the machine",
        ),
        (("secure_sum=pad",), "one party plays all roles", "Noise"),
        (("secure_sum=pad", "runtime.client_metrics=false"), "simulation", "client_metrics"),
    ],
)
def test_a_card_says_what_is_left_open(overrides, said, unsaid):
    text = card(*overrides)
    assert said in text
    assert unsaid not in text


def test_every_line_is_a_sentence():
    for line in card(*DP_SGD, "noise=seeded", "secure_sum=crypten", "runtime.client_diagnostics=true").splitlines():
        assert line[0].isupper()
        assert line.endswith(".")
