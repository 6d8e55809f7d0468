"""`fedveil reproduce NAME`: regenerate a published table, row by row, and say whether it came out the same."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.messages import CONFIGS, one_line
from fl.config import register_schema
from privacy.errors import ConfigError, FedveilError
from results import registry, render
from results.columns import Column
from results.registry import Result, Row, Table
from results.render import Sheet

HEADINGS = ("row", "figure", "published", "ours", "runs", "kind", "band", "verdict")
FORMATS: dict[str, Callable[[Sheet], str]] = {
    "terminal": lambda sheet: render.terminal(sheet, max(140, shutil.get_terminal_size((140, 24)).columns)),
    "markdown": render.markdown,
    "latex": render.latex,
}


def dp_sgd_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> dict[str, float]:
    """Epsilon of DP-SGD as libraries printed it before 2020, and as today's accountants give it."""
    from privacy.accounting import epsilon, epsilon_pre_2020, poisson_steps
    from privacy.parameters import ACCOUNTANTS

    event = poisson_steps(noise_multiplier, sample_rate, steps)
    found = {f"epsilon_{accountant}": epsilon(event, delta, accountant) for accountant in ACCOUNTANTS}
    return {"epsilon_pre_2020": epsilon_pre_2020(event, delta), **found}


COMPUTED: dict[str, Callable[..., dict[str, float]]] = {"dp_sgd_epsilon": dp_sgd_epsilon}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _parser() -> argparse.ArgumentParser:
    tables = "\n".join(f"  {name:14} {registry.load(name).title}" for name in registry.names())
    parser = _Parser(
        "fedveil reproduce",
        description="Regenerate a published table; finished runs are not repeated, interrupted ones go on.",
        epilog=f"tables:\n{tables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="one of those below, or all")
    parser.add_argument("--only", metavar="TEXT", help="rows whose name contains it")
    parser.add_argument("--seeds", metavar="1,2,3", help="others than the table's")
    parser.add_argument("--out", type=Path, default=Path("results", "runs"), help="runs go to OUT/NAME")
    parser.add_argument("--format", choices=sorted(FORMATS), default="terminal")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser


def main(argv: Sequence[str]) -> int:
    """Regenerate and print; the exit status is 1 where a run failed.

    Raises:
        ConfigError: an unknown table, row or option.
    """
    options = _parser().parse_args(argv)
    chosen = registry.names() if options.name == "all" else [options.name]
    tables = {name: registry.load(name) for name in chosen}
    seeds = None if options.seeds is None else _numbers(options.seeds)
    picked = {name: _rows(table, options.only) for name, table in tables.items()}
    if not any(picked.values()):
        listed = ", ".join(row.name for table in tables.values() for row in table.rows)
        raise ConfigError.of("--only", options.only, f"no row is called so; there are {listed}")
    register_schema()
    failed = False
    for name, table in tables.items():
        if not picked[name]:
            continue
        table.seeds = seeds or table.seeds
        if options.dry_run:
            _print_commands(table, picked[name], options.out / name)
            continue
        results = [_regenerate(table, row, options.out / name) for row in picked[name]]
        failed |= any(result.reason for result in results)
        print(FORMATS[options.format](sheet(table, results)))
    return int(failed)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError.of("--seeds", text, "must be whole numbers, with commas between them") from None


def _rows(table: Table, only: str | None) -> list[Row]:
    return [row for row in table.rows if only is None or only in row.name]


def _print_commands(table: Table, rows: Sequence[Row], out: Path) -> None:
    for row in rows:
        if not row.compute:
            seeds = ",".join(map(str, table.seeds))
            print(f"fedveil sweep {' '.join([*table.overrides, *row.overrides])} seed={seeds} out={out}")


def _regenerate(table: Table, row: Row, out: Path) -> Result:
    if row.compute:
        arguments = dict(row.compute)
        return Result(row, {name: [value] for name, value in COMPUTED[arguments.pop("function")](**arguments).items()})
    values: dict[str, list[float]] = {figure.figure: [] for figure in row.figures}
    for seed in table.seeds:
        overrides = [*table.overrides, *row.overrides, f"seed={seed}", f"out={out}"]
        print(f"{row.name}, seed {seed}", file=sys.stderr, flush=True)
        try:
            summary = _run(overrides)
        except (FedveilError, HydraException, OmegaConfBaseException) as error:
            return Result(row, values, one_line(error, overrides))
        for name, figures in values.items():
            if isinstance(summary.get(name), int | float):
                figures.append(float(summary[name]))
    return Result(row, values, "" if all(values.values()) else "a run does not say")


def _run(overrides: Sequence[str]) -> dict[str, Any]:
    from experiments.execute import execute  # torch and Flower: computed rows do without

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return execute(config, sweep=True).summary


def sheet(table: Table, results: Sequence[Result]) -> Sheet:
    """What is printed of a table."""
    columns = tuple(Column(heading, heading, "text") for heading in HEADINGS)
    lines = [line for result in results for line in result.lines()]
    notes = (f"{table.title}. Source: {table.source}. Hardware there: {table.hardware}.", table.note)
    return Sheet(columns, lines, notes=tuple(note for note in notes if note))
