"""The engines against a bare PyTorch loop, on 1,000 clients of Fashion-MNIST (cohort 50, batch 32, one epoch, `cnn`).

The bare loop, the in-process runtime with one client at a time and with clients together, and pfl-research where it is
there, alternate round by round, on one thread each. Ratios are of processor time, which other work of the machine
disturbs less than wall time. Ray runs in two sessions of its own between two halves of that alternation, because its
polling thread would slow other work; its data are cached in its actors, and its first round is reported apart. All
engines end with the same weights. A table gives the same ratio for other models.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.bare import BareLoop
from experiments.benchmarks.pfl_research.peer import Lap, Peer, peer_of, require_pfl
from experiments.benchmarks.processes import sampled_peak_bytes
from experiments.hydra.compose import composed
from fl import participant, runtimes
from fl.checkpoint import Checkpoints
from fl.config.build import build
from fl.config.identity import to_json
from fl.metering import Meter, Phases
from fl.runtimes import inprocess
from fl.server import Errand, Server
from fl.workspace import Workspace, workspace
from privacy.errors import ConfigError
from privacy.mechanisms.contract import ClientJob, Mechanism
from results.progress import Steps, progress

MANY = ("clients=1000", "cohort=50", "training.batch_size=32", "training.epochs=1")
SETTING = (*MANY, "model=cnn")
TOGETHER = "auto"
ALONE = "1"
MODELS = {  # of the table, with what is configured beside the model
    "mlp": ("data=digits",),
    "logistic": ("data=fashion_mnist", *MANY),
    "lenet": ("data=fashion_mnist", *MANY),
    "cnn_mcmahan": ("data=fashion_mnist", *MANY),
    "resnet18_gn": ("data=cifar10", *MANY, "cohort=2"),
}
EMPTY = ("clients=10", "model=cnn", "+mechanism.empty._target_=experiments.benchmarks.runtime.NoTraining")
NEVER = "server.evaluate_every=0"
CORES = os.cpu_count() or 1
RAY_CORES = {"one core": CORES, "all cores": 1}  # CPUs that a client claims, which sets how many train at a time


class NoTraining(Mechanism):
    """A mechanism that removes all batches, so that a round is only messages, protocol and bookkeeping."""

    name = "empty"

    def prepare(self, job: ClientJob) -> None:
        """Remove the batches."""
        job.batches = ()


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--alternations",
        type=int,
        default=6,
        help="rounds of bare loop and runtime, half before and half after Ray (default: %(default)s)",
    )
    parser.add_argument("--data", default="fashion_mnist", help="a data set of 28x28 images (default: %(default)s)")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="models of the table; empty for none (default: %(default)s)"
    )
    parser.add_argument(
        "--pfl",
        type=Path,
        metavar="PYTHON",
        help="the interpreter of an environment with pfl-research 0.6.0 and torch, to measure it as well",
    )
    parser.add_argument("--skip-ray", action="store_true", help="leave Flower's Ray engine out")
    parser.add_argument("--skip-memory", action="store_true", help="leave the runs with 100 and 10,000 clients out")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """All figures of this benchmark.

    Raises:
        ConfigError: the table has no such model, or data cannot be found.
    """
    data = f"data={arguments.data}"
    rounds = f"rounds={arguments.alternations + 1}"
    half = arguments.alternations // 2
    models = [name for name in arguments.models.split(",") if name]
    for name in models:
        if name not in MODELS:
            raise ConfigError.of("--models", name, f"allowed are {', '.join(MODELS)}")
    if arguments.pfl is not None:
        require_pfl(arguments.pfl)
    for overrides in ((data, *SETTING), *((*MODELS[name], f"model={name}") for name in models)):
        assert configured(*overrides).data, "found now, not when half is measured"
    parts = 4 + len(models) + (0 if arguments.skip_ray else len(RAY_CORES)) + (not arguments.skip_memory)
    with progress("part", parts) as steps, peer_of(arguments.pfl, configured(data, rounds, *SETTING)) as peer:
        race = Race(data, rounds, *SETTING, peer=peer)
        with step(steps, "bare loop and runtime, alternating"):
            race.alternate(half)
        sessions = {} if arguments.skip_ray else {name: ray_rounds(steps, name, data, rounds) for name in RAY_CORES}
        with step(steps, "bare loop and runtime, alternating"):
            race.alternate(arguments.alternations - half)
        with step(steps, "workers"):
            alone = (f"runtime.workers={CORES}", "runtime.together=1")
            workers = worker_rounds(configured(data, rounds, *alone, *SETTING), race)
        with step(steps, "empty rounds"):
            empty = empty_rounds(configured(data, "rounds=1", *EMPTY), race)
        table = [figure for name in models for figure in model_ratios(steps, name, rounds)]
        memory: list[BenchFigure] = []
        if not arguments.skip_memory:
            with step(steps, "memory with 100 and 10,000 clients"):
                memory = memory_figures(data)
    ray = [figure for session in sessions.values() for figure in session]
    ratios = against({name: session[-1] for name, session in sessions.items()}, race, workers[1]) if sessions else []
    return [*race.figures(), *table, *workers, *ray, *ratios, *empty, *memory]


def model_ratios(steps: Steps, name: str, *overrides: str) -> list[BenchFigure]:
    """The ratio of the runtime to the bare loop for a model of the table."""
    race = Race(*overrides, *MODELS[name], f"model={name}")
    with step(steps, f"{name}, alternating"):
        race.alternate(race.works[TOGETHER].plan.config.rounds - 1)
    size = race.works[TOGETHER].together.choice.size
    return [
        BenchFigure(f"{name}, {size} together / bare loop", race.ratio(TOGETHER), "1", "<= 1.0"),
        BenchFigure(f"{name}, one by one / bare loop", race.ratio(ALONE), "1"),
    ]


@contextmanager
def step(steps: Steps, name: str) -> Iterator[None]:
    """Name the work in the progress."""
    steps.within(name)
    yield
    steps.advance(name)


def configured(*overrides: str) -> Workspace:
    """The workspace of the default configuration under overrides, without evaluation."""
    return workspace(to_json(composed([*overrides, NEVER])))


def server_of(work: Workspace, grid: inprocess.InProcessGrid) -> Server:
    """A server of the in-process runtime; its checkpoints go to a temporary folder."""
    folder = Path(tempfile.mkdtemp())
    return Server(work, grid, inprocess.locate(grid, work.plan), Errand(folder))


def timed(work: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def lap(work: Callable[[], object]) -> Lap:
    """Wall and processor time of a call."""
    cpu_s = time.process_time()
    wall_s = timed(work)
    return Lap(wall_s, time.process_time() - cpu_s)


class Race:
    """The bare loop and the in-process runtime, round by round in turn, from the same weights."""

    def __init__(self, *overrides: str, peer: "Peer | None" = None) -> None:
        self.works = {value: configured(f"runtime.together={value}", *overrides) for value in (ALONE, TOGETHER)}
        self.servers = {}
        for value, work in self.works.items():
            work.activate()
            self.servers[value] = server_of(work, inprocess.InProcessGrid(work.plan.hash, work.plan.config.clients))
        self.work = self.works[ALONE]
        self.number = 0
        data = self.work.data
        model = build(torch.nn.Module, "model", self.work.plan.config.model, shape=data.shape, classes=data.classes)
        self.bare = BareLoop(self.work, model)
        self._peer = peer
        self.laps: dict[str, list[Lap]] = {}
        self._one()  # warm up caches, allocator and lazy imports, which do not count as part of a round
        self.check()  # after one round only, since rounding errors grow from round to round
        self.laps.clear()

    def _one(self) -> None:
        self.number += 1
        number = self.number
        cohort = self.work.plan.cohort(number)
        self.laps.setdefault("bare", []).append(lap(lambda: self.bare.round(number, cohort)))
        for value, server in self.servers.items():
            self.laps.setdefault(value, []).append(lap(lambda server=server: server.advance(number)))  # type: ignore[misc]
            server.meter.take()
        if self._peer is not None:
            self.laps.setdefault("pfl", []).append(self._peer.round(cohort))

    def check(self) -> None:
        """Check that all loops reach the same weights, up to the order of float additions."""
        for server in self.servers.values():
            apart = float((self.bare.global_D.cpu() - server.weights.detach()).abs().max())
            assert apart < 1e-5, f"the bare loop computes something else: weights differ by {apart}"

    def alternate(self, times: int) -> None:
        """Run `times` rounds of each."""
        self.work.activate()
        for _ in range(times):
            self._one()

    @property
    def round_s(self) -> float:
        """Median wall seconds of a round of the in-process runtime with one client at a time."""
        return statistics.median(one.wall_s for one in self.laps[ALONE])

    def ratio(self, above: str, below: str = "bare") -> float:
        """The median over alternations of a ratio of processor times."""
        pairs = zip(self.laps[above], self.laps[below], strict=True)
        return statistics.median(one.cpu_s / other.cpu_s for one, other in pairs)

    def figures(self) -> list[BenchFigure]:
        """Medians and their ratios."""
        size = self.works[TOGETHER].together.choice.size
        names = {"bare": "(a) bare loop", ALONE: "(b) in process", TOGETHER: f"(t) in process, {size} together"}
        names |= {"pfl": "(p) pfl-research"} if self._peer else {}
        found = []
        for key, name in names.items():
            found.append(BenchFigure(f"{name}, round", statistics.median(one.wall_s for one in self.laps[key]), "s"))
            cpu_s = statistics.median(one.cpu_s for one in self.laps[key])
            found.append(BenchFigure(f"{name}, processor time of a round", cpu_s, "s"))
        found += [
            BenchFigure("(b) / (a)", self.ratio(ALONE), "1", "<= 1.10"),
            BenchFigure("(t) / (a)", self.ratio(TOGETHER), "1", "<= 0.5"),
        ]
        if self._peer:
            found.append(BenchFigure("(t) / (p)", self.ratio(TOGETHER, "pfl"), "1", "<= 0.55"))
        spread = _spread([one.cpu_s for one in self.laps[TOGETHER]], [one.cpu_s for one in self.laps["bare"]])
        return [*found, BenchFigure("(t) / (a), slowest and fastest alternation", spread, "1")]


def _spread(above: list[float], below: list[float]) -> float:
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return ratios[-1] / ratios[0]


def ray_rounds(steps: Steps, cores: str, *overrides: str) -> list[BenchFigure]:
    """A session of Flower's Ray engine with the same apps: start-up, first round, and the median of the others."""
    work = configured(*overrides, "runtime=ray", f"runtime.cpus_per_client={RAY_CORES[cores]}", *SETTING)
    folder = Path(tempfile.mkdtemp())
    with step(steps, f"Flower's Ray engine, {cores}"):
        whole_s = timed(lambda: runtimes.run(work, folder, Errand(folder / "checkpoints")))
    rows = Checkpoints(folder / "checkpoints", 1).rows()
    walls = rows.filter((rows["stage"] == "round") & (rows["metric"] == "wall")).sort("round")["value"].to_list()
    return [
        BenchFigure(f"(c) Ray, {cores}, start-up and end", whole_s - sum(walls), "s"),
        BenchFigure(f"(c) Ray, {cores}, first round", walls[0], "s"),
        BenchFigure(f"(c) Ray, {cores}, round", statistics.median(walls[1:]), "s"),
    ]


def against(ray: Mapping[str, BenchFigure], race: Race, workers: BenchFigure) -> list[BenchFigure]:
    """Speed-up of the in-process runtime over Ray: on one core each, on all cores each, and one core against all."""
    return [
        BenchFigure("(c) / (b), one core each", ray["one core"].value / race.round_s, "1", ">= 3"),
        BenchFigure("(c) / (b), all cores each", ray["all cores"].value / workers.value, "1"),
        BenchFigure("(c) on all cores / (b) on one", ray["all cores"].value / race.round_s, "1"),
    ]


def worker_rounds(work: Workspace, race: Race) -> list[BenchFigure]:
    """The in-process runtime with a worker process per core; the first round, which starts them, is reported apart."""
    with inprocess.grid_of(work) as grid:
        server = server_of(work, grid)
        numbers = range(1, work.plan.config.rounds + 1)
        walls = [timed(lambda number=number: server.advance(number)) for number in numbers]  # type: ignore[misc]
    return [
        BenchFigure(f"{CORES} workers, first round", walls[0], "s"),
        BenchFigure(f"{CORES} workers, round", statistics.median(walls[1:]), "s"),
        BenchFigure(f"(b) / {CORES} workers", race.round_s / statistics.median(walls[1:]), "1"),
    ]


class Unmeasured(Phases):
    """Phases without clocks and marks, so that only the work itself takes time."""

    def __init__(self, _device: torch.device) -> None:
        self._closed = []
        self.diagnostics = {}
        self.scores = {}
        self.cut = {}

    def end(self, name: str, share: Mapping[str, float] | None = None) -> None:
        """Do nothing."""


class Deaf(Meter):
    """A meter that keeps nothing."""

    def add(self, *row: object) -> None:
        """Forget the row."""

    @contextmanager
    def span(self, *where: str) -> Iterator[None]:  # noqa: ARG002
        """Run the block."""
        yield


def empty_rounds(work: Workspace, race: Race, times: int = 60) -> list[BenchFigure]:
    """Rounds of 10 clients without batches, measured and unmeasured in turn."""
    work.activate()
    servers = [server_of(work, inprocess.InProcessGrid(work.plan.hash, work.plan.config.clients)) for _ in range(2)]
    deaf = servers[1].meter = servers[1].transport._meter = Deaf()
    assert work.spec.length == 26_011
    measured_s = []
    unmeasured_s = []
    for _ in range(times):
        measured_s.append(timed(lambda: servers[0].advance(1)))
        servers[0].meter.take()
        with patch.object(participant, "Phases", Unmeasured):
            unmeasured_s.append(timed(lambda: servers[1].advance(1)))
    assert not deaf.take()
    round_ms = 1e3 * statistics.median(measured_s)
    cost_s = (statistics.median(measured_s) - statistics.median(unmeasured_s)) / work.plan.config.clients
    share = 100 * cost_s * race.work.spec.cohort_size / race.round_s
    return [
        BenchFigure("empty round, 10 clients, 26,010 parameters", round_ms, "ms", "<= 10"),
        BenchFigure("measuring, a client", 1e6 * cost_s, "us"),
        BenchFigure("measuring, share of round (b)", share, "%", "<= 2"),
    ]


def memory_figures(data: str) -> list[BenchFigure]:
    """Peak memory of whole runs in separate processes, with few clients and with many."""
    few, many = (peak_rss_mb(data, clients) for clients in (100, 10_000))
    return [
        BenchFigure("peak RSS, 100 clients", few, "MB"),
        BenchFigure("peak RSS, 10,000 clients", many, "MB"),
        BenchFigure("peak RSS, 10,000 / 100 clients", many / few, "1", "<= 1.2"),
    ]


def peak_rss_mb(data: str, clients: int) -> float:
    """Peak memory in MB of `fedveil run` with a cohort of 50 over two rounds."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [data, f"clients={clients}", "cohort=50", "model=cnn", "rounds=2", f"out={folder}/run"]
        return sampled_peak_bytes([sys.executable, "-m", "experiments.run", *overrides]) / 1e6
