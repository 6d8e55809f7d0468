"""Multi-party figures of published tables, with real processes; times only as far as no clock is needed."""

import pytest

from experiments.published.mpc import crypten_model, crypten_processes, share_aggregation, share_parties
from tests.experiments.command import Here
from tests.experiments.published.tables import cells

pytestmark = pytest.mark.slow


def test_a_party_receives_the_shares_and_little_else() -> None:
    two = share_aggregation(2, 5, 1000)
    whole = 1001 * 4  # bytes of one vector and its weight, in words of 32 bits
    # a party holds at least two of five whole shares, keys for the others, and one word a value comes from its peer
    assert 2 * whole < 1e6 * two["received (MB a party)"] < 8 * whole
    ratio = share_parties(3, 2, 5, 1000)["bytes a party, 3 parties / 2"]
    assert 0.5 < ratio < 2


def test_an_encrypted_model_is_trained_by_one_process_and_by_two() -> None:
    one, two = (crypten_model("logistic regression", parties) for parties in (1, 2))
    for found in (one, two):
        assert found["epoch, encrypted / plain"] == pytest.approx(
            found["epoch, encrypted (s)"] / found["epoch, plain (s)"]
        )
        assert found["epoch, encrypted / plain"] > 10
    both = crypten_processes("logistic regression")
    assert both["epoch, 2 processes / 1"] == pytest.approx(two["epoch, encrypted (s)"] / one["epoch, encrypted (s)"])


def test_generic_aggregation_is_not_reproduced_and_says_why(here: Here) -> None:
    ended = here("reproduce", "mpc_aggregation", "--only", "3 parties, honest")
    assert ended.status == 0
    line = cells(ended.out, "semi-honest, 3 parties, honest majority", "received (MB a party)")
    assert line[0] == "83.6"
    assert line[-1] == "not reproduced: a sum of additive shares takes no triples and no circuit"
