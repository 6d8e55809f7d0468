"""Private clients trained together: one client's step beside a plain step, and a cohort beside a plain cohort.

Each race runs on one thread, in turn, by processor time. Draws are Poisson samples: a step of one client takes its
whole batch, and a client of the cohort half of its examples on average, as many as plain training takes.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from fl.data.image_data import ImageData, Split
from fl.training.local import ONE_PASS, Batches
from fl.training.loss import loss_of
from fl.training.together import choice
from fl.training.together.memory import keep_freed_memory
from fl.training.together.stacked import Stacked
from privacy.mechanisms.contract import ClientJob, Plan
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.randomness import SeededRandomness

CLIENTS = 50
EXAMPLES = 60  # of a client of the cohort
BATCH = 32
CPU = torch.device("cpu")
Step = Callable[[], object]
PeakOf = Callable[[Step], float]


class Times(NamedTuple):
    """Median seconds and peak bytes, by the name of the work."""

    seconds: dict[str, float]
    peaks: dict[str, float]


def raced(steps: dict[str, Step], times: int, peak_of: PeakOf, clock: Callable[[], float] = time.process_time) -> Times:
    """Run each work in turn, and measure it: first its peak, and then its time by a clock."""
    peaks = {name: max(peak_of(work) for _ in range(3)) for name, work in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(times):
        for name, work in steps.items():
            start = clock()
            work()
            taken[name].append(clock() - start)
    return Times({name: statistics.median(values) for name, values in taken.items()}, peaks)


def stacked_step(model: torch.nn.Module, plan: Plan, job: ClientJob) -> Step:
    """The private step of one client, as a group of one takes it."""
    mechanism = DpSgd(noise_multiplier=1.0, max_physical_batch_size=plan.batch_size)
    mechanism.settle(plan)
    reason = mechanism.alone()
    assert reason is None, reason
    steps = mechanism.stacked([job])
    stack = [torch.nn.Parameter(own.detach()[None].clone()) for own in model.parameters()]
    optimizer = torch.optim.SGD(stack, lr=0.01, fused=True)

    def work() -> None:
        for own, gradient in zip(stack, steps.gradients([0], stack), strict=True):
            own.grad = gradient
        optimizer.step()

    return work


def cohorts(model: torch.nn.Module, data: ImageData, plan: Plan) -> dict[str, Step]:
    """The plain and the private training of a cohort from the same weights, in groups as in a run."""
    keep_freed_memory()
    optimizer_of = partial(torch.optim.SGD, lr=0.01, fused=True)
    loss = loss_of(None, 0.0, data.classes, CPU)
    stacked = Stacked(model, optimizer_of, loss, ONE_PASS)
    mechanism = DpSgd(noise_multiplier=1.0)
    mechanism.settle(plan)
    reason = mechanism.alone()
    assert reason is None, reason
    size = choice.fitting("auto", CLIENTS, lambda: _bytes_of(model, data), CPU)
    groups = torch.split(torch.arange(CLIENTS), size)

    def batches(client: int) -> Batches:
        own = torch.arange(EXAMPLES) + client * EXAMPLES
        return Batches(data, own, CPU, BATCH, torch.Generator().manual_seed(client), 1)

    def job(client: int) -> ClientJob:
        source = SeededRandomness(client)
        optimizer = optimizer_of(list(model.parameters()))
        return ClientJob(f"client/{client}", 1, {}, source, EXAMPLES, model, optimizer, batches(client), loss)

    def plain() -> None:
        for group in groups:
            stacked.train([batches(client) for client in group.tolist()])

    def private() -> None:
        for group in groups:
            stacked.train_by(mechanism.stacked([job(client) for client in group.tolist()]))

    return {"plain": plain, "private": private}


def random_data(shape: Sequence[int], classes: int) -> ImageData:
    """Random examples for all clients of the cohort."""
    images = torch.randint(256, (CLIENTS * EXAMPLES, *shape), dtype=torch.uint8)
    split = Split(images, torch.randint(classes, (len(images),)))
    channels = shape[0]
    mean_C = torch.full((channels,), 0.5)
    return ImageData("random", split, split, classes, 255, mean_C, mean_C / 2, None, "random")


def _bytes_of(model: torch.nn.Module, data: ImageData) -> int:
    loss = loss_of(None, 0.0, data.classes, CPU)
    return choice.bytes_of_client(model, loss, data.random_examples(2), BATCH)
