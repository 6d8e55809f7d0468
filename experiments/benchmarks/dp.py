"""DP-SGD steps against plain steps on the same physical batch, for each model and mode of per-example gradients.

Each pair runs in a process of its own, on one thread, plain and private steps in turn. Noise is drawn as in a run, from
ChaCha20; `os` and `seeded` differ only in its key. Peak memory is the peak of one step, less the memory held before it.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.dp_together import BATCH, CLIENTS, EXAMPLES, Step, cohorts, raced, random_data, stacked_step
from experiments.benchmarks.runtime import step
from experiments.hydra.error_lines import CONFIGS
from fl import metering
from fl.config.build import build
from fl.models.plain import Shape
from fl.training.local import clear_gradients
from privacy.mechanisms.contract import Batch, ClientJob, Plan, RandomExamples
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from results.progress import progress

SHAPES: dict[str, tuple[Shape, int]] = {
    "lenet": ((3, 32, 32), 100),
    "resnet18_gn": ((3, 32, 32), 10),
    "cnn_tanh_cifar": ((3, 32, 32), 10),
    "scatter_linear": ((81, 7, 7), 10),
    "scatter_cnn": ((81, 7, 7), 10),
}
SHAPE: tuple[Shape, int] = ((1, 28, 28), 10)
BAR_MODEL = "cnn"
BAR = "<= 1.4"  # of the default mode, which trains clients together
BAR_OPACUS = "<= 0.75"
BAR_COHORT = "<= 1.6"


class Measured(NamedTuple):
    """Medians of one model under one mode: seconds of a step, and peak bytes of a step."""

    plain_s: float
    private_s: dict[str, float]  # by source of noise
    plain_bytes: float
    private_bytes: float


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--models", default="logistic,mlp,cnn,lenet", help="(default: %(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="examples a step (default: %(default)s)")
    parser.add_argument(
        "--alternations", type=int, default=15, help="pairs of a plain and a private step (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """The figures of every model and mode of Opacus, then those of clients trained together against their bars."""
    pairs = [(model, mode) for model in arguments.models.split(",") for mode in arguments.modes.split(",")]
    figures: list[BenchFigure] = []
    spawn = multiprocessing.get_context("spawn")
    with progress("model", len(pairs)) as steps:
        for model, mode in pairs:
            with step(steps, f"{model}, {mode}"), ProcessPoolExecutor(1, spawn) as alone:
                work = alone.submit(race, model, mode, arguments.batch, arguments.alternations, arguments.device)
                figures += _figures(model, mode, work.result())
        with ProcessPoolExecutor(1, spawn) as alone:
            figures += alone.submit(together_figures, arguments.batch, arguments.alternations).result()
    return figures


def together_figures(batch: int, times: int) -> list[BenchFigure]:
    """The figures of clients trained together, on the CPU, with the model of the bars."""
    torch.set_num_threads(1)
    shape, classes = SHAPE
    model = _model(BAR_MODEL, shape, classes)
    one = torch.randn(batch, *shape), torch.randint(classes, (batch,))
    plan = _plan(model, batch, partial(_random, one))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    job = ClientJob("client/0", 1, {}, SeededRandomness(1), batch, model, optimizer, _One(one))
    opacus = {f"Opacus, {mode}": private_step(model, mode, one, SeededRandomness(1)) for mode in MODES}
    steps = {"plain": plain_step(model, one), "private": stacked_step(model, plan, job), **opacus}
    step_times = raced(steps, times, partial(_peak, device="cpu"))
    seconds = step_times.seconds
    best = min(opacus, key=lambda name: seconds[name])
    data = random_data(shape, classes)
    few = replace(
        _plan(model, EXAMPLES, data.random_examples),
        clients=CLIENTS,
        cohort_size=CLIENTS,
        examples=(EXAMPLES,) * CLIENTS,
        participations=(1,) * CLIENTS,
        batch_size=BATCH,
    )
    cohort_times = raced(cohorts(model, data, few), times, partial(_peak, device="cpu"))
    cohort = cohort_times.seconds
    name = f"{BAR_MODEL}, together"
    few_name = f"{name}, {CLIENTS} clients of {EXAMPLES}"
    return [
        BenchFigure(
            f"{name}: private step / plain step, processor time", seconds["private"] / seconds["plain"], "1", BAR
        ),
        BenchFigure(f"{name}: private step / {best}", seconds["private"] / seconds[best], "1", BAR_OPACUS),
        *(
            BenchFigure(f"{name}: peak memory of the process, {kind}", step_times.peaks[kind] / 1e6, "MB")
            for kind in steps
        ),
        BenchFigure(f"{few_name}: plain", 1e3 * cohort["plain"], "ms"),
        BenchFigure(f"{few_name}: private / plain", cohort["private"] / cohort["plain"], "1", BAR_COHORT),
        *(
            BenchFigure(f"{few_name}: peak memory of the process, {kind}", cohort_times.peaks[kind] / 1e6, "MB")
            for kind in cohort
        ),
    ]


def _figures(model: str, mode: str, measured: Measured) -> list[BenchFigure]:
    name = f"{model}, {mode}"
    return [
        BenchFigure(f"{name}: plain step", 1e3 * measured.plain_s, "ms"),
        *(
            BenchFigure(f"{name}, noise={noise}: private / plain", seconds / measured.plain_s, "1")
            for noise, seconds in measured.private_s.items()
        ),
        BenchFigure(
            f"{name}: peak memory, private - plain", (measured.private_bytes - measured.plain_bytes) / 1e6, "MB"
        ),
    ]


def race(name: str, mode: str, batch: int, times: int, device: str) -> Measured:
    """Plain and private steps in turn, on one batch of random pixels."""
    torch.set_num_threads(1)
    shape, classes = SHAPES.get(name, SHAPE)
    model = _model(name, shape, classes).to(device)
    inputs = torch.randn(batch, *shape, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    steps: dict[str, Step] = {"plain": plain_step(model, (inputs, labels))}
    sources: dict[str, Randomness] = {"seeded": SeededRandomness(1), "os": OsRandomness()}
    for noise, source in sources.items():
        steps[noise] = private_step(model, mode, (inputs, labels), source)
    measured = raced(steps, times, partial(_peak, device=device), time.perf_counter)  # plain comes first
    median = measured.seconds
    peaks = measured.peaks
    return Measured(median.pop("plain"), median, peaks.pop("plain"), max(peaks.values()))


def _peak(work: Callable[[], None], device: str) -> float:
    """Peak bytes of a step; memory that the process keeps afterwards counts in later steps."""
    phases = metering.Phases(torch.device(device))
    work()
    phases.end("step")
    metrics = phases.metrics()
    return metrics.get("step.peak_cuda", metrics.get("step.peak_rss", 0.0))


def _model(name: str, shape: Shape, classes: int) -> torch.nn.Module:
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    assert isinstance(node, dict)
    described = node.get("model", node)  # some model files also choose their data
    return build(torch.nn.Module, "model", described, shape=shape, classes=classes)


def plain_step(model: torch.nn.Module, batch: Batch) -> Callable[[], None]:
    """Forward, backward and fused SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    return lambda: _step(model, optimizer, cross_entropy, batch)


def private_step(model: torch.nn.Module, mode: str, batch: Batch, source: Randomness) -> Callable[[], None]:
    """The same step with the model, optimizer and loss that `DpSgd` prepares."""
    size = len(batch[1])
    mechanism = DpSgd(noise_multiplier=1.0, mode=mode, max_physical_batch_size=size)
    mechanism.settle(_plan(model, size, partial(_random, batch)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    job = ClientJob("client/0", 1, {}, source, size, model, optimizer, _One(batch))
    mechanism.prepare(job)
    return lambda: _step(job.model, job.optimizer, job.loss, batch)


class _One:
    """A loader of a single batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([self._batch])

    def take(self, index: torch.Tensor) -> Batch:  # noqa: ARG002
        return self._batch


def _random(batch: Batch, count: int) -> Batch:
    inputs, labels = batch
    return torch.randn(count, *inputs.shape[1:]), labels[:1].cpu().expand(count)


def _plan(model: torch.nn.Module, size: int, random_examples: RandomExamples) -> Plan:
    return Plan(
        clients=1,
        cohort_size=1,
        min_contributors=1,
        hidden=False,
        rounding=0.0,
        dimension=sum(parameter.numel() for parameter in model.parameters()),
        rounds=1,
        examples=(size,),
        participations=(1,),
        separation=1,
        batch_size=size,
        epochs=1,
        steps=None,
        sample_rate=None,
        uniform_weights=True,
        public_weights=False,
        proximal=False,
        delta=1e-5,
        accountant="rdp",
        model=model,
        random_examples=random_examples,
    )


def _step(model, optimizer, loss, batch) -> None:  # type: ignore[no-untyped-def]
    clear_gradients(optimizer)
    loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
