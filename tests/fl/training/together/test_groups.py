"""Groups of a round: who trains with whom, what is told, and the reasons for training one by one.

Weights of groups of any size agree with those of one by one within 1e-6, for weights of about 0.1.
"""

import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from experiments.execute import execute
from fl.metering import measured
from fl.training.together.choice import Choice
from fl.training.together.groups import Groups, Trained
from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd import DpSgd
from results.store import RunDirectory
from tests.composed import compose, request_of, run, vector_of, workspace_of

RAGGED = ("data.partition=dirichlet", "clients=7", "cohort=5", "training.batch_size=16")
LONG = ("rounds=20", "output.progress=false")
CLOSE = 1e-6


# ---- agreement


@pytest.mark.parametrize("mechanism", [(), ("mechanism=client_dp", "delta=1e-2", "noise=seeded")])
@pytest.mark.parametrize("wanted", ["auto", "2", "3", "50"])
def test_any_size_of_groups_gives_nearly_the_weights_of_one_by_one(wanted, mechanism):
    alone = workspace_of(*RAGGED, *mechanism, "runtime.together=1")
    together = workspace_of(*RAGGED, *mechanism, f"runtime.together={wanted}")
    assert together.together.choice.size == (5 if wanted == "auto" else min(5, int(wanted)))
    for client in alone.plan.cohort(1):
        one, other = (vector_of(work, client, state=work.plan.backend.initial_state()) for work in (alone, together))
        assert np.abs(one - other).max() < CLOSE


def test_the_order_of_asking_changes_no_bit():
    one = workspace_of(*RAGGED, "runtime.together=2")
    other = workspace_of(*RAGGED, "runtime.together=2")
    cohort = [int(client) for client in one.plan.cohort(1)]
    asked = {client: vector_of(one, client) for client in cohort}
    for client in [cohort[4], cohort[1]]:  # the others are never asked
        assert np.array_equal(vector_of(other, client), asked[client])


def test_one_by_one_is_what_it_was(tmp_path):
    """`runtime.together=1` runs the loop of one client alone: the oracle calls it without the group's code."""
    from fl.training.local import train

    work = workspace_of(*RAGGED, "runtime.together=1")
    update_D = vector_of(work, 0)[:-1]
    from fl.participant import client_job
    from fl.training.generators import seed_generators

    seed = seed_generators(work.device, work.plan.config.seed, "train", 1, 0)
    job = client_job(work, request_of(work, 0), {}, work.initial_D, seed)
    train(job, work.passes)
    expected_D = (work.layout(work.model).flatten() - work.initial_D) * work.plan.weight(0)
    assert np.array_equal(update_D, expected_D.numpy())


@pytest.mark.parametrize("mechanism", [(), ("mechanism=dp_sgd", "training.weighting=uniform", "noise=seeded")])
def test_the_trial_does_not_touch_the_weights_that_a_client_got(mechanism):
    """As in a worker that starts when a run is resumed: its first client brings later weights than the initial ones."""
    alone = workspace_of(*mechanism, "runtime.together=1")
    together = workspace_of(*mechanism, "runtime.together=auto")
    later_D = alone.initial_D.numpy()[::-1].copy()
    first = vector_of(together, 0, 2, model_D=later_D)
    assert together.together.choice.size == 4
    assert np.abs(first - vector_of(alone, 0, 2, model_D=later_D)).max() < CLOSE * 10


def test_a_client_that_got_other_weights_trains_from_its_own():
    """A malicious server may send each client another model: none may get an update from that of another one."""
    work = workspace_of("runtime.together=auto")
    alone = workspace_of("runtime.together=1")
    own_D = work.initial_D.numpy()[::-1].copy()
    vector_of(work, 0)
    expected = vector_of(alone, 1, model_D=own_D)
    assert np.array_equal(vector_of(work, 1, model_D=own_D), expected)
    assert np.abs(expected - vector_of(alone, 1)).max() > 1e-4


@pytest.mark.slow
def test_accuracies_of_five_seeds_do_not_differ(tmp_path):
    """A paired interval of 95 % of the difference in accuracy holds 0, or ends within half a percent of it."""
    found = {
        wanted: [
            execute(
                compose(
                    *RAGGED, "rounds=20", f"seed={seed}", f"runtime.together={wanted}", f"out={tmp_path}/{wanted}{seed}"
                )
            ).summary["accuracy"]
            for seed in range(1, 6)
        ]
        for wanted in ("1", "auto")
    }
    apart = np.array(found["auto"]) - np.array(found["1"])
    half = stats.t.ppf(0.975, 4) * apart.std(ddof=1) / math.sqrt(5)
    assert abs(apart.mean()) <= max(half, 0.005), (found, half)


# ---- costs


def test_the_costs_of_a_group_are_shared_by_examples():
    calls = []

    def train(clients, number):
        calls.append((tuple(clients), number))
        sum(range(2_000_000))
        rows_ND = torch.arange(len(clients), dtype=torch.float32)[:, None].expand(-1, 4) + 10 * clients[0]
        return Trained(rows_ND, [{"own": float(client)} for client in clients])

    start_D = torch.zeros(4)
    work = {3: 10, 1: 30, 4: 0, 2: 5, 0: 5}
    groups = Groups(3, lambda _: [3, 1, 4, 2, 0], train, work.__getitem__, partial(measured, torch.device("cpu")))
    taken = {client: groups.take(1, "a", client, start_D) for client in (1, 3, 4, 0)}
    assert calls == [((3, 1, 4), 1), ((2, 0), 1)], "each group once, by the order of the cohort"
    assert [taken[client].diagnostics["own"] for client in (3, 1, 4, 0)] == [3.0, 1.0, 4.0, 0.0]
    assert [float(taken[client].row_D[0]) for client in (3, 1, 4, 0)] == [30.0, 31.0, 32.0, 21.0]
    walls = {client: own.costs["wall"] for client, own in taken.items()}
    assert walls[1] == pytest.approx(3 * walls[3])
    assert walls[4] == 0.0
    assert walls[3] > 0
    assert groups.take(1, "b", 3, start_D) is not None
    assert calls[2:] == [((3, 1, 4), 1)], "another attempt trains again, with randomness of its own"
    assert groups.take(1, "b", 1, start_D + 1) is None


def test_the_rows_of_clients_add_up_to_the_time_of_the_round(tmp_path):
    execute(compose("rounds=2", "runtime.together=auto", "output.progress=false", f"out={tmp_path}"))
    rows = RunDirectory(tmp_path).rows()
    trained = rows.filter((rows["stage"] == "train") & (rows["metric"] == "wall") & (rows["round"] == 2))
    wall_s = rows.filter((rows["stage"] == "round") & (rows["metric"] == "wall") & (rows["round"] == 2))["value"][0]
    assert len(trained) == 10
    assert 0 < trained["value"].sum() < wall_s
    assert trained["value"].max() < 3 * trained["value"].min(), "no client is charged with the work of all"


# ---- reasons for one by one


class Controlled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(x.flatten(1))
        return outputs * 2 if outputs.sum() > 0 else outputs


class Centred(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return super().forward(flat - flat.mean(dim=0))


def controlled(shape, classes):
    return Controlled(math.prod(shape), classes)


def centred(shape, classes):
    return Centred(math.prod(shape), classes)


def dropping(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(math.prod(shape), classes))


class Attending(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.last = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, 0]
        return self.last(self.attention(rows, rows, rows, need_weights=False)[0].mean(dim=1))


def attending(shape, classes):
    return Attending(shape[-1], classes)


def repeated(shape, classes):
    middle = nn.Linear(8, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), middle, nn.Tanh(), middle, nn.Linear(8, classes))


class OtherDpSgd(DpSgd):
    """A class of a third party that prepares clients as it likes."""

    def prepare(self, job):
        super().prepare(job)


def normalised(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape)), nn.Linear(math.prod(shape), classes))


HERE = "tests.fl.training.together.test_groups"
PRIVATE = ("mechanism=dp_sgd", "training.weighting=uniform")
REASONS = {
    (f"model._target_={HERE}.controlled",): "the model cannot be mapped over clients: .*data-dependent control flow",
    (f"model._target_={HERE}.dropping",): "the model cannot be mapped over clients: .*random",
    (f"model._target_={HERE}.attending",): "the model cannot be mapped over clients: .*attention",
    (f"model._target_={HERE}.centred",): "the model trains otherwise when it is mapped over clients",
    (f"model._target_={HERE}.normalised",): "training moves 1.running_mean, by the statistics of whole batches",
    (
        "training.optimizer._target_=torch.optim.Adafactor",
    ): "steps of Adafactor depend on more than one value at a time",
    (*PRIVATE, "mechanism.dp_sgd.clipping=per_layer"): "mechanism=dp_sgd: clips per_layer",
    (*PRIVATE, "mechanism.dp_sgd.clipping=adaptive"): "mechanism=dp_sgd: clips adaptive",
    (*PRIVATE, "mechanism.dp_sgd.mode=ew"): "mechanism=dp_sgd: computes in mode=ew",
    (*PRIVATE, f"model._target_={HERE}.dropping"): "mechanism=dp_sgd: it draws random numbers",
    (*PRIVATE, f"model._target_={HERE}.repeated"): "mechanism=dp_sgd: 2.weight takes part otherwise than",
    (*PRIVATE, "mechanism.dp_sgd._target_=tests.fl.training.together.test_groups.OtherDpSgd"): "prepares the training",
    ("runtime=ray",): "so runtime=ray trains them",
    ("runtime=deployment", "clients=3"): "so runtime=deployment trains them",
}


@pytest.mark.parametrize("overrides", REASONS, ids=lambda one: one[0])
def test_what_cannot_be_stacked_trains_one_by_one_and_the_run_says_why(overrides):
    choice = workspace_of(*overrides).together.choice
    assert choice.size == 1
    assert choice.told.startswith("trained one by one (")
    assert re.search(REASONS[overrides], str(choice.reason))


def test_a_model_that_falls_back_trains_as_with_one(tmp_path):
    model = f"model._target_={HERE}.controlled"
    auto = run(tmp_path / "auto", model, "runtime.together=auto").weights_D
    assert torch.equal(auto, run(tmp_path / "one", model, "runtime.together=1").weights_D)


@pytest.mark.parametrize(
    ("overrides", "told", "size", "reason"),
    [
        (("model=mlp",), "up to 10 trained together", 10, None),
        (("model=mlp", "runtime.together=4"), "up to 4 trained together", 4, None),
        (("model=mlp", "runtime.together=1"), "trained one by one", 1, None),
        (
            ("model=mlp", "runtime.workers=3"),
            "up to 10 trained together, in fewer groups than workers: runtime.together=3 gives each one",
            10,
            None,
        ),
        (("training/optimizer=adam",), "up to 10 trained together", 10, None),
        (
            ("model=logistic", f"model._target_={HERE}.normalised"),
            "trained one by one (training moves 1.running_mean, by the statistics of whole batches)",
            1,
            "training moves 1.running_mean, by the statistics of whole batches",
        ),
    ],
)
def test_the_output_and_the_summary_of_a_run_say_so(tmp_path, capsys, overrides, told, size, reason):
    execute(compose("rounds=1", *overrides, f"out={tmp_path}"))
    first = next(line for line in capsys.readouterr().err.splitlines() if "round 0 of 1" in line)
    assert first.endswith(f"values, cpu, {told}")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["together"], summary["together_reason"]) == (size, reason)


def test_memory_bounds_a_group(monkeypatch):
    from fl.training.together import choice

    whole = workspace_of("clients=10", "model=mlp").together.choice
    monkeypatch.setattr(choice, "BUDGET_BYTES", 3_000_000)
    less = workspace_of("clients=10", "model=mlp").together.choice
    monkeypatch.setattr(choice, "BUDGET_BYTES", 1)
    least = workspace_of("clients=10", "model=mlp").together.choice
    assert whole == Choice(10)
    assert 1 < less.size < 10
    assert least == Choice(1, "memory holds one")


def test_asking_for_groups_where_there_are_none_is_refused():
    with pytest.raises(
        ConfigError, match=r"^runtime\.together=3: runtime=ray trains clients one by one: set auto or 1$"
    ):
        workspace_of("runtime=ray", "runtime.together=3")
