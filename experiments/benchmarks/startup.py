"""How long commands take to start, beside a process that imports torch and Flower's ClientApp and does nothing.

Each repetition runs every command once, in turn, with one thread, so that a ratio compares neighbours in time. A ratio
is the median over repetitions; the bars are on processor time, which other work on the machine changes less.

A message's process is the one that Flower starts for each message to a SuperNode: it loads the ClientApp, which builds
the workspace and trains. Flower's own command imports more before it comes to that, which the next figure includes.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.processes import Timed
from results.progress import progress
from results.runs import find_runs
from results.store import RunDirectory

BASELINE = 'python -c "import torch, flwr.clientapp"'
MESSAGE = """
import sys
from pathlib import Path
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from flwr.supercore.task_identity import TaskIdentity
from fl.apps import client_app

TaskIdentity.task_id = TaskIdentity.run_id = 1
TaskIdentity.node_id = 7
content = recorddict_from_proto(Proto.FromString(Path(sys.argv[1]).read_bytes()))
context = Context(1, 7, {"partition-id": 1, "approved-config": sys.argv[2]}, RecordDict(), {})
reply = client_app(Message(content, 7, "train"), context)
assert "arrays" in reply.content, reply.content
"""
FLOWERS = "import flwr.supernode.cli.flwr_clientapp"  # what `flwr-clientapp` imports
SETTING = ("runtime=deployment", "clients=3")
REFUSED = 2  # exit status


class Case(NamedTuple):
    """A command; `bar` is the most that it may take, in units of the baseline's processor time."""

    name: str
    command: list[str]
    bar: float | None = None
    status: int = 0


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--repeats", type=int, default=5, help="how often each command runs (default: %(default)s)")
    parser.add_argument("--cells", type=int, default=100, help="cells of the sweep; 0: no sweep (default: %(default)s)")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """All figures of this benchmark."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = commands(folder)
        for case in cases:  # warm the cache of files, and of the data
            _time(case, folder)
        with progress("repetition", arguments.repeats) as steps:
            rounds = []
            for _ in range(arguments.repeats):
                rounds.append([_time(case, folder) for case in cases])
                steps.advance()
        figures = [*ratios(cases, rounds), *seconds(cases, rounds)]
        return [*figures, *(sweep(folder / "sweep", arguments.cells) if arguments.cells else [])]


def commands(folder: Path) -> list[Case]:
    """The baseline, and all that is compared with it."""
    message = [str(folder / "message"), prepare(folder / "message")]
    return [
        Case(BASELINE, [sys.executable, "-c", "import torch, flwr.clientapp"]),
        Case("fedveil run rounds=1", _fedveil("run", "rounds=1", f"out={folder / 'run'}", "force=true"), 2.0),
        Case("fedveil explain privacy=secagg", _fedveil("explain", "privacy=secagg"), 1.3),
        Case("fedveil run --help", _fedveil("run", "--help"), 0.6),
        Case("a message's process", [sys.executable, "-c", MESSAGE, *message], 1.5),
        Case("fedveil run nosuch=1", _fedveil("run", "nosuch=1"), 0.5, REFUSED),
        Case("fedveil hash", _fedveil("hash")),
        Case("a message's process, with Flower's own imports", [sys.executable, "-c", FLOWERS + MESSAGE, *message]),
        Case("Flower's own imports alone", [sys.executable, "-c", FLOWERS]),
    ]


def _fedveil(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.cli", *arguments]


def prepare(file: Path) -> str:
    """Write a request to train as Flower's process receives it; return the hash that the node has approved."""
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict
    from flwr.common.serde import recorddict_to_proto

    from experiments.hydra.compose import composed
    from fl.config.identity import hash_of, to_json
    from fl.transport import ADDRESS, ENVELOPE, MODEL, as_array
    from fl.workspace import workspace

    canonical = to_json(composed(SETTING))
    asked = {"stage": "collect", "attempt": "first", "config": canonical, "run": "startup"}
    model = ArrayRecord({MODEL: as_array(workspace(canonical).initial_D.numpy())})
    content = RecordDict(
        {ENVELOPE: ConfigRecord({**asked, "round": 1}), ADDRESS: ConfigRecord({"address": "client/1"})}
    )
    content[MODEL] = model
    file.write_bytes(recorddict_to_proto(content).SerializeToString())
    return hash_of(canonical)


def _time(case: Case, folder: Path) -> Timed:
    one_thread = {"OMP_NUM_THREADS": "1", "FLWR_HOME": str(folder / "flwr")}
    return Timed.of(case.command, case.status, {**os.environ, **one_thread}, quiet=True)


def ratios(cases: Sequence[Case], rounds: Sequence[Sequence[Timed]]) -> list[BenchFigure]:
    """Processor and wall time of each command as multiples of the baseline's, medians over the repetitions."""
    figures = []
    for place, case in list(enumerate(cases))[1:]:
        processor = statistics.median(times[place].processor_s / times[0].processor_s for times in rounds)
        wall = statistics.median(times[place].wall_s / times[0].wall_s for times in rounds)
        bar = None if case.bar is None else f"<= {case.bar}"
        figures += [BenchFigure(case.name, processor, "1", bar), BenchFigure(f"{case.name}, wall", wall, "1")]
    return figures


def seconds(cases: Sequence[Case], rounds: Sequence[Sequence[Timed]]) -> list[BenchFigure]:
    """Processor time of each command, medians over the repetitions."""
    medians = [statistics.median(times[place].processor_s for times in rounds) for place in range(len(cases))]
    return [BenchFigure(f"{case.name}, processor", took, "s") for case, took in zip(cases, medians, strict=True)]


def sweep(folder: Path, cells: int) -> list[BenchFigure]:
    """The time of a sweep over seeds for each of its cells, without that in which clients trained."""
    command = _fedveil("sweep", f"seed=range(1,{cells + 1})", "rounds=1", f"out={folder}")
    took = Timed.of(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, quiet=True)
    trained_s = sum(float((RunDirectory(path).summary() or {})["train_s"]) for path in find_runs([folder]))
    name = f"a cell of a sweep of {cells}, beyond training"
    return [
        BenchFigure(name, (took.processor_s - trained_s) / cells, "s", "<= 0.25"),
        BenchFigure(f"{name}, wall", (took.wall_s - trained_s) / cells, "s"),
    ]
