"""The ledgers of parties, and what the card says of whoever enforces epsilon."""

import pytest

from fl.keys import ledgers
from fl.threats import threat_card
from privacy.errors import ConfigError, FedveilError, PrivacyRefusal
from privacy.secure_sums.contract import Participant
from privacy.secure_sums.mpc import protocol
from tests.adversary.clients.attempts import LOCAL, MOST, PLANNED, epsilon_of, work_of
from tests.composed import workspace_of

PARTY_DP = ("privacy=party_dp", "delta=1e-2")


def test_a_party_counts_the_contributions_of_each_client(ledger_folder):
    plan = work_of(*PARTY_DP).plan
    assert plan.backend.keeps_account("party/0")
    assert not plan.backend.keeps_account("keyholder")
    own = ledgers.simulated("party/0", plan)
    for number in range(MOST):
        own.pay(1, str(number), ["client/1", "client/2"])
    with pytest.raises(PrivacyRefusal, match=f"client/2 has contributed {MOST} times, of {MOST}"):
        own.pay(1, "more", ["client/0", "client/2"])
    own.pay(1, "others", ["client/0", "client/3"])


def test_a_party_that_refuses_tells_the_others_before_it_adds_noise(monkeypatch):
    """A refusal becomes the party's complaint in the agreement, which comes before anything is computed."""
    work = work_of(*PARTY_DP)
    told = []

    def agree(held: object, complaint: FedveilError | None, *_: object) -> None:
        told.append(str(complaint))
        raise complaint or AssertionError

    def refuse(clients: object) -> None:
        raise PrivacyRefusal(f"no more of {clients}")

    monkeypatch.setattr(protocol, "agree", agree)
    monkeypatch.setattr(protocol.Taken, "take", lambda self, *_: self.manifests.update({"client/1": b""}))
    me = Participant(
        address="party/0", run="", round=1, attempt="a", spec=work.spec, memory={}, randomness=None, pay=refuse
    )
    with pytest.raises(PrivacyRefusal, match="no more of"):
        work.plan.backend.secure_sum.respond("reveal", {"given": b""}, me, lambda: None)
    assert told == ["no more of ('client/1',)"]


# ---- the card


@pytest.mark.parametrize(
    ("overrides", "enforced"),
    [
        (LOCAL, True),
        (("mechanism=dp_sgd", "training.weighting=uniform", "accountant=rdp"), True),
        ((*PARTY_DP, "accountant=rdp"), True),
        (
            ("mechanism=distributed_dp", "delta=1e-2", "secure_sum=secagg", "clients=6", "server.min_contributors=5"),
            True,
        ),
        (
            (
                "mechanism=distributed_dp",
                "delta=1e-2",
                "secure_sum=secagg",
                "secure_sum.server=curious",
                "clients=6",
                "server.min_contributors=5",
            ),
            False,
        ),
        (("mechanism=distributed_dp", "delta=1e-2", "server.min_contributors=3"), False),
        (("mechanism=client_dp", "delta=1e-2"), False),
        (("mechanism=dp_ftrl", "delta=1e-2"), False),
    ],
)
def test_the_card_says_who_enforces_epsilon(overrides, enforced):
    card = threat_card(workspace_of(*overrides, *(() if "accountant=rdp" in overrides else ("accountant=rdp",))))
    by_client = [line for line in card if line.startswith("Whatever the server asks, epsilon is at most ")]
    by_server = [line for line in card if "That holds for a server that follows the protocol" in line]
    assert (len(by_client), len(by_server)) == ((1, 0) if enforced else (0, 1))


def test_the_largest_epsilon_on_the_card_is_that_of_the_budget():
    work = workspace_of(*LOCAL, "retries=5")
    sigma = work.plan.backend.mechanisms[0].noise_multiplier
    [line] = [line for line in threat_card(work) if line.startswith("Whatever the server asks")]
    assert f"epsilon is at most {epsilon_of(PLANNED + 5, sigma):.3g} for a client, enforced by the client" in line
    capped = workspace_of(*LOCAL, f"epsilon_budget={epsilon_of(3, sigma)}")
    [line] = [line for line in threat_card(capped) if line.startswith("Whatever the server asks")]
    assert f"epsilon is at most {epsilon_of(3, sigma):.3g} for a client" in line
    assert line.endswith("its own ledger refuses what would exceed it (epsilon_budget).")


def test_retries_where_nobody_counts_them_are_refused():
    with pytest.raises(ConfigError, match="retries=5: no client keeps account of its noise under this mechanism"):
        workspace_of("mechanism=client_dp", "delta=1e-2", "retries=5")
    with pytest.raises(ConfigError, match="retries=-1: must be at least 0"):
        workspace_of(*LOCAL, "retries=-1")
