import gc
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from fl.checkpoint import Checkpoints
from fl.config.identity import from_json
from fl.runtimes.inprocess import InProcessGrid, WorkerGrid, check_workers, grid_of
from fl.training.vectors import sha256
from fl.workspace import Workspace, workspace
from privacy.errors import ConfigError, RuntimeFailure
from privacy.mechanisms.contract import Mechanism
from privacy.secure_sums.contract import Exchange
from tests.composed import MASKED, PROBE, attempt_of, canonical, run, server_of, transport_of, workspace_of

ROOT = Path(__file__).parents[3]
# uneven clients, partial cohorts, a model with an order of additions, a schedule, a server with a state
TRAINING = (
    "model=mlp",
    "clients=8",
    "cohort=5",
    "runtime.together=2",  # three groups of a round
    "data.partition=dirichlet",
    "training.batch_size=16",
    "training/schedule=cosine",
    "server=fedadam",
    "seed=3",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sha256(run(tmp_path_factory.mktemp("reference"), *TRAINING).weights_D)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, reference):
    assert sha256(run(tmp_path / "same", *TRAINING).weights_D) == reference
    assert sha256(run(tmp_path / "other", *TRAINING, "seed=4").weights_D) != reference


def test_another_run_in_between_changes_nothing(tmp_path, reference):
    """Two servers take turns in one process, and share its threads and its generators."""
    work = workspace(canonical(*TRAINING))
    other = workspace(canonical("training.threads=2", "rounds=3"))
    server = server_of(work, tmp_path / "one")
    second = server_of(other, tmp_path / "two")
    second._round(1)
    server._round(1)
    second._round(2)
    torch.rand(7), np.random.rand(7), random.random()
    second._round(3)
    server._round(2)
    assert sha256(server.weights) == reference


def test_the_global_generators_are_as_before(tmp_path):
    work = workspace_of(*TRAINING)

    def states():
        return random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2], torch.get_rng_state()

    before = states()
    server_of(work, tmp_path).run()
    after = states()
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_configuration(tmp_path, threads):
    seen = []

    class Watched(InProcessGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            seen.append(torch.get_num_threads())
            return replies

    work = workspace_of(*PROBE, f"training.threads={threads}")
    server = server_of(work, tmp_path, Watched(work.plan.hash, 4))
    torch.set_num_threads(3 - threads)
    try:
        server.run()
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {threads}


# ---- Memory


def contexts() -> int:
    gc.collect()
    return sum(type(thing) is Context for thing in gc.get_objects())


def exchange(
    work: Workspace, grid: InProcessGrid, stage: str, clients: Iterable[int], round_: int, **record: int
) -> int:
    """One exchange with some clients; returns the number of replies."""
    asked = Exchange(stage, {f"client/{i}": dict(record) for i in clients}, lambda *_: None, stage != "unmask")
    model_D = work.initial_D.numpy()
    return len(list(transport_of(work, grid).replies(asked, attempt_of(work, round_, f"{round_}"), model_D)))


def test_nothing_is_kept_of_a_client_that_remembers_nothing():
    work = workspace_of(*PROBE, "clients=300")
    before = contexts()
    grid = InProcessGrid(work.plan.hash, 300)
    assert exchange(work, grid, "collect", range(300), 1) == 300
    assert contexts() == before
    assert not grid._states


def test_what_clients_remember_is_kept_for_one_round():
    """Cohorts change from round to round: the memories of 10,000 clients, with secrets, would add up."""
    work = workspace_of(*PROBE, *MASKED, "clients=40", "rounds=3")
    grid = InProcessGrid(work.plan.hash, 40)
    exchange(work, grid, "mask", range(20), 1)
    assert len(grid._states) == 20
    assert exchange(work, grid, "unmask", range(20), 1, there=20) == 20
    exchange(work, grid, "mask", range(20, 40), 2)
    assert len(grid._states) == 20, "what was remembered in the first round is still there"
    assert exchange(work, grid, "unmask", range(20), 2, there=20) == 0
    assert exchange(work, grid, "unmask", range(20, 40), 2, there=20) == 20


def test_a_node_for_each_client_and_nothing_before_it_is_asked():
    grid = InProcessGrid("0" * 64, 1_000_000)
    assert len(list(grid.get_node_ids())) == 1_000_000
    assert contexts() == 0


def test_all_replies_at_once():
    work = workspace_of(*PROBE)
    grid = InProcessGrid(work.plan.hash, 4)
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages)
    assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
    assert grid.pull_messages([]) == []


# ---- Workers


def children() -> list[psutil.Process]:
    """Worker processes of this one (not the tracker of resources that multiprocessing starts beside them)."""
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Workspace, WorkerGrid]]:
    """Two workers, started once, since a start takes seconds."""
    work = workspace_of(*TRAINING, "runtime.workers=2")
    with grid_of(work) as grid:
        assert isinstance(grid, WorkerGrid)
        assert exchange(work, grid, "collect", work.plan.cohort(1), 1) == 5
        yield work, grid
    assert not children(), "a worker outlived its grid"


def test_workers_change_no_bit(tmp_path, workers, reference):
    work, grid = workers
    server = server_of(work, tmp_path, grid)
    server.run()
    assert sha256(server.weights) == reference
    assert len(children()) == 2
    rows = Checkpoints(tmp_path, 2).rows()
    assert set(rows.filter(rows["metric"] == "survivors")["value"]) == {5.0}


def test_a_context_travels_to_the_workers_and_back(workers):
    """The second stage finds the state of the first one, even where another worker serves it."""
    masked = workspace_of(*TRAINING, *MASKED, *PROBE, "cohort=8")
    grid = WorkerGrid(masked.plan.hash, 8, workers[1]._pool)
    assert exchange(masked, grid, "mask", range(8), 1) == 8
    assert exchange(masked, grid, "unmask", range(8), 1, there=8) == 8
    assert exchange(masked, grid, "unmask", range(8), 2, there=8) == 0


@pytest.mark.alone
def test_a_deadline_is_kept_with_workers_and_late_replies_are_forgotten(workers):
    work = workspace_of("clients=48", "+mechanism.nap._target_=tests.fl.runtimes.test_inprocess.Nap")
    grid = WorkerGrid(work.plan.hash, 48, workers[1]._pool)
    model_D = work.initial_D.numpy()
    first = transport_of(work, grid, deadline_s=1.5)
    started = time.monotonic()
    everybody = Exchange("collect", {f"client/{i}": {} for i in range(48)}, lambda *_: None, True)
    there = [address for address, _ in first.replies(everybody, attempt_of(work, 1), model_D)]
    assert 1.5 <= time.monotonic() - started < 4
    assert 1 <= len(there) < 12
    assert set(first.dropped) | set(there) == set(everybody.outbox)
    second = transport_of(work, grid)
    started = time.monotonic()
    one = Exchange("collect", {"client/7": {}}, lambda *_: None, True)
    assert [address for address, _ in second.replies(one, attempt_of(work, 2), model_D)] == ["client/7"]
    assert second.dropped == {}
    assert time.monotonic() - started < 6, "the workers went on with what nobody waits for"


class Nap(Mechanism):
    """A task that takes half a second."""

    name = "nap"

    def prepare(self, job):
        job.batches = ()
        time.sleep(0.5)


def test_a_worker_that_is_killed_fails_the_run_in_one_line(tmp_path, workers):
    """The last one that may use these workers: once they are broken, every exchange says so."""
    work, grid = workers
    children()[0].send_signal(signal.SIGKILL)
    for folder in ("under way", "afterwards"):
        with pytest.raises(RuntimeFailure, match=r"^a worker process died .*: lower runtime.workers$"):
            server_of(work, tmp_path / folder, grid).run()


PARENT = """
from pathlib import Path
from fl.runtimes import inprocess
from fl.server import Errand
from tests.composed import workspace_of

if __name__ == "__main__":
    nap = "+mechanism.nap._target_=tests.fl.runtimes.test_inprocess.Nap"
    inprocess.run(workspace_of("runtime.workers=2", nap, "rounds=600"), Errand(Path({folder!r})))
"""


@pytest.mark.slow
def test_workers_end_with_their_killed_parent(tmp_path):
    with subprocess.Popen([sys.executable, "-c", PARENT.format(folder=str(tmp_path))], cwd=ROOT) as parent:
        ends = time.monotonic() + 60
        while not (tmp_path / "round-000001.ckpt").exists():
            assert parent.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.1)
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert sum("spawn_main" in " ".join(worker.cmdline()) for worker in workers) == 2
        parent.send_signal(signal.SIGKILL)
    alive = psutil.wait_procs(workers, timeout=10)[1]
    for process in alive:
        process.kill()
    assert not alive


def test_without_workers_no_process_is_started():
    work = workspace_of()
    before = len(children())
    with grid_of(work) as grid:
        assert type(grid) is InProcessGrid
        assert len(children()) == before


def check_on(device: str, workers: int, share: float) -> None:
    """Check the workers of a configuration on a device that this machine may lack."""
    options = (f"device={device}", f"runtime.workers={workers}", f"runtime.gpus_per_client={share}")
    check_workers(from_json(canonical(*options)), torch.device(device))


@pytest.mark.parametrize(
    ("present", "workers", "share", "fine"), [(2, 2, 1.0, 1), (1, 2, 0.5, 1), (1, 2, 1.0, 0), (0, 1, 0.1, 0)]
)
def test_workers_share_the_gpus_that_are_there(monkeypatch, present, workers, share, fine):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    if fine:
        check_on("cuda", workers, share)
    else:
        with pytest.raises(ConfigError, match=rf"^runtime.gpus_per_client={share}: with runtime.workers={workers}"):
            check_on("cuda", workers, share)


def test_workers_take_gpus_by_themselves():
    with pytest.raises(ConfigError, match=r"^device=cuda:1: workers choose GPUs themselves: use device=cuda$"):
        check_on("cuda:1", 2, 1.0)
    check_on("cpu", 2, 1.0)
    check_on("cuda:1", 0, 1.0)
