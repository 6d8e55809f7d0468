import numpy as np
import pytest
import torch

from fl.checkpoint import Checkpoints
from fl.runtimes import inprocess
from fl.runtimes.inprocess import InProcessGrid
from fl.server import Errand
from fl.training import vectors
from privacy.errors import TooFewContributors
from privacy.secure_sums.vectors import Total
from tests.composed import PROBE, examples_of, gradient_at, run, server_of, workspace_of
from tests.fl.faults.stopping import stopped_in
from tests.fl.grids import Tampered, with_error
from tests.outside.probe import known_update

FULL_BATCH = ("training.batch_size=10000", "training.lr=0.5", "rounds=3", "data.partition=dirichlet")
KNOWN = (*PROBE, "rounds=5", "training.weighting=uniform")


def test_fedavg_with_one_full_batch_is_gradient_descent_on_the_pooled_data(tmp_path):
    """McMahan et al. 2017, section 2: FedSGD. By hand in float64 on softmax regression."""
    work = workspace_of(*FULL_BATCH)
    assert len({len(part) for part in work.plan.partitions}) > 1
    weights_D = work.initial_D.numpy().astype(np.float64)
    pooled = examples_of(work)
    for _ in range(3):
        weights_D = weights_D - 0.5 * gradient_at(weights_D, *pooled)
    state = run(tmp_path, *FULL_BATCH)
    assert np.abs(state.weights_D.numpy() - weights_D).max() < 2e-6
    assert np.abs(state.weights_D.numpy() - work.initial_D.numpy()).max() > 0.05


def test_uniform_weights_give_the_mean_of_the_clients_gradients(tmp_path):
    work = workspace_of(*FULL_BATCH, "training.weighting=uniform")
    weights_D = work.initial_D.numpy().astype(np.float64)
    parts = [examples_of(work, part) for part in work.plan.partitions]
    for _ in range(3):
        weights_D = weights_D - 0.5 * np.mean([gradient_at(weights_D, *part) for part in parts], axis=0)
    state = run(tmp_path, *FULL_BATCH, "training.weighting=uniform")
    assert np.abs(state.weights_D.numpy() - weights_D).max() < 2e-6
    by_examples = run(tmp_path / "examples", *FULL_BATCH)
    assert np.abs(by_examples.weights_D.numpy() - weights_D).max() > 1e-4


def mean_updates(work, rounds: int) -> list[np.ndarray]:
    """Mean update of each round under `Probe` with uniform weights, float64."""
    return [
        np.mean([known_update(client, number, 650).astype(np.float64) for client in range(4)], axis=0)
        for number in range(1, rounds + 1)
    ]


def fedavgm(x, deltas, lr=1.0, beta=0.9):
    """Hsu et al. 2019 (arXiv:1909.06335), section 4.3: v = beta v + delta; x = x + lr v."""
    v = np.zeros_like(x)
    for delta in deltas:
        v = beta * v + delta
        x = x + lr * v
    return x


def fedadam(x, deltas, lr=0.01, b1=0.9, b2=0.99, tau=1e-3):
    """Reddi et al. 2021 (arXiv:2003.00295), algorithm 2, with two differences of torch's Adam.

    Both moments are divided by 1 - b^t (the paper has no such correction), and v starts at 0, not at tau^2 or more.
    """
    m = v = np.zeros_like(x)
    for t, delta in enumerate(deltas, 1):
        m = b1 * m + (1 - b1) * delta
        v = b2 * v + (1 - b2) * delta**2
        x = x + lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + tau)
    return x


def fedadagrad(x, deltas, lr=0.01, tau=1e-3):
    """Algorithm 2 of the same with b1 = 0, as its authors ran FedAdagrad; v starts at 0, not at tau^2 or more."""
    v = np.zeros_like(x)
    for delta in deltas:
        v = v + delta**2
        x = x + lr * delta / (np.sqrt(v) + tau)
    return x


def fedavg(x, deltas):
    return x + np.sum(deltas, axis=0)


@pytest.mark.parametrize(
    ("name", "by_hand"), [("fedavg", fedavg), ("fedavgm", fedavgm), ("fedadam", fedadam), ("fedadagrad", fedadagrad)]
)
def test_server_optimizers_are_those_of_their_papers(tmp_path, name, by_hand):
    work = workspace_of(*KNOWN, f"server={name}")
    start_D = work.initial_D.numpy().astype(np.float64)
    expected_D = by_hand(start_D, mean_updates(work, 5))
    got_D = run(tmp_path, *KNOWN, f"server={name}").weights_D.numpy()
    assert np.abs(got_D - expected_D).max() < 1e-5 * max(1.0, np.abs(expected_D).max())
    assert np.abs(expected_D - start_D).max() > 0.02


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedadagrad"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, name):
    overrides = (f"server={name}", "rounds=4", "cohort=3", "training/schedule=cosine")
    undisturbed = run(tmp_path / "undisturbed", *overrides)
    stopped = tmp_path / "stopped"
    stopped_in(3, workspace_of(*overrides), stopped)
    assert Checkpoints(stopped, 2).latest().round == 2
    resumed = run(stopped, *overrides)
    assert vectors.sha256(resumed.weights_D) == vectors.sha256(undisturbed.weights_D)
    assert resumed.round == 4
    assert sorted(set(Checkpoints(stopped, 2).rows()["round"])) == [0, 1, 2, 3, 4]


def test_a_finished_run_runs_nothing_more(tmp_path):
    run(tmp_path)
    work = workspace_of()
    grid = Tampered(work, lambda *_: pytest.fail("a client was asked"))
    server_of(work, tmp_path, grid).run()


SPARSE = ("clients=40", "data.partition=dirichlet", "data.alpha=0.02", "data.allow_empty=true")


def test_clients_without_data_are_never_asked(tmp_path):
    work = workspace_of(*SPARSE, "rounds=1")
    holders = [client for client, part in enumerate(work.plan.partitions) if len(part)]
    assert 0 < len(holders) < 40
    assert list(work.plan.candidates) == holders
    grid = Tampered(work, lambda _, reply: [reply])
    server_of(work, tmp_path, grid).run()
    assert [address for address, _ in grid.ran] == [f"client/{client}" for client in holders]
    some = workspace_of(*SPARSE, f"cohort={len(holders) - 1}")
    assert set(server_of(some, tmp_path / "some").work.plan.cohort(1)) < set(holders)


def rounds_with(tmp_path, stage: str, *overrides: str) -> list[int]:
    run(tmp_path, *overrides)
    rows = Checkpoints(tmp_path, 2).rows()
    return sorted(set(rows.filter(rows["stage"] == stage)["round"]))


@pytest.mark.parametrize(("every", "evaluated"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_the_last_round_is_always_evaluated_and_others_as_asked(tmp_path, every, evaluated):
    assert rounds_with(tmp_path, "evaluate", *KNOWN, f"server.evaluate_every={every}") == evaluated


def test_a_round_writes_its_rows_and_its_checkpoint(tmp_path):
    assert rounds_with(tmp_path, "round", "rounds=3") == [1, 2, 3]
    rows = Checkpoints(tmp_path, 2).rows()
    metrics = {(where, stage, metric) for where, stage, metric in rows.select("where", "stage", "metric").rows()}
    assert metrics >= {
        ("server", "round", "wall"),
        ("server", "step", "wall"),
        ("server", "setup", "wall"),
        ("server", "evaluate", "accuracy"),
        ("server", "protocol", "survivors"),
        ("transport", "collect", "wall"),
        ("client/3", "collect", "up_bytes"),
        ("client/3", "train", "wall"),
        ("client/3", "protect", "cpu"),
    }
    assert set(rows["unit"]) == {"s", "bytes", "1"}
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["round-000002.ckpt", "round-000003.ckpt"]


def test_a_client_that_reports_nothing_leaves_its_bytes_alone(tmp_path):
    always = {"up_bytes", "down_bytes", "envelope_bytes"}
    for reports, metrics in (("false", always), ("true", {*always, "wall", "cpu", "peak_rss"})):
        run(tmp_path / reports, f"runtime.client_metrics={reports}")
        rows = Checkpoints(tmp_path / reports, 2).rows()
        of_clients = rows.filter(rows["where"].str.starts_with("client/"))
        assert set(of_clients["metric"]) == metrics


def test_the_mechanisms_see_the_raw_sum(tmp_path):
    """Noise goes onto the sum, before the division: a mechanism that doubles the total doubles the step."""
    work = workspace_of(*KNOWN, "rounds=1")
    plain = run(tmp_path / "plain", *KNOWN, "rounds=1").weights_D - work.initial_D
    double = run(tmp_path / "double", *KNOWN, "rounds=1", "+mechanism.probe.double=true").weights_D - work.initial_D
    assert torch.allclose(double, 2 * plain, atol=1e-5)


def test_a_sum_that_weighs_nothing_moves_no_weights(tmp_path):
    server = server_of(workspace_of(), tmp_path)
    with pytest.raises(TooFewContributors, match="total weight of the contributions is 0"):
        server.step(1, Total(np.zeros(650), 0.0, ("client/0",)))
    assert torch.equal(server.weights.detach(), server.work.initial_D)


def test_the_initial_weights_stay_what_they_were(tmp_path):
    work = workspace_of()
    before = vectors.sha256(work.initial_D)
    inprocess.run(work, Errand(tmp_path))
    assert vectors.sha256(work.initial_D) == before


def test_too_few_contributors_end_the_run_and_keep_what_was_measured(tmp_path):
    work = workspace_of("server.min_contributors=4", "rounds=3")

    def lose(address, reply):
        return [with_error(reply, 1, "gone")] if address == "client/2" and server.meter.round == 2 else [reply]

    server = server_of(work, tmp_path, Tampered(work, lose))
    with pytest.raises(
        TooFewContributors, match="3 contributors are left of 4, 4 are needed; client/2 dropped out: gone"
    ):
        server.run()
    rows = Checkpoints(tmp_path, 2).rows()
    failed = rows.filter((rows["round"] == 2) & (rows["metric"] == "dropped"))
    assert failed["where"].to_list() == ["client/2"]
    assert Checkpoints(tmp_path, 2).latest().round == 1
    assert set(Checkpoints(tmp_path, 2).rows()["round"]) == {0, 1}, "the failed round runs again"


def test_why_somebody_was_missing_is_forgotten_in_the_next_round(tmp_path):
    work = workspace_of("rounds=2")

    def lose(address, reply):
        return [with_error(reply, 1, "gone")] if address == "client/2" and server.meter.round == 1 else [reply]

    server = server_of(work, tmp_path, Tampered(work, lose))
    server.run()
    assert server.transport.dropped == {}
    rows = Checkpoints(tmp_path, 2).rows()
    assert rows.filter(rows["metric"] == "survivors").sort("round")["value"].to_list() == [3, 4]


def test_every_attempt_has_a_name_of_its_own(tmp_path):
    work = workspace_of("rounds=3", "clients=1")
    names = []

    class Listening(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            names.extend(message.content["envelope"]["attempt"] for message in messages)
            return super().push_messages(messages)

    for folder in ("one", "two"):
        server_of(work, tmp_path / folder, Listening(work.plan.hash, 1)).run()
    assert len(set(names)) == len(names) == 6
