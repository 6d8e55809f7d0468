"""A server that gives each client a model of its own choice (Pasquini, Francati and Ateniese, CCS 2022).

Weights so large that a step is lost to their rounding give an update of zero, whatever the data: a sum over the whole
cohort is then the update of the one client that got another model. Masks, keys and manifests are bound to the digest of
what a client was given, so such a sum opens to nothing. The control is a sum whose clients all bind to one digest,
whatever they train on.
"""

import numpy as np
import pytest

from fl import participant
from fl.metering import Phases
from fl.participant import Request, contribution
from fl.threats import explained
from fl.training.given import given_digest
from privacy.errors import BadSignature, PrivacyRefusal, ProtocolError
from privacy.testing.harness import Round
from tests.composed import rows_in, run_with_set_up, workspace_of
from tests.fl.card.sentences import ONE_MODEL

VICTIM = "client/0"
LOST = 2.0**40  # the next float32 is 2^17 further
SUMS = ["secagg", "pad", "bfv", "ckks", "crypten"]


@pytest.fixture(scope="module", params=SUMS)
def work(request):
    return workspace_of(f"secure_sum={request.param}")


def models_of(work, others_D):
    clients = [f"client/{client}" for client in range(work.plan.config.clients)]
    return {address: work.initial_D.numpy() if address == VICTIM else others_D for address in clients}


def trained(work, models):
    """The contribution of each client to the model that it gets."""
    return {
        address: contribution(work, Request(address, "collect", 1, "attempt", {}, model_D), {}, Phases(work.device))
        for address, model_D in models.items()
    }


@pytest.fixture(scope="module")
def attacked(work):
    """The models that clients get, and their contributions."""
    models = models_of(work, np.full(len(work.initial_D), LOST, np.float32))
    return models, trained(work, models)


def off(total_D, update_D):
    return np.abs(total_D - update_D).max()


def test_a_sum_over_two_models_is_not_opened_to_the_update_of_one_client(work, attacked):
    models, vectors = attacked
    givens = {address: given_digest(model_D, {}) for address, model_D in models.items()}
    others = givens["client/1"]
    assert givens[VICTIM] != others
    for given in (others, givens[VICTIM]):  # whichever the server says to whoever opens
        round_ = Round(work.plan.backend.secure_sum, work.spec, vectors, given=given, givens=givens)
        round_.set_up()
        try:
            total = round_.aggregate()
        except (PrivacyRefusal, ProtocolError):
            continue
        assert VICTIM not in total.survivors or off(total.update_D, vectors[VICTIM][:-1]) > 0.1
    assert ONE_MODEL not in explained(work)["coalition"]
    assert "same model" not in work.plan.assumption


def test_control_clients_that_do_not_look_at_the_model_are_read(work, attacked):
    _, vectors = attacked
    round_ = Round(work.plan.backend.secure_sum, work.spec, vectors, strict=True)
    round_.set_up()
    total = round_.aggregate()
    assert np.abs(vectors[VICTIM][:-1]).max() > 0.01
    assert off(total.update_D, vectors[VICTIM][:-1]) < len(vectors) * work.tolerance + 1e-6


def test_control_a_sum_over_one_model_is_no_update():
    work = workspace_of("secure_sum=pad")
    vectors = trained(work, models_of(work, work.initial_D.numpy()))
    round_ = Round(work.plan.backend.secure_sum, work.spec, vectors, strict=True)
    round_.set_up()
    assert off(round_.aggregate().update_D, vectors[VICTIM][:-1]) > 0.01


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_parties_that_are_told_two_models_open_nothing(parties):
    work = workspace_of("secure_sum=crypten", f"secure_sum.parties={parties}")
    vectors = trained(work, models_of(work, work.initial_D.numpy()))

    class Telling(Round):
        def to_role(self, exchange, address):
            request = super().to_role(exchange, address)
            return {**request, "given": b"another"} if (exchange.stage, address) == ("reveal", "party/1") else request

    with pytest.raises((PrivacyRefusal, BadSignature)):
        Telling(work.plan.backend.secure_sum, work.spec, vectors).run()


def test_the_digest_covers_model_type_and_state():
    model_D = np.arange(6, dtype=np.float32)
    changed_D = model_D.copy()
    changed_D[5] = np.nextafter(changed_D[5], np.float32(9))
    digests = {
        given_digest(model_D, {}),
        given_digest(changed_D, {}),
        given_digest(model_D.view(np.int32), {}),
        given_digest(model_D, {"clip": 1.0}),
        given_digest(model_D, {"clip": np.nextafter(1.0, 2.0)}),
        given_digest(model_D, {"norm": 1.0}),
    }
    assert len(digests) == 6
    assert given_digest(model_D.copy(), {"a": 0.1, "b": 2.0}) == given_digest(model_D, {"b": 2.0, "a": 0.1})


class Rounding:
    """The digest as the first client of a run gets it from a model of its own."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model_D, state):
        self.calls += 1
        return given_digest(model_D + (self.calls == 1), state)


def test_a_run_opens_nothing_where_a_client_had_another_model(monkeypatch, tmp_path):
    monkeypatch.setattr(participant, "given_digest", Rounding())
    with pytest.raises(PrivacyRefusal, match="client/"):
        run_with_set_up(tmp_path, "secure_sum=pad", "rounds=1")


@pytest.mark.slow
def test_parties_leave_out_a_client_that_had_another_model(monkeypatch, tmp_path):
    monkeypatch.setattr(participant, "given_digest", Rounding())
    run_with_set_up(tmp_path, "secure_sum=crypten", "rounds=1")
    rows = rows_in(tmp_path / "checkpoints")
    assert rows.filter(rows["metric"] == "survivors")["value"].to_list() == [3.0]
