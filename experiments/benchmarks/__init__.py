"""`fedveil bench NAME`: scripts that print figures beside a baseline measured in the same run, never a timed test."""

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from privacy.errors import ConfigError
from results.environment import describe
from results.files import plain

BENCHMARKS = {
    "runtime": "the engines against a bare PyTorch loop: rounds, messages, measurement, memory",
    "dp": "a DP-SGD step against a plain one: models, gradient modes, sources of noise",
    "mpc": "CrypTen's parties: bytes of an upload, and their sum beside NumPy's and CrypTen's own way",
    "secagg": "secure aggregation: time and bytes beside Flower's SecAgg+ under drop-out",
    "startup": "processor time of commands, and of a message's process, beside the import of torch and Flower",
    "tables": "fedveil table over 100,000 runs: time and memory of the command",
    "report": "fedveil report over 500 configurations: its size, and how long Chromium takes to open it",
    "he": "homomorphic and masked sums: bytes and speed of each set and key arrangement beside float32",
}


@dataclass(frozen=True)
class BenchFigure:
    """One measured figure; `bar` is its target (`<= 1.15`), or None for a figure that is only reported."""

    name: str
    value: float
    unit: str
    bar: str | None = None

    @property
    def met(self) -> bool | None:
        """True where the figure meets its bar; None without a bar."""
        if self.bar is None:
            return None
        relation, limit = self.bar.split()
        return self.value <= float(limit) if relation == "<=" else self.value >= float(limit)


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, print its table and, with `--json`, write it.

    Raises:
        ConfigError: an unknown benchmark, or data that this machine does not have.
    """
    listed = "\n".join(f"  {name:10} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser("fedveil bench", epilog=f"benchmarks:\n{listed}", formatter_class=_Raw)
    parser.add_argument("name", metavar="NAME", help="a benchmark of the list below; NAME --help lists its options")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the printed figures")
    known, _ = parser.parse_known_args([argument for argument in argv if argument not in ("-h", "--help")] or ["-h"])
    if known.name not in BENCHMARKS:
        raise ConfigError.of("bench", known.name, f"allowed are {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"experiments.benchmarks.{known.name}")
    module.options(parser)
    arguments = parser.parse_args(argv)
    figures: list[BenchFigure] = module.measure(arguments)
    show(figures, arguments.json)
    return 0


class _Raw(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps the line breaks of the list of benchmarks."""


def show(figures: Sequence[BenchFigure], file: Path | None) -> None:
    """Print the table, and write it with the environment of the measurement."""
    table = Table("figure", "value", "unit", "bar", "met")
    for figure in figures:
        verdict = {True: "yes", False: "NO", None: ""}[figure.met]
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, figure.bar or "", verdict)
    Console().print(table)
    if file is not None:
        rows = [{**asdict(figure), "met": figure.met} for figure in figures]
        file.write_text(json.dumps(plain({"figures": rows, "environment": describe()}), indent=2) + "\n")
