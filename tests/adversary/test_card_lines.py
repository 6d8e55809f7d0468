"""Each line of a threat card is computed: there is a setting that makes it false, and then the card no longer says it.

A new sentence of `tests/fl/card/cards.py` needs a line in `FALSE_UNDER`, unless leaving out its secure sum removes it.
`BEYOND` lists the sentences that no setting removes, on which a user must not count.
"""

import pytest

from fl.threats import threat_card
from privacy.secure_sums.trust import TOPICS
from tests.composed import workspace_of
from tests.fl.card.cards import CARDS
from tests.fl.card.sentences import MODELS, WHEN
from tests.fl.card.test_card_sentences import PRIVATE

BEYOND = {WHEN, MODELS}
CLIENTS = ("mechanism=client_dp", "delta=1e-2", "accountant=rdp")
# the reports that are made with those times, too
UNREPORTED = ("runtime.client_metrics=false", "runtime.client_diagnostics=false", "runtime.client_evaluation=false")
MASKED = ("secure_sum.masks=true", "secure_sum.broadcast=false", "secure_sum.flooding_bits=null")

# a part of a sentence, and what makes it false; the first line that fits decides
FALSE_UNDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("are cut (secure_sum.bound)", ("secure_sum.bound=2",)),
    # ---- trust, keys, coalitions
    ("The server is trusted: it sees", ("secure_sum=pad",)),
    ("The server sees each client's update.", ("secure_sum=pad",)),
    ("The server alone reads one client's update.", ("secure_sum=pad",)),
    ("one party plays all roles", ("runtime=deployment", "clients=3")),
    ("All roles are processes of one user", ("runtime.federation=lab",)),
    ("Whoever hands out the roster", ("runtime.federation=null",)),
    ("The server is passive and relays", ("runtime.roster=pinned",)),
    ("A server that exchanges keys", ("runtime.roster=pinned",)),
    ("Public keys came through the server", ("runtime.roster=pinned",)),
    ("The server and the keyholder do not collude.", ("runtime.measure_sum_error=true",)),
    ("The server and the keyholder together read", ("runtime.measure_sum_error=true",)),
    ("A test: the server is told", ("runtime.measure_sum_error=false",)),
    ("Clients send their contributions in the clear", ("runtime.measure_sum_error=false",)),
    ("The keyholder holds", ("secure_sum.keys=clients",)),
    ("The keyholder sees the sum.", ("secure_sum.keys=clients",)),
    ("decrypts whatever the server sends", MASKED),
    ("A server that breaks the protocol alone", MASKED),
    ("Noise hides the key of a round", ("secure_sum.flooding_bits=0",)),
    ("An opened sum tells the server", ("secure_sum.flooding_bits=30", "secure_sum.broadcast=false")),
    ("Every client opens the sum", ("secure_sum.broadcast=false",)),
    ("chosen at random, the same ones", ("secure_sum.encrypt_fraction=1",)),
    ("chosen by the clients' sensitivities", ("secure_sum.encrypt_by=random",)),
    ("Of the sum of the clients' sensitivities", ("secure_sum.encrypt_by=random",)),
    ("of each update is in the clear", ("secure_sum.encrypt_fraction=1", "secure_sum.encrypt_by=random")),
    ("they go through the tunnel wg0", ("secure_sum.rendezvous=null", "secure_sum.tunnel=null")),
    ("ot all 3 parties collude", ("secure_sum.parties=5",)),
    ("Party/0 and party/1 and party/2 together", ("secure_sum.parties=2",)),
    ("The dealer and any one party together", ("secure_sum.insecure_provider=true",)),
    ("The dealer and the server together", ("secure_sum.insecure_provider=true",)),
    ("A dealer that deals wrong values", ("secure_sum.insecure_provider=true",)),
    ("The dealer can read every client's update", ("secure_sum.insecure_provider=true",)),
    ("arty/0 is trusted", ("secure_sum.insecure_provider=false",)),
    ("Party/0 alone reads", ("secure_sum.insecure_provider=false",)),
    ("Party/0 deals for all", ("secure_sum.insecure_provider=false",)),
    ("It takes 6 neighbours", ("secure_sum.server=curious",)),
    ("does not collude with 4 of a client's 9", ("secure_sum.server=curious",)),
    ("The server and 4 of a client's 9", ("secure_sum.server=curious",)),
    ("does not collude with 6 of a client's 9", ("secure_sum.server=malicious",)),
    ("The server and 6 of a client's 9", ("secure_sum.server=malicious",)),
    ("has nobody to hide among", ("clients=10", "server.min_contributors=2")),
    # ---- the least number, the witness, weights
    ("Nothing is opened over fewer than 2", ("server.min_contributors=1",)),
    ("Nothing is opened over fewer than 6", ("server.min_contributors=7",)),
    ("A sum over one client alone", ("server.min_contributors=2", "clients=10")),
    ("Each client looks at its upload", ("witness=false",)),
    ("Shorter runs of values", ("witness=false",)),
    ("Any client can end the run", ("witness=false",)),
    ("Nobody looks at what clients send", ("witness=true",)),
    ("not declared public", ("training.public_weights=true",)),
    (", declared public", ("training.public_weights=false",)),
    ("Clients report the times of their phases", UNREPORTED),
    ("A roster keeps strangers out", ("runtime=deployment", "clients=3", "runtime.roster=relayed")),
    ("Nothing keeps one party from posing", ("runtime.roster=pinned",)),
    # ---- noise and epsilon
    ("(noise=os)", ("noise=seeded",)),
    ("(noise=seeded)", ("noise=os",)),
    ("is floating-point", ("mechanism=distributed_dp", "delta=1e-2")),
    ("checkpoints hold the noise", ("mechanism.dp_ftrl.bands=1",)),
    ("one record, there or not", CLIENTS),
    ("whose contribution becomes zero", ("mechanism=local_dp",)),
    ("replaced by another", CLIENTS),
    ("Noise is added at the server", ("mechanism=local_dp",)),
    ("for a server that follows the protocol", ("mechanism=local_dp",)),
    ("noised it.", ("mechanism=none",)),
    ("each client's number of examples as known", ("training.sample_rate=0.1",)),
    ("The sampling rate is batch_size", ("training.sample_rate=0.1",)),
    ("The time of a step tells", CLIENTS),
    ("Pixels are normalised", ("data.features=scattering",)),
    ("Clients report the times and the memory", UNREPORTED),
    ("Times and peaks of memory", ("mechanism=none",)),
    ("Who drops out, and the reason", ("mechanism=none",)),
    ("A digest of the data", ("mechanism=none",)),
    ("Clients report exact norms", ("runtime.client_diagnostics=false", "runtime.client_evaluation=false")),
    ("Clients report their accuracy", ("runtime.client_evaluation=false",)),
    ("The run may end early", ("server.patience=null", "data.public_share=0")),
)
WITHOUT_IT = ("secure_sum=plain",)  # for all other sentences of a secure sum
AND_OF_PLAIN = ("secure_sum=pad",)  # for those that the plain sum says, too


def first_cards() -> dict[str, tuple[str, ...]]:
    """Each sentence, and what is overridden on the first card that says it."""
    found: dict[str, tuple[str, ...]] = {}
    for overrides, sentences in (*CARDS.values(), *PRIVATE.values()):
        for sentence in sorted(sentences):  # each worker of pytest must find the same order
            found.setdefault(sentence, overrides)
    return found


def under(overrides: tuple[str, ...], change: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides of a card after a change: a choice of a group takes the place of the one before, and its keys'."""
    for key in [one.partition("=")[0] for one in change]:
        overrides = tuple(one for one in overrides if one.partition("=")[0] != key)
        if key in ("secure_sum", "mechanism"):
            overrides = tuple(one for one in overrides if not one.startswith((f"{key}.", f"{key}/", "privacy=")))
    return (*overrides, *change)


def change_for(sentence: str, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What makes a sentence false on a card."""
    hides = any(one.startswith(("secure_sum", "privacy=")) for one in overrides)
    found = (change for part, change in FALSE_UNDER if part in sentence)
    return next(found, WITHOUT_IT if hides else AND_OF_PLAIN)


def weaker_cards() -> dict[tuple[str, ...], set[str]]:
    """The sentences that must be gone, by what is overridden on the card without them."""
    found: dict[tuple[str, ...], set[str]] = {}
    for sentence, overrides in first_cards().items():
        if sentence not in BEYOND:
            found.setdefault(under(overrides, change_for(sentence, overrides)), set()).add(sentence)
    return found


WEAKER = weaker_cards()


def _param(overrides: tuple[str, ...]):
    marks = () if len(overrides) <= 2 else pytest.mark.slow  # a third of the settings, for half of the sentences
    return pytest.param(overrides, marks=marks, id=" ".join(overrides))


@pytest.mark.parametrize("overrides", [_param(overrides) for overrides in WEAKER])
def test_a_sentence_is_gone_where_it_is_false(overrides):
    """That the sentence is said where it is true, `tests/fl/card/test_card_sentences.py` holds."""
    assert not WEAKER[overrides] & set(threat_card(workspace_of(*overrides)))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["rounds=5", "noise_multiplier=3"])
@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_epsilon_follows_the_run(name, change):
    overrides = PRIVATE[name][0]
    mechanism = next(one.partition("=")[2] for one in overrides if one.startswith("mechanism="))
    more = f"mechanism.{mechanism}.{change}" if change.startswith("noise") else change
    if (name, change) == ("local_dp", "noise_multiplier=3"):
        more = "mechanism.local_dp.epsilon_per_round=1"
    planned = [_planned(threat_card(workspace_of(*overrides, *extra))) for extra in ((), (more,))]
    assert planned[0] != planned[1]


def _planned(card: list[str]) -> str:
    [sentence] = [one for one in card if one.startswith("Run as planned, epsilon is ")]
    return sentence


def test_what_no_setting_removes_is_on_every_card():
    for overrides, sentences in (*CARDS.values(), *PRIVATE.values()):
        assert sentences >= BEYOND, overrides


def test_every_line_of_the_table_is_of_a_sentence():
    for part, _ in FALSE_UNDER:
        assert any(part in sentence for sentence in first_cards()), part
    assert TOPICS[-1] == "beyond"
