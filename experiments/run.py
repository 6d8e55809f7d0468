"""`fedveil run`: Hydra composes one configuration (or, with `-m`, many), and `execute` runs it.

`python -m experiments.run` is the same.
"""

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.hydra.error_lines import CONFIGS, one_line
from experiments.hydra.once import forget, work_once
from experiments.sweeps import cores_and_gpus as sharing
from experiments.sweeps import objectives
from experiments.sweeps import plain_twins as twins
from experiments.sweeps.cores_and_gpus import PRINT
from experiments.sweeps.exit_status import FAILED, OK, OUTCOMES, REFUSED, Told, conclude, tell
from fl.config.checks import check
from fl.config.identity import hash_of, to_json
from fl.config.schema import register_schema
from privacy.errors import FedveilError, RuntimeFailure
from results.progress import SELDOM_S, say

if TYPE_CHECKING:
    from experiments.execute import Outcome

HASH = "hash"
CONFIGURATION = "configuration"
EXPLAIN = "explain"

register_schema()
work_once()
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Hydra then raises an error that it would otherwise print over several lines; `main` prints one line
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

Summary = dict[str, Any]
_twins: dict[str, Summary] = {}  # twins run by this process, by their canonical configuration


def _sweep_root(out: str | None, experiment: str) -> str:
    """The folder that holds the folders of a sweep's cells; see `execute.directory_of`."""
    return out or str(Path("results", "runs", experiment))


OmegaConf.register_new_resolver("fedveil.sweep_root", _sweep_root, replace=True)
OmegaConf.register_new_resolver("fedveil.directions", objectives.directions, replace=True)


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def task(config: DictConfig) -> tuple[float, ...] | None:
    """Run one cell and record its outcome; an error is recorded too, so that other cells go on.

    Returns the objectives of a search, None where the cell has no such figures.
    """
    job = HydraConfig.get()
    os.chdir(job.runtime.cwd)  # a launcher may start a cell in another folder
    # as typed: `cohort=${clients}` must not be interpolated in the list of overrides
    overrides = cast(list[str], OmegaConf.to_container(job.overrides.task, resolve=False))
    if wanted := os.environ.get(PRINT):
        tell(_attempt(lambda: (PRINTED[wanted](_canonical(config)), None), overrides, job.mode == RunMode.MULTIRUN)[0])
        return None
    if job.mode != RunMode.MULTIRUN:
        tell(_attempt(lambda: _run(config, sweep=False), overrides, sweep=False)[0])
        return None
    sharing.settle()
    if not job.launcher._target_.endswith(".BasicLauncher"):
        config.output.progress = False  # bars of several cells would overlap
    told, outcome, twin = _cell(config, job.launcher._target_, overrides)
    tell(told)
    if outcome is None:
        return None
    return objectives.values(config.output.objectives, outcome.summary, twin or outcome.summary)


Ended = tuple[str, "Outcome | None"]  # the line to print; None where a command printed something instead of a run


def _cell(config: DictConfig, launcher: str, overrides: Sequence[str]) -> tuple[Told, "Outcome | None", Summary]:
    """The status line of a cell, its outcome, and the summary of its plain twin, which is run first."""
    twin: Summary = {}

    def run() -> Ended:
        sharing.require_fit(config, launcher)
        twin.update(_twin_of(config) if config.output.twins else {})
        return _run(config, sweep=True)

    return *_attempt(run, overrides, sweep=True), twin


def _attempt(run: Callable[[], Ended], overrides: Sequence[str], sweep: bool) -> tuple[Told, "Outcome | None"]:
    """The status line of a run, and its outcome where it finished."""
    cell = f"[{' '.join(overrides)}] " if sweep else ""
    try:
        line, outcome = run()
        private = outcome is not None and outcome.summary.get("epsilon") is not None
        return Told(OK, f"{cell}{line}", private), outcome
    except (FedveilError, OmegaConfBaseException) as error:
        status = FAILED if isinstance(error, RuntimeFailure) else REFUSED
        return Told(status, f"fedveil: error: {cell}{one_line(error, overrides)}"), None
    except ModuleNotFoundError as error:
        remedy = "install it, or leave out the option that needs it"
        return Told(FAILED, f"fedveil: error: {cell}{one_line(error)}: {remedy}"), None
    except Exception as error:  # a defect: show the traceback
        traceback.print_exc()
        return Told(FAILED, f"fedveil: error: {cell}{type(error).__name__}: {one_line(error)}"), None


def _twin_of(cell: DictConfig) -> Summary:
    """The summary of a cell's plain twin, run here if missing; empty where there is no twin, or it fails."""
    try:
        twin = twins.twin_of(cell)
        identity = to_json(twin)
    except OmegaConfBaseException:  # running the cell reports the error
        return {}
    if twin is cell:
        return {}
    if identity not in _twins:
        _twins[identity] = _run_twin(twin) or {}
    return _twins[identity]


def _run_twin(twin: DictConfig) -> Summary | None:
    name = f"plain twin, seed={twin.seed}"
    if refusal := _refusal(twin):  # for instance a fault in a stage that only a secure sum has
        print(f"[{name}] not run, so there is no comparison with it: {refusal}", file=sys.stderr, flush=True)
        return None
    told, outcome = _attempt(lambda: _run(twin, sweep=True), [name], sweep=True)
    if outcome is None or outcome.fresh:
        tell(told)
    return None if outcome is None else outcome.summary


def _refusal(config: DictConfig) -> str | None:
    from fl.workspace import workspace

    try:
        workspace(_canonical(config))
    except FedveilError as error:
        return str(error)
    return None


def _explained(canonical: str) -> str:
    """The threat card, topic by topic."""
    from fl.threats import explained  # imports torch
    from fl.workspace import workspace

    topics = explained(workspace(canonical))
    return "\n".join(f"{topic}:\n" + "\n".join(f"  {line}" for line in lines) for topic, lines in topics.items())


PRINTED: dict[str, Callable[[str], str]] = {HASH: hash_of, CONFIGURATION: str, EXPLAIN: _explained}


def _canonical(config: DictConfig) -> str:
    check(config)
    if os.environ.get(PRINT) == EXPLAIN:
        _say_loading(config)
    return to_json(config)


def _say_loading(config: DictConfig) -> None:
    if config.output.progress:
        say(f"loading PyTorch, Flower and data={config.data.name}")


def _run(config: DictConfig, sweep: bool) -> Ended:
    if not sweep:  # Hydra says that it launches a sweep, whose cells record their errors
        check(config)
        _say_loading(config)
    from experiments.execute import (
        execute,
    )  # imports torch, Flower and polars, which `--help` and completion do not need

    started = os.environ.get(sharing.STARTED)
    every_s = SELDOM_S if sweep else 0.0
    outcome = execute(config, sweep, None if started is None else float(started), every_s)
    return f"{_figures(outcome.summary)} in {outcome.directory}{_note(outcome)}", outcome


def _note(outcome: "Outcome") -> str:
    clauses = [] if outcome.fresh else ["finished earlier", "force=true runs it again"]
    if outcome.note:
        clauses.insert(len(clauses) // 2, outcome.note)
    return f" ({'; '.join(clauses)})" if clauses else ""


def _figures(summary: Summary) -> str:
    shown = [f"{summary['backend']}: {summary['rounds']} rounds"]
    if summary["accuracy"] is not None:
        shown.append(f"accuracy {summary['accuracy']:.4f}")
    if summary["epsilon"] is not None:
        promise = f"a {summary['epsilon_unit']}, delta {summary['delta']:g}, against {summary['holds_against']}"
        shown.append(f"epsilon {summary['epsilon']:.3g} ({promise})")
        told = [key for key in summary if key.startswith("epsilon against ") or key.endswith(".noise_multiplier")]
        shown += [f"{key} {summary[key]:.4g}" for key in told]
    if summary["round_s"] is not None:
        shown.append(f"{summary['round_s']:.3f} s a round")
    if summary["upload_bytes_per_parameter"] is not None:
        shown.append(f"{summary['upload_bytes_per_parameter']:.2f} bytes a parameter up")
    if left_out := (summary["dropped"] or 0) + (summary["rejected"] or 0):
        shown.append(f"{left_out} contributions left out")
    return ", ".join(shown)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with Hydra's own command line; the exit status is 0, 1 (a failure) or 2 (a value or promise refused)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.argv = [sys.argv[0], *arguments]
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "outcomes.jsonl"
        first.touch()
        os.environ[OUTCOMES] = str(first)
        os.environ[sharing.STARTED] = str(time.time())
        _twins.clear()
        forget()
        try:
            task()
            return conclude(Path(os.environ[OUTCOMES]))
        except (
            FedveilError,
            HydraException,
            OmegaConfBaseException,
            ValueError,
        ) as error:  # Hydra raises the last one, too
            print(f"fedveil: error: {one_line(error, arguments)}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            print("fedveil: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
        finally:
            Path(os.environ[OUTCOMES]).unlink()  # it is in the sweep's folder where cells run on other machines
            for name in sharing.HANDED_ON:
                if name != PRINT:
                    os.environ.pop(name, None)


def print_instead(what: str, argv: Sequence[str]) -> int:
    """`fedveil hash`, `configuration` and `explain`: the identity of a configuration, its text, its threat card."""
    os.environ[PRINT] = what
    try:
        return main(argv)
    finally:
        del os.environ[PRINT]


if __name__ == "__main__":
    sys.exit(main())
