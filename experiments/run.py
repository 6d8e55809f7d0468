"""`fedveil run`: Hydra composes one configuration (or, with `-m`, many), and `execute` runs it.

`python -m experiments.run` is the same.
"""

import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import twins
from experiments.messages import CONFIGS, one_line
from fl.config import check, hash_of, register_schema, to_json
from privacy.errors import FedveilError, RuntimeFailure

OK, FAILED, REFUSED = 0, 1, 2
# Cells of a sweep may run in other processes: each adds a line to this file, and the exit status comes from it.
OUTCOMES = "FEDVEIL_OUTCOMES"
PRINT = "FEDVEIL_PRINT"  # HASH or CONFIGURATION, in place of a run
HASH, CONFIGURATION, EXPLAIN = "hash", "configuration", "explain"
PLAN = "plan"  # in place of a run, nothing is printed and the outcome is the configuration

register_schema()
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Hydra then raises what it would else print over several lines, and `main` prints one
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


def _sweep_root(out: str | None, experiment: str) -> str:
    """The folder above those of a sweep's cells; `execute.directory_of` puts them there."""
    return out or str(Path("results", "runs", experiment))


OmegaConf.register_new_resolver("fedveil.sweep_root", _sweep_root, replace=True)


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def task(config: DictConfig) -> None:
    """One cell: runs it and notes its outcome; an error is its own affair, so that other cells go on."""
    # as typed: `cohort=${clients}` is no interpolation in the list of overrides
    overrides = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    if os.environ.get(PRINT) == PLAN:
        _note({"line": twins.as_line(config)})
        return
    status, line, private = _attempt(config, overrides, HydraConfig.get().mode == RunMode.MULTIRUN)
    _tell(status, line, private)


def _tell(status: int, line: str, private: bool) -> None:
    print(line, file=sys.stderr if status else sys.stdout, flush=True)
    _note({"status": status, "line": line, "private": private})


def _note(outcome: dict[str, Any]) -> None:
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(json.dumps(outcome) + "\n")


def _attempt(config: DictConfig, overrides: Sequence[str], sweep: bool) -> tuple[int, str, bool]:
    """Exit status, the line to print, and whether an epsilon is claimed."""
    cell = f"[{' '.join(overrides)}] " if sweep else ""
    try:
        if wanted := os.environ.get(PRINT):
            return OK, f"{cell}{PRINTED[wanted](_canonical(config))}", False
        line, private = _run(config, sweep)
        return OK, f"{cell}{line}", private
    except (FedveilError, OmegaConfBaseException) as error:
        status = FAILED if isinstance(error, RuntimeFailure) else REFUSED
        return status, f"fedveil: error: {cell}{one_line(error, overrides)}", False
    except ModuleNotFoundError as error:
        remedy = "install it, or leave out what takes it"
        return FAILED, f"fedveil: error: {cell}{one_line(error)}: {remedy}", False
    except Exception as error:  # a defect: show where
        traceback.print_exc()
        return FAILED, f"fedveil: error: {cell}{type(error).__name__}: {one_line(error)}", False


def _explained(canonical: str) -> str:
    """The threat card, topic by topic."""
    from fl.threats import explained  # with it torch
    from fl.workspace import workspace

    topics = explained(workspace(canonical))
    return "\n".join(f"{topic}:\n" + "\n".join(f"  {line}" for line in lines) for topic, lines in topics.items())


PRINTED: dict[str, Callable[[str], str]] = {HASH: hash_of, CONFIGURATION: str, EXPLAIN: _explained}


def _canonical(config: DictConfig) -> str:
    check(config)
    return to_json(config)


def _run(config: DictConfig, sweep: bool) -> tuple[str, bool]:
    from experiments.execute import execute  # torch, Flower and polars: `--help` and completion do without

    outcome = execute(config, sweep)
    note = "" if outcome.fresh else " (finished earlier; force=true runs it again)"
    return f"{_figures(outcome.summary)} in {outcome.directory}{note}", outcome.summary.get("epsilon") is not None


def _figures(summary: dict[str, Any]) -> str:
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
        outcomes = Path(folder) / "outcomes.jsonl"
        outcomes.touch()
        os.environ[OUTCOMES] = str(outcomes)
        try:
            if _is_grid(arguments):
                _run_twins(arguments, outcomes)
            task()
        except (FedveilError, HydraException, OmegaConfBaseException, ValueError) as error:  # the last is Hydra's, too
            print(f"fedveil: error: {one_line(error, arguments)}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            print("fedveil: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
        return _conclude([json.loads(line) for line in outcomes.read_text().splitlines()])


def _is_grid(arguments: Sequence[str]) -> bool:
    """Whether all cells are known beforehand, and are to run."""
    sweep = "-m" in arguments or "--multirun" in arguments
    asks = any(argument.startswith(("-h", "--help", "--cfg", "-c", "--info", "-i")) for argument in arguments)
    return sweep and not asks and PRINT not in os.environ and not any("hydra/sweeper=" in a for a in arguments)


def _run_twins(arguments: Sequence[str], outcomes: Path) -> None:
    """Compose every cell, and run the plain twins that are none of them."""
    launched = [a for a in arguments if not a.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher"))]
    os.environ[PRINT], sys.argv[1:] = PLAN, [*launched, "hydra/launcher=basic"]
    try:
        with redirect_stderr(io.StringIO()):  # Hydra tells of its jobs, which are none
            task()
    finally:
        del os.environ[PRINT]
        sys.argv[1:] = arguments
    cells = list(twins.planned(json.loads(line)["line"] for line in outcomes.read_text().splitlines()))
    outcomes.write_text("")
    if not all(cell["output"]["twins"] for cell in cells):
        return
    for twin in twins.missing(cells):
        name = [f"plain twin, seed={twin.seed}"]
        if refusal := _refusal(twin):  # a stage of a secure sum, say, which plain has not
            print(f"[{name[0]}] not run, so nothing is compared with it: {refusal}", file=sys.stderr, flush=True)
        else:
            _tell(*_attempt(twin, name, sweep=True))


def _refusal(config: DictConfig) -> str | None:
    from fl.workspace import workspace

    try:
        workspace(_canonical(config))
    except FedveilError as error:
        return str(error)
    return None


def print_instead(what: str, argv: Sequence[str]) -> int:
    """`fedveil hash`, `configuration` and `explain`: the identity of a configuration, its text, its threat card."""
    os.environ[PRINT] = what
    try:
        return main(argv)
    finally:
        del os.environ[PRINT]


def _conclude(outcomes: Sequence[dict[str, Any]]) -> int:
    failed = [outcome for outcome in outcomes if outcome["status"] != OK]
    if len(outcomes) > 1:
        finished = f"{len(outcomes) - len(failed)} of {len(outcomes)} cells finished"
        print(f"{finished}; failed ones are listed above and by `fedveil table`" if failed else finished)
    if sum(outcome["private"] for outcome in outcomes) > 1:
        print("each epsilon is of one cell: choosing the best cell on private data costs more, and is in none of them")
    return max((int(outcome["status"]) for outcome in failed), default=OK)


if __name__ == "__main__":
    sys.exit(main())
