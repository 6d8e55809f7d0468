"""The threat card names all weaknesses of a configuration, and no others."""

import pytest

from fl.threats import explained, threat_card
from tests.composed import workspace_of

UNMASKED = ("secure_sum=ckks", "secure_sum.masks=false")
DP_SGD = ("mechanism=dp_sgd", "delta=1e-5")
RELAYED = ("secure_sum=pad", "runtime=deployment", "runtime.roster=relayed")
PASSIVE = (
    "Public keys came through the server, so this protects against a passive server only: one that exchanges keys "
    "reads every update (runtime.roster=relayed)."
)
MEDIAN = ("secure_sum=crypten", "secure_sum/aggregate=median", "training.weighting=uniform")
MEASURED = "runtime.measure_sum_error=true"


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
        (("mechanism=distributed_dp", "delta=1e-2"), "Clients add the noise in shares", "Noise is added at"),
        (("mechanism=client_dp", "delta=1e-2"), "Noise is added at the server", "Clients add the noise in shares"),
        (("privacy=fedml_he",), "a part of one client's update", "reads one client's update"),
        (("privacy=fedml_he", MEASURED), "The server alone reads one client's update.", "a part of"),
        (
            ("secure_sum=pad",),
            "The server and the keyholder do not collude.",
            "trusted",
        ),
        (
            ("secure_sum=crypten",),
            "Not all 3 parties collude (any 2 may, with the server).",
            "trusted",
        ),
        (("secure_sum=crypten",), "security is passive", "keyholder"),
        (("secure_sum=crypten",), "Party/0 and party/1 and party/2 together read one client's update.", "dealer"),
        (MEDIAN, "The dealer and any one party together read one client's update.", "could read"),
        ((*MEDIAN, "secure_sum.insecure_provider=true"), "Party/0 alone reads one client's update.", "dealer"),
        ((*MEDIAN, "secure_sum.insecure_provider=true"), "Party/0 is trusted: it deals", "not all"),
        (("secure_sum=ckks", "secure_sum.keys=clients"), "The server and any one client together read", "keyholder"),
        (
            ("secure_sum=ckks",),
            "The server and the keyholder together read one client's update.",
            "The server alone reads",
        ),
        (UNMASKED, "A server that breaks the protocol alone reads one client's update.", "together read"),
        (("privacy=fedml_he",), "The server alone reads a part of one client's update.", "together read"),
        ((*RELAYED, "clients=3"), "A server that exchanges keys alone reads one client's update.", "posing less"),
        (("secure_sum=pad", "server.min_contributors=3"), "Nothing is opened over fewer than 3 clients", "trusted"),
        (("mechanism=client_dp", "delta=1e-2"), "whose contribution becomes zero", "against outsider and server"),
        (("mechanism=client_dp", "delta=1e-2"), "Noise is added at the server, which sees each exact sum", "holds the"),
        (DP_SGD, "differ by one record, there or not", "sees each exact sum"),
        (("mechanism=local_dp", "delta=1e-2"), "reads one client's update, as local_dp noised it.", "together"),
        (("secure_sum=crypten",), "not encrypted: they stay on the machine.", "tunnel"),
        (
            ("secure_sum=crypten", "secure_sum.rendezvous=tcp://10.0.0.1:5000", "secure_sum.tunnel=wg0"),
            "they go through the tunnel wg0.",
            "stay on the machine",
        ),
        (
            ("secure_sum=secagg", "clients=10"),
            "The server does not collude with 4 of a client's 9 neighbours.",
            "trusted",
        ),
        (
            ("secure_sum=secagg", "clients=10"),
            "It takes 6 neighbours where the server follows the protocol.",
            "keys until a graph",
        ),
        (("secure_sum=secagg", "clients=40", "cohort=4"), "does not collude with 2 of a client's 3", "39 neighbours"),
        (("secure_sum=secagg", "clients=100"), "with 6 of a client's 66 neighbours", "all neighbours"),
        (("secure_sum=secagg", "clients=100"), "can try keys until a graph suits it", "keyholder"),
        (
            ("secure_sum=secagg", "secure_sum.server=curious"),
            "The server follows the protocol, and the server does not",
            "It takes",
        ),
        (("secure_sum=secagg",), "one party plays all roles", "Noise"),
        (("secure_sum=secagg",), "a false alarm has a probability of at most 1e-09.", "witness=false"),
        (("secure_sum=pad", "witness=false"), "protection that is not switched on goes unnoticed.", "false alarm"),
        ((), "The server is trusted", "witness"),
        (("secure_sum=pad",), "one party plays all roles", "Noise"),
        (("secure_sum=pad", "runtime=deployment", "clients=3"), "one user on one machine", "simulation"),
        (
            ("secure_sum=pad", "runtime=deployment", "runtime.federation=lab"),
            "SHA-256 is to be compared",
            "one machine",
        ),
        ((*RELAYED, "runtime.federation=lab"), PASSIVE, "SHA-256"),
        ((*RELAYED, "clients=3"), PASSIVE, "SHA-256"),
        ((*RELAYED, "clients=3"), "one user on one machine", "simulation"),
        ((*RELAYED, "clients=3"), "The server is passive and relays public keys as they are: the server and the", "DP"),
        (("secure_sum=pad", "runtime=deployment", "clients=3"), "and the keyholder do not collude.", "passive"),
        (("secure_sum=pad", "runtime.client_metrics=false"), "simulation", "client_metrics"),
        (
            ("secure_sum=pad", "server.min_contributors=1", "server.min_share=0.1"),
            "A sum over one client alone is opened",
            "trusted",
        ),
        (("secure_sum=pad",), "simulation", "over one client"),
        (("server.min_contributors=1",), "trusted", "over one client"),
        (
            ("secure_sum=ckks",),
            "The server and the keyholder do not collude.",
            "masks=false",
        ),
        (
            UNMASKED,
            "The server follows the protocol, and the server and the keyholder do not collude.",
            "opens the sum",
        ),
        (UNMASKED, "the keyholder decrypts whatever the server sends it", "flooding_bits=0"),
        (UNMASKED, "Noise hides the key of a round in its opened sum, to 2^-30", "tells the server the secret key"),
        ((*UNMASKED, "secure_sum.flooding_bits=0"), "An opened sum tells the server the secret key", "Noise hides"),
        (
            ("secure_sum=bfv", "secure_sum.masks=false"),
            "decrypts whatever the server sends",
            "tells the server the secret key",
        ),
        (("privacy=flare",), "Every client opens the sum", "in the clear"),
        (("privacy=fedml_he",), "The server sees 0.9 of the values of each client's update", "at random"),
        (("privacy=fedml_he",), "chosen by the clients' sensitivities (secure_sum.encrypt_fraction=0.1)", "at random"),
        (("privacy=fedml_he",), "the client that opens a sum learns all, and the server which are the largest", "DP"),
        (("secure_sum=bfv", "secure_sum.encrypt_fraction=0.25"), "and 0.75 of each update is in the clear.", "maps"),
        (("secure_sum=bfv", "secure_sum.encrypt_fraction=0.25"), "chosen at random, the same ones", "sensitivities"),
        (("secure_sum=pad", MEASURED), "(runtime.measure_sum_error=true): the secure sum protects nothing.", "collude"),
        ((MEASURED,), "A test: the server is told every client's contribution.", "trusted"),
        (("secure_sum=pad",), "simulation", "measure_sum_error"),
    ],
)
def test_a_card_says_what_is_left_open(overrides, said, unsaid):
    text = card(*overrides)
    assert said in text
    assert unsaid not in text


def test_every_line_is_a_sentence():
    every = (
        "runtime.client_diagnostics=true",
        "server.min_contributors=1",
        "noise=seeded",
        "privacy=fedml_he",
        MEASURED,
    )
    private = (*DP_SGD, "noise=seeded", "runtime.client_diagnostics=true")
    relayed = card(*RELAYED, "runtime.federation=lab")
    texts = relayed, card(*private, "secure_sum=pad"), card(*private, "secure_sum=crypten"), card(*every)
    for line in "\n".join(texts).splitlines():
        assert line[0].isupper()
        assert line.endswith(".")


def test_the_assumption_is_that_of_the_clients_who_hold_data():
    """Fewer than 200 clients hold data, and cohorts of those are asked."""
    empty = ("data.partition=dirichlet", "data.alpha=0.01", "data.allow_empty=true")
    topics = explained(workspace_of("secure_sum=secagg", "clients=200", *empty))
    coalition = topics["coalition"][0]
    named = coalition.removeprefix("The server and ").removesuffix(" together read one client's update.")
    assert topics["trust"] == [f"The server does not collude with {named}."]


CARDS = "tests.outside.cards"


def test_a_sum_from_outside_says_its_own_sentences_by_topic():
    topics = explained(workspace_of(f"secure_sum._target_={CARDS}.ToldSum"))
    assert topics["coalition"] == ["The server and the notary together read the sign of each value."]
    assert topics["keys"][0] == "The notary holds the seeds."
    assert topics["protocol"] == ["The notary is one process."]
    assert topics["trust"][-1] == "A notary was sworn in."
    assert list(topics)[-1] == "notary", "a topic of its own comes after all others"
    assert topics["notary"] == ["The notary charges a fee."]


def test_a_hiding_sum_that_says_nothing_about_itself_is_said_to():
    topics = explained(workspace_of(f"secure_sum._target_={CARDS}.SilentSum"))
    assert "not who holds which key or sees what" in topics["trust"][1]
    assert topics["coalition"][0] == "The server alone reads one client's update."
    honest = explained(workspace_of("secure_sum._target_=tests.outside.masked_sum.MaskedSum"))
    assert len(honest["trust"]) == 1, "a sum that hides nothing has nothing to explain"


def test_a_mechanism_from_outside_says_its_own_sentences_by_topic():
    topics = explained(workspace_of(f"+mechanism.told._target_={CARDS}.ToldNoise"))
    assert topics["in sight"][0] == "The length of the update tells its rank."
    assert topics["coalition"] == ["The server alone reads one client's update, as told noised it."]
    assert "The noise of told is floating-point, whose rounding may leak (Mironov 2012)." in topics["noise"]
    assert not [line for line in topics["noise"] if "does not say" in line]


def test_a_mechanism_that_says_nothing_about_its_noise_is_said_to():
    topics = explained(workspace_of(f"+mechanism.silent._target_={CARDS}.SilentNoise"))
    unsaid = "The mechanism silent does not say who adds its noise or whether its noise is floating-point."
    assert unsaid in topics["noise"]
    without_unit = explained(workspace_of("+mechanism.probe._target_=tests.outside.probe.Probe"))
    assert "noise" not in without_unit, "a mechanism that promises nothing has no noise to explain"
