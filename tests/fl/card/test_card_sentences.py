"""Whole cards, sentence by sentence: none may go missing, come up where it does not hold, or change unseen."""

import math
from collections import Counter

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant

from fl.threats import explained, threat_card
from tests.composed import workspace_of
from tests.fl.card.cards import CARDS
from tests.fl.card.sentences import (
    AMONG_TWO,
    COUNTED,
    NEIGHBOURS,
    OF_TEN,
    PAD,
    PLAIN,
    SIMULATION,
    TIMES,
    TRUSTED,
    UNCOUNTED,
    UNCOVERED,
    UNWEIGHTED,
    WRONG_SERVER,
)

PIXELS = "Pixels are normalised with the mean and deviation of all training images, which no epsilon covers."
OS_NOISE = "Noise comes from ChaCha20 under keys of the operating system (noise=os)."
BY_SERVER = "That holds for a server that follows the protocol: no client can enforce it."
BY_CLIENT = "enforced by the client: its own ledger allows 3 contributions beyond the planned ones (retries)."
EXACT_SUM = "Noise is added at the server, which sees each exact sum before."
RECORDS = "Neighbouring data differ by one record, there or not."
CLIENTS = "Neighbouring data differ in one client, whose contribution becomes zero."
DP_SGD = ("mechanism=dp_sgd", "delta=1e-5", "accountant=rdp", "training.steps=5", "training.epochs=null")
STEPS = "The time of a step tells how many records it drew, which epsilon takes for a secret."
SERVER_READS = "The server alone reads one client's update"


def floating(mechanism: str) -> str:
    return f"The noise of {mechanism} is floating-point, whose rounding may leak (Mironov 2012)."


PRIVATE: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "dp_sgd": (
        (*DP_SGD, "noise=seeded", "runtime.client_diagnostics=true"),
        {
            *TRUSTED,
            *UNCOVERED,
            STEPS,
            PIXELS,
            RECORDS,
            floating("dp_sgd"),
            f"{SERVER_READS}, as dp_sgd noised it.",
            "Noise comes from the seed (noise=seeded): whoever knows it takes the noise off, so nothing is protected.",
            "The sampling rate is batch_size over a client's examples, so it tells them (training.sample_rate=null).",
            "This epsilon takes each client's number of examples as known: its sampling rate, its steps and the scale "
            "of its noise follow from it, and a record more or less may change them (training.sample_rate=null).",
            "Clients report exact norms, clipped fractions, and numbers of values that were cut and of gradients that "
            "were not finite (runtime.client_diagnostics=true), beyond any epsilon.",
        },
    ),
    "dp_sgd that may end early, with scores of clients": (
        (
            *(*DP_SGD, "training.sample_rate=0.1", "runtime.client_diagnostics=true"),
            *(
                "runtime.client_evaluation=true",
                "data.public_share=0.5",
                "server.patience=2",
                "server.evaluate_every=1",
            ),
        ),
        {
            *TRUSTED,
            *UNCOVERED,
            STEPS,
            PIXELS,
            OS_NOISE,
            RECORDS,
            floating("dp_sgd"),
            f"{SERVER_READS}, as dp_sgd noised it.",
            "Clients report exact norms, clipped fractions, and numbers of values that were cut and of gradients that "
            "were not finite (runtime.client_diagnostics=true), beyond any epsilon.",
            "Clients report their accuracy and loss on their own examples, exactly (runtime.client_evaluation=true), "
            "and no epsilon covers that.",
            "The run may end early, by the loss on public examples of the server (server.patience); as that depends on "
            "the models, epsilon is that of all planned rounds.",
        },
    ),
    "dp_sgd of features at a public rate": (
        (*DP_SGD, "training.sample_rate=0.1", "data.features=scattering"),
        {*TRUSTED, *UNCOVERED, STEPS, OS_NOISE, RECORDS, floating("dp_sgd"), f"{SERVER_READS}, as dp_sgd noised it."},
    ),
    "client_dp under masks": (
        ("mechanism=client_dp", "delta=1e-2", "accountant=rdp", "secure_sum=pad"),
        {
            *(UNWEIGHTED - {TIMES, COUNTED}),
            UNCOUNTED,
            *UNCOVERED,
            *PAD,
            SIMULATION,
            OS_NOISE,
            PIXELS,
            CLIENTS,
            BY_SERVER,
            EXACT_SUM,
            floating("client_dp"),
        },
    ),
    "dp_ftrl": (
        ("mechanism=dp_ftrl", "delta=1e-2", "accountant=rdp"),
        {*PLAIN, *UNCOVERED, OS_NOISE, PIXELS, CLIENTS, BY_SERVER, EXACT_SUM, floating("dp_ftrl")},
    ),
    "dp_ftrl in bands": (
        ("mechanism=dp_ftrl", "delta=1e-2", "accountant=rdp", "cohort=2"),
        {
            *PLAIN,
            *UNCOVERED,
            OS_NOISE,
            PIXELS,
            CLIENTS,
            BY_SERVER,
            EXACT_SUM,
            floating("dp_ftrl"),
            "The server's checkpoints hold the noise of the last rounds: whoever reads them takes it off the models.",
        },
    ),
    "local_dp": (
        ("mechanism=local_dp", "delta=1e-2", "accountant=rdp"),
        {
            *TRUSTED,
            *UNCOVERED,
            OS_NOISE,
            PIXELS,
            floating("local_dp"),
            f"{SERVER_READS}, as local_dp noised it.",
            "Neighbouring data differ in one client, replaced by another.",
        },
    ),
    "distributed_dp": (
        ("mechanism=distributed_dp", "delta=1e-2", "secure_sum=secagg", "clients=10", "server.min_contributors=6"),
        {
            *(UNWEIGHTED - {AMONG_TWO, COUNTED, TIMES}),
            *UNCOVERED,
            *NEIGHBOURS,
            *OF_TEN,
            WRONG_SERVER,
            SIMULATION,
            OS_NOISE,
            PIXELS,
            CLIENTS,
            "Nothing is opened over fewer than 6 clients (server.min_contributors).",
            "The server does not collude with 4 of a client's 9 neighbours.",
            "The server and 4 of a client's 9 neighbours together read one client's update, as distributed_dp noised "
            "it.",
        },
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_of_a_secure_sum_is_these_sentences(name):
    overrides, sentences = CARDS[name]
    card = threat_card(workspace_of(*overrides))
    assert set(card) == sentences
    assert len(card) == len(sentences), "a sentence is said twice"


@pytest.mark.parametrize("name", PRIVATE)
def test_a_card_of_a_mechanism_is_these_sentences_and_its_epsilon(name):
    overrides, sentences = PRIVATE[name]
    card = threat_card(workspace_of(*overrides))
    planned = [sentence for sentence in card if sentence.startswith("Run as planned, epsilon is ")]
    most = [sentence for sentence in card if sentence.startswith("Whatever the server asks, epsilon is at most ")]
    assert len(planned) == 1
    assert len(most) == (BY_SERVER not in sentences)
    assert all(sentence.partition(", ")[2].partition(", ")[2] == BY_CLIENT for sentence in most)
    assert set(card) - {*planned, *most} == sentences
    assert len(card) == len(sentences) + len(planned) + len(most), "a sentence is said twice"


def test_a_coalition_with_an_epsilon_of_its_own_has_a_sentence():
    epsilons = explained(workspace_of("privacy=party_dp", "delta=1e-2"))["epsilon"]
    starts = [sentence.rpartition(" is ")[0] for sentence in epsilons[3:]]
    assert [sentence.rpartition(" against ")[2] for sentence in (epsilons[1], *epsilons[3:])] == [
        "outsider and server and server with 1 party.",
        "server with 1 party.",
        "outsider.",
    ]
    assert starts == ["Of party_dp, run as planned, epsilon"] * 2
    assert epsilons[2].endswith(
        ", enforced by the client and by each honest party: their own ledgers allow 3 contributions beyond the planned "
        "ones (retries)."
    )


# ---- the epsilon of the whole run, by libraries that know nothing of the ledger


def planned(*overrides: str) -> str:
    [sentence] = [one for one in threat_card(workspace_of(*overrides)) if one.startswith("Run as planned")]
    return sentence


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_epsilon_of_a_client_is_over_all_rounds(rounds):
    accountant = RdpAccountant()
    for _ in range(rounds):
        accountant.compose(GaussianDpEvent(1.3))
    told = planned(
        "mechanism=client_dp",
        "mechanism.client_dp.noise_multiplier=1.3",
        "delta=1e-4",
        "accountant=rdp",
        f"rounds={rounds}",
    )
    epsilon = accountant.get_epsilon(1e-4)
    assert told == f"Run as planned, epsilon is {epsilon:.3g} for a client at delta 0.0001 (rdp), against outsider."


def test_epsilon_is_that_of_who_takes_part_most_often():
    overrides = ("mechanism=client_dp", "delta=1e-4", "accountant=rdp", "rounds=9", "cohort=2", "clients=6")
    work = workspace_of(*overrides)
    drawn = Counter(client for number in range(1, 10) for client in work.plan.cohort(number))
    assert 9 > max(drawn.values()) > min(drawn.values())
    epsilon = RdpAccountant().compose(GaussianDpEvent(1.0), max(drawn.values())).get_epsilon(1e-4)
    assert f"epsilon is {epsilon:.3g} for a client" in planned(*overrides)


@pytest.mark.parametrize("rounds", [1, 6])
def test_epsilon_of_a_record_is_over_all_steps_of_all_rounds(rounds):
    accountant = RDPAccountant()
    for _ in range(5 * rounds):
        accountant.step(noise_multiplier=1.0, sample_rate=0.1)
    told = float(planned(*DP_SGD, "training.sample_rate=0.1", f"rounds={rounds}").split()[5])
    # three digits are shown, and Opacus's orders are not dp-accounting's
    assert math.isclose(told, accountant.get_epsilon(1e-5), rel_tol=0.01)
