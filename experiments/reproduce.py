"""`fedveil reproduce NAME`: regenerate a published table, row by row, and say whether it came out the same."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.messages import CONFIGS, one_line
from experiments.outcomes import FAILED, OK
from experiments.tenseal_figures import tenseal_ciphertext, tenseal_context, tenseal_precision
from fl.config import check, hash_of, to_json
from privacy.errors import ConfigError, FedveilError
from results import registry, verdicts
from results.output import FORMATS, Parser
from results.registry import Kind, Row, Table
from results.store import default_directory
from results.verdicts import Result


def dp_sgd_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> dict[str, float]:
    """Epsilon of DP-SGD as libraries printed it before 2020, and as today's accountants give it."""
    from privacy.accounting import epsilon, epsilon_pre_2020, poisson_steps
    from privacy.parameters import ACCOUNTANTS

    event = poisson_steps(noise_multiplier, sample_rate, steps)
    found = {f"epsilon_{accountant}": epsilon(event, delta, accountant) for accountant in ACCOUNTANTS}
    return {"epsilon_pre_2020": epsilon_pre_2020(event, delta), **found}


def link_arithmetic(parameters: float, bytes_per_parameter: float, nodes: int, network: str) -> dict[str, float]:
    """One model sent over one link of a network profile, and all that so many nodes send in a step."""
    from results.network import load

    size_bytes = parameters * bytes_per_parameter
    exchange_s = load(network).transfer_s(size_bytes, "client/0", "server")
    return {"exchange (s)": exchange_s, "moved in a step (TB)": nodes * size_bytes / 1e12}


COMPUTED: dict[str, Callable[..., dict[str, float]]] = {
    "dp_sgd_epsilon": dp_sgd_epsilon,
    "link_arithmetic": link_arithmetic,
    "tenseal_ciphertext": tenseal_ciphertext,
    "tenseal_context": tenseal_context,
    "tenseal_precision": tenseal_precision,
}


@dataclass(frozen=True)
class Cell:
    """One run: what `fedveil run` would be given, and what Hydra makes of it."""

    overrides: tuple[str, ...]
    config: DictConfig


@dataclass(frozen=True)
class Task:
    """A row and the runs that regenerate it, one a seed."""

    row: Row
    cells: tuple[Cell, ...]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fedveil reproduce",
        description="Regenerate a published table; finished runs are not repeated, interrupted ones go on.",
        epilog=f"tables:\n{_listing()}\nruns go to results/runs/reproduce_NAME/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of those below, or all")
    parser.add_argument("--list", action="store_true", help="list the tables")
    parser.add_argument("--only", metavar="ROW", help="only rows whose name contains this")
    parser.add_argument("--seeds", metavar="1,2,3", help="others than the table's")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="the usual one: terminal on a terminal, markdown elsewhere; csv has raw figures",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser


def _listing() -> str:
    return "".join(f"  {name:14} {registry.load(name).title}\n" for name in registry.names())


def main(argv: Sequence[str]) -> int:
    """Regenerate and print; the exit status is 1 where a run failed, and 130 after Ctrl-C.

    Raises:
        ConfigError: an unknown table, row or option, or a row that does not compose; nothing has run then.
    """
    options = _parser().parse_args(argv)
    if options.list:
        print(_listing(), end="")
        return OK
    tables = {name: registry.load(name) for name in _chosen(options.name)}
    seeds = None if options.seeds is None else _numbers(options.seeds)
    plans = {name: _plan(name, table, options.only, seeds) for name, table in tables.items()}
    if not any(plans.values()):
        listed = ", ".join(row.name for table in tables.values() for row in table.rows)
        raise ConfigError.of("--only", options.only, f"no row is called so; there are {listed}")
    if options.dry_run:
        print("\n".join(_command(task) for plan in plans.values() for task in plan))
        return OK
    try:
        return _reproduce(tables, plans, options.format or ("terminal" if sys.stdout.isatty() else "markdown"))
    except KeyboardInterrupt:
        print("fedveil: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _chosen(name: str | None) -> list[str]:
    if name is None:
        raise ConfigError(f"NAME: give one of {', '.join(['all', *registry.names()])}")
    return registry.names() if name == "all" else [name]


def _numbers(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError.of("--seeds", text, "must be whole numbers, with commas between them") from None


def _plan(name: str, table: Table, only: str | None, seeds: Sequence[int] | None) -> list[Task]:
    """The rows that are wanted, composed before anything runs."""
    rows = [row for row in table.rows if only is None or only in row.name]
    chosen = table.seeds if seeds is None else seeds
    return [Task(row, tuple(_cell(name, table, row, seed) for seed in chosen if _runs(row))) for row in rows]


def _runs(row: Row) -> bool:
    return not row.compute and row.kind is not Kind.cited


def _cell(name: str, table: Table, row: Row, seed: int) -> Cell:
    overrides = [*table.overrides, *row.overrides, f"seed={seed}"]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("config", overrides=overrides)
        check(config)
        config.out = str(default_directory(f"reproduce_{name}", hash_of(to_json(config))))
    except (FedveilError, HydraException, OmegaConfBaseException, ValueError) as error:  # the last is Hydra's, too
        raise ConfigError(f"{name}, {row.name}: {one_line(error, overrides)}") from error
    return Cell((*overrides, f"out={config.out}"), config)


def _command(task: Task) -> str:
    """What runs the row by hand, a line a run; the next `fedveil reproduce` takes the results."""
    if task.cells:
        return "\n".join(shlex.join(["fedveil", "run", *cell.overrides]) for cell in task.cells)
    return f"# {task.row.name}: {task.row.kind.name}, nothing to run"


def _reproduce(tables: dict[str, Table], plans: dict[str, list[Task]], form: str) -> int:
    results: dict[str, list[Result]] = {}
    for name, plan in plans.items():
        results[name] = [_regenerate(task) for task in plan]
        if plan and form != "csv":
            print(FORMATS[form](verdicts.sheet(tables[name], results[name])), flush=True)
    if form == "csv":
        print(verdicts.csv(results), end="")
    return FAILED if any(result.failed for rows in results.values() for result in rows) else OK


def _regenerate(task: Task) -> Result:
    """A row; where one of its runs does not come to its end, the others would be no verdict."""
    if task.row.compute:
        arguments = dict(task.row.compute)
        return Result(task.row, {key: [x] for key, x in COMPUTED[arguments.pop("function")](**arguments).items()})
    summaries: list[dict[str, Any]] = []
    for cell in task.cells:
        print(f"{task.row.name}, seed {cell.config.seed}", file=sys.stderr, flush=True)
        try:
            summaries.append(_run(cell))
        except ConfigError as error:  # it cannot run here: its data, for one, are elsewhere
            return Result(task.row, _values(task.row, summaries), one_line(error))
        except Exception as error:
            return Result(task.row, _values(task.row, summaries), _reason(error), failed=True)
    return Result(task.row, _values(task.row, summaries))


def _run(cell: Cell) -> dict[str, Any]:
    from experiments.execute import execute  # torch and Flower: what is computed does without

    return execute(cell.config).summary


def _reason(error: Exception) -> str:
    if isinstance(error, FedveilError):
        return one_line(error)
    traceback.print_exc()  # a defect: show where
    return f"{type(error).__name__}: {one_line(error)}"


def _values(row: Row, summaries: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    found = {figure.figure: [summary.get(figure.figure) for summary in summaries] for figure in row.figures}
    return {key: [float(value) for value in values if value is not None] for key, values in found.items()}
