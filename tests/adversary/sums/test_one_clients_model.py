"""A server that gives each client a model of its own choice (Pasquini, Francati and Ateniese, CCS 2022).

Clients do not compare the models of a round. Weights so large that a step is lost to their rounding give an update of
zero, whatever the data: a sum over the whole cohort is then the update of the one client that got another model.
"""

import numpy as np
import pytest

from fl.metering import Phases
from fl.participant import Request, contribution
from fl.threats import explained
from privacy.testing.harness import Round
from tests.composed import workspace_of
from tests.fl.card.cards import ONE_MODEL

VICTIM = "client/0"
LOST = 2.0**40  # the next float32 is 2^17 further


def opened_D(work, models):
    """The sum of a whole cohort as the protocol's own server gets it, and the victim's vector."""
    vectors = {
        address: contribution(work, Request(address, "collect", 1, "attempt", {}, model_D), {}, Phases(work.device))
        for address, model_D in models.items()
    }
    round_ = Round(work.plan.backend.secure_sum, work.spec, vectors, strict=True)
    round_.set_up()
    total = round_.aggregate()
    assert total.survivors == tuple(models)
    return total.update_D, vectors[VICTIM][:-1]


def models_of(work, others_D):
    clients = [f"client/{client}" for client in range(work.plan.config.clients)]
    return {address: work.initial_D.numpy() if address == VICTIM else others_D for address in clients}


@pytest.mark.parametrize("name", ["secagg", "pad", "crypten"])
def test_a_sum_is_the_update_of_the_one_client_with_another_model_as_the_card_says(name):
    work = workspace_of(f"secure_sum={name}")
    sum_D, update_D = opened_D(work, models_of(work, np.full(len(work.initial_D), LOST, np.float32)))
    assert np.abs(update_D).max() > 0.01
    np.testing.assert_allclose(sum_D, update_D, atol=4 * work.tolerance + 1e-6)
    assert ONE_MODEL in explained(work)["coalition"]


def test_control_a_sum_over_one_model_is_no_update():
    work = workspace_of("secure_sum=pad")
    sum_D, update_D = opened_D(work, models_of(work, work.initial_D.numpy()))
    assert np.abs(sum_D - update_D).max() > 0.01
