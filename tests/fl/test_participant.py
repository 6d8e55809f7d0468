from itertools import combinations

import numpy as np
import pytest
import torch

from fl.participant import answer
from fl.training import vectors
from privacy.addresses import client_index
from privacy.errors import NonFiniteContribution, ProtocolError
from tests.composed import MASKED, PROBE, examples_of, gradient_at, request_of, vector_of, workspace_of
from tests.outside.probe import known_update

FULL_BATCH = ("training.batch_size=10000", "training.lr=0.5")


@pytest.mark.parametrize(("address", "index"), [("client/0", 0), ("client/17", 17)])
def test_the_client_of_an_address(address, index):
    assert client_index(address) == index


@pytest.mark.parametrize(
    "address", ["", "client", "client/", "client/-1", "client/x", "party/1", "keyholder", "client/1/2", "client/²"]
)
def test_what_is_no_clients_address_is_told(address):
    with pytest.raises(ProtocolError, match="is not a client"):
        client_index(address)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_a_contribution_is_v_times_the_update_and_v(weighting):
    work = workspace_of(*PROBE, "data.partition=dirichlet", f"training.weighting={weighting}", "rounds=3")
    sizes = [len(part) for part in work.plan.partitions]
    for client in range(4):
        vector = vector_of(work, client, 3)
        v = 1.0 if weighting == "uniform" else sizes[client] / max(sizes)
        assert vector.dtype == np.float32
        assert vector[-1] == np.float32(v)
        assert np.array_equal(vector[:-1], known_update(client, 3, 650) * np.float32(v))


def test_a_declared_maximum_of_examples_scales_the_weight():
    work = workspace_of(*PROBE, "training.max_weight=1000")
    assert vector_of(work)[-1] == np.float32(len(work.plan.partitions[0]) / 1000)


@pytest.mark.parametrize("round_", [1, 2, 4])
def test_the_update_is_a_gradient_step_at_the_rounds_learning_rate(round_):
    work = workspace_of(*FULL_BATCH, "training/schedule=exponential", "training.schedule.gamma=0.5", "rounds=4")
    vector = vector_of(work, 1, round_)
    gradient_D = gradient_at(work.initial_D.numpy().astype(np.float64), *examples_of(work, work.plan.partitions[1]))
    rate = 0.5 * 0.5 ** (round_ - 1)
    assert np.abs(vector[:-1] / vector[-1] + rate * gradient_D).max() < 1e-6


def test_steps_are_taken_where_steps_are_asked():
    work = workspace_of("training.epochs=null", "training.steps=1", "training.lr=0.5", "training.batch_size=10000")
    whole = workspace_of(*FULL_BATCH)
    assert np.allclose(vector_of(work), vector_of(whole), atol=1e-7)


def test_earlier_clients_and_rounds_leave_no_trace():
    work = workspace_of("model=mlp")
    fresh = workspace_of("model=mlp")
    for client, round_ in ((3, 1), (0, 2), (2, 1)):
        vector_of(work, client, round_)
    assert np.array_equal(vector_of(work, 1, 2), vector_of(fresh, 1, 2))


def test_rounds_and_clients_train_in_orders_of_their_own():
    """Both clients hold the same examples: only the order tells them apart."""
    work = workspace_of("training.batch_size=8")
    work.plan.partitions[1] = work.plan.partitions[0]
    again = {(client, round_): vector_of(work, client, round_) for client in (0, 1) for round_ in (1, 2)}
    for (client, round_), vector in again.items():
        assert np.array_equal(vector, vector_of(work, client, round_))
    for one, other in combinations(again.values(), 2):
        assert not np.array_equal(one, other)
    other = workspace_of("training.batch_size=8", "seed=2")
    assert not np.array_equal(again[0, 1], vector_of(other, 0, 1, model_D=work.initial_D.numpy()))


def test_the_model_that_came_is_not_written_to():
    work = workspace_of()
    request = request_of(work)
    before = request.model_D.copy()
    answer(work, request, {})
    assert np.array_equal(request.model_D, before)
    assert np.array_equal(work.initial_D.numpy(), before)


def test_what_depends_on_the_global_generators_is_reproducible():
    dropout = ("model._target_=tests.fl.test_participant.Forgetful",)
    first = vector_of(workspace_of(*dropout))
    torch.manual_seed(5)
    assert np.array_equal(vector_of(workspace_of(*dropout)), first)


class Forgetful(torch.nn.Sequential):
    """A model that draws from the global generator as it trains."""

    def __init__(self, shape, classes) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, classes))


def test_the_phases_are_told_apart():
    work = workspace_of()
    _, metrics = answer(work, request_of(work), {})
    phases = {name.partition(".")[0] for name in metrics}
    assert phases == {"prepare", "train", "flatten", "transfer", "protect"}
    assert all(value >= 0 for value in metrics.values())
    assert metrics["train.wall"] > metrics["transfer.wall"]


def test_a_stage_that_collects_nothing_trains_nothing():
    work = workspace_of(*MASKED)
    _, metrics = answer(work, request_of(work, stage="unmask", model_D=None), {"seed": bytes(16)})
    assert {name.partition(".")[0] for name in metrics} == {"protect"}


def test_a_contribution_without_a_model_is_refused():
    work = workspace_of()
    with pytest.raises(ProtocolError, match="stage collect asks for a contribution without a model"):
        vector_of(work, model_D=None)


@pytest.mark.parametrize(("client", "round_"), [(0, 0), (0, 3), (0, -1), (4, 1), (10**30, 1)])
def test_a_round_or_a_client_that_the_configuration_does_not_have_is_refused(client, round_):
    """A server that asks for more rounds than were agreed would spend more privacy than was agreed."""
    work = workspace_of("rounds=2", "clients=4")
    with pytest.raises(ProtocolError, match=f"client/{client} has nothing to contribute to round {round_}"):
        vector_of(work, client, round_)


def test_a_model_of_another_length_is_refused():
    work = workspace_of()
    with pytest.raises((RuntimeError, ValueError)):
        vector_of(work, model_D=np.zeros(649, np.float32))


def test_training_that_diverges_sends_nothing():
    work = workspace_of("model=mlp", "training.lr=1e30", "training.batch_size=8")
    with pytest.raises(NonFiniteContribution, match=r"lower training\.lr"):
        vector_of(work)


def test_memory_is_the_protocols():
    work = workspace_of(*MASKED)
    memory = {}
    answer(work, request_of(work, stage="mask"), memory)
    assert set(memory) == {"seed"}
    records, _ = answer(work, request_of(work, stage="unmask", model_D=None), memory)
    assert records == {"seed": memory["seed"]}


def test_two_answers_never_draw_the_same_mask():
    work = workspace_of(*MASKED)
    memories = [{}, {}]
    for memory in memories:
        answer(work, request_of(work, stage="mask"), memory)
    assert memories[0]["seed"] != memories[1]["seed"]


def test_nobody_else_learns_a_weight_through_the_model():
    """Answering leaves the shared model trained; the next answer starts from the weights that came."""
    work = workspace_of()
    vector_of(work)
    assert not torch.equal(vectors.flatten(work.model), work.initial_D)
    first = vector_of(work, 2)
    assert np.array_equal(vector_of(work, 2), first)
