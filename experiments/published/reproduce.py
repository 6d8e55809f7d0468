"""`fedveil reproduce NAME`: regenerate a published table, row by row, and judge whether it is reproduced."""

import argparse
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.hydra.compose import composed
from experiments.hydra.error_lines import one_line
from experiments.published import by_name as computed
from experiments.sweeps.exit_status import FAILED, OK
from fl.config.checks import check
from fl.config.identity import hash_of, to_json
from privacy.errors import ConfigError, FedveilError
from results.commands.output import FORMATS, Parser
from results.progress import SELDOM_S, Steps, progress, say
from results.published import registry, verdicts
from results.published.registry import Compare, Figure, Kind, PublishedRow, Table
from results.published.verdicts import Result
from results.store import default_directory


@dataclass(frozen=True)
class Cell:
    """One run: the overrides of `fedveil run`, and the composed configuration."""

    overrides: tuple[str, ...]
    config: DictConfig


@dataclass(frozen=True)
class PairedRuns:
    """A run of a row, and its plain twin where the row compares the two."""

    cell: Cell
    twin: Cell | None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Both runs, the twin first."""
        return (self.cell,) if self.twin is None else (self.twin, self.cell)


@dataclass(frozen=True)
class Task:
    """A row and its way of regeneration: runs, one a seed, or the arguments of a function.

    `small` names the part that is smaller than published; `skipped` is the reason why the row is left out here.
    """

    row: PublishedRow
    pairs: tuple[PairedRuns, ...] = ()
    compute: Mapping[str, Any] = field(default_factory=dict)
    small: str = ""
    skipped: str = ""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fedveil reproduce",
        description="Regenerate a published table; finished runs are not repeated, interrupted ones go on.",
        epilog=f"tables:\n{_listing()}\nruns go to results/runs/reproduce_NAME/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a table of the list below, or all")
    parser.add_argument("--list", action="store_true", help="list the tables")
    parser.add_argument("--only", metavar="ROW", help="only rows whose name contains this")
    parser.add_argument(
        "--full", action="store_true", help="run the published setting, where the default is a smaller one"
    )
    parser.add_argument("--seeds", metavar="1,2,3", help="seeds in place of the table's own")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: terminal on a terminal, markdown elsewhere; csv has raw figures",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser


def _listing() -> str:
    return "".join(f"  {name:15} {registry.load(name).title}\n" for name in registry.names())


def main(argv: Sequence[str]) -> int:
    """Regenerate and print; the exit status is 1 where a run failed, and 130 after Ctrl-C.

    Raises:
        ConfigError: an unknown table, row or option, or a row that does not compose; raised before anything runs.
    """
    options = _parser().parse_args(argv)
    if options.list:
        print(_listing(), end="")
        return OK
    tables = {name: registry.load(name) for name in _chosen(options.name)}
    seeds = None if options.seeds is None else _numbers(options.seeds)
    plans = {name: _plan(name, table, options.only, seeds, options.full) for name, table in tables.items()}
    if not any(plans.values()):
        listed = ", ".join(row.name for table in tables.values() for row in table.rows)
        raise ConfigError.of("--only", options.only, f"no such row; allowed are {listed}")
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


def _plan(name: str, table: Table, only: str | None, seeds: Sequence[int] | None, full: bool) -> list[Task]:
    """The wanted rows, composed before anything runs."""
    return [_task(name, table, row, seeds, full) for row in table.rows if only is None or only in row.name]


def _task(name: str, table: Table, row: PublishedRow, seeds: Sequence[int] | None, full: bool) -> Task:
    smaller = [] if full else [small for small in (table.small, row.small) if small.says]
    if seeds is not None:
        smaller = [small for small in smaller if not small.seeds_alone]
    if row.compute or row.kind is Kind.cited:
        smaller = [small for small in smaller if small is row.small]
    says = "; ".join(small.says for small in smaller)
    skips = [small.says for small in smaller if small.skip]
    if skips:
        return Task(row, skipped=f"{skips[-1]} (--full)")
    if row.compute:
        computes = {key: value for small in smaller for key, value in small.compute.items()}
        return Task(row, compute={**row.compute, **computes}, small=says)
    if row.kind is Kind.cited:
        return Task(row)
    chosen = next((small.seeds for small in reversed(smaller) if small.seeds), table.seeds) if seeds is None else seeds
    overrides = [*table.overrides, *row.overrides, *(o for small in smaller for o in small.overrides)]
    return Task(row, tuple(_pair(name, row, overrides, seed) for seed in chosen), small=says)


def _pair(name: str, row: PublishedRow, overrides: Sequence[str], seed: int) -> PairedRuns:
    cell = _cell(name, row, [*overrides, f"seed={seed}"])
    if not row.has_twin:
        return PairedRuns(cell, None)
    return PairedRuns(cell, _cell(name, row, [*filter(_is_not_protection, overrides), f"seed={seed}"]))


def _is_not_protection(override: str) -> bool:
    """True for an override that a plain twin keeps; tests compare it with `experiments.sweeps.plain_twins`."""
    return not override.lstrip("+~").startswith(("privacy=", "secure_sum", "mechanism", "noise=", "delta="))


def _cell(name: str, row: PublishedRow, overrides: Sequence[str]) -> Cell:
    try:
        config = composed(overrides)
        check(config)
        config.out = str(default_directory(f"reproduce_{name}", hash_of(to_json(config))))
    except (
        FedveilError,
        HydraException,
        OmegaConfBaseException,
        ValueError,
    ) as error:  # Hydra raises the last one, too
        raise ConfigError(f"{name}, {row.name}: {one_line(error, overrides)}") from error
    return Cell((*overrides, f"out={config.out}"), config)


def _command(task: Task) -> str:
    """The commands that run the row by hand, one line a run; the next `fedveil reproduce` takes the results."""
    cells = [cell for pair in task.pairs for cell in pair.cells]
    if cells:
        return "\n".join(shlex.join(["fedveil", "run", *cell.overrides]) for cell in cells)
    return f"# {task.row.name}: {task.skipped or f'{task.row.kind.name}, nothing to run'}"


def _reproduce(tables: dict[str, Table], plans: dict[str, list[Task]], form: str) -> int:
    results: dict[str, list[Result]] = {}
    for name, plan in plans.items():
        start_s = time.monotonic()
        with progress(f"{name}, row", len(plan), passing=True) as rows:
            results[name] = [_advanced(rows, _regenerate(task)) for task in plan]
        if plan and form != "csv":
            sheet = verdicts.sheet(tables[name], results[name], time.monotonic() - start_s)
            print(FORMATS[form](sheet), flush=True)
    if form == "csv":
        print(verdicts.csv(results), end="")
    return FAILED if any(result.failed for rows in results.values() for result in rows) else OK


def _advanced(rows: Steps, result: Result) -> Result:
    rows.advance(result.row.name)
    return result


def _regenerate(task: Task) -> Result:
    """Regenerate a row; it stops at the first run that does not finish, since the others would give no verdict."""
    values: dict[str, list[float]] = {}
    try:
        if task.compute:
            say(task.row.name)
            values = {key: [value] for key, value in computed.compute(dict(task.compute)).items()}
        for pair in task.pairs:
            _gather(values, task.row.figures, *(_run(task.row, cell) for cell in reversed(pair.cells)))
    except ConfigError as error:  # it cannot run here: for instance, its data are missing
        return Result(task.row, values, one_line(error), small=task.small)
    except Exception as error:
        return Result(task.row, values, _reason(error), failed=True, small=task.small)
    return Result(task.row, values, task.skipped, small=task.small)


def _run(row: PublishedRow, cell: Cell) -> dict[str, Any]:
    from experiments.execute import execute  # imports torch and Flower, which computed rows do not need

    say(f"{row.name}, seed {cell.config.seed}")
    return execute(cell.config, every_s=SELDOM_S).summary


def _reason(error: Exception) -> str:
    if isinstance(error, FedveilError):
        return one_line(error)
    traceback.print_exc()  # a defect: show the traceback
    return f"{type(error).__name__}: {one_line(error)}"


def _gather(
    values: dict[str, list[float]],
    figures: Sequence[Figure],
    summary: Mapping[str, Any],
    plain: Mapping[str, Any] | None = None,
) -> None:
    """Add one seed's figures to those of the others, by heading; unmeasured figures are left out."""
    for figure in figures:
        value = summary.get(figure.figure)
        if figure.compare is not None and value is not None:
            value = _compared(figure.compare, float(value), plain, figure.figure)
        if value is not None:
            values.setdefault(figure.key, []).append(float(value))


def _compared(how: Compare, value: float, plain: Mapping[str, Any] | None, key: str) -> float | None:
    assert plain is not None, "a row that compares has a twin"
    other = plain.get(key)
    if other is None:
        return None
    return value / float(other) if how is Compare.ratio else value - float(other)
