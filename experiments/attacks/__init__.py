"""`fedveil attack NAME`: attacks by a server that breaks the protocol, to learn a secret or to change a sum.

Each attack runs on a named weak setting, where it must succeed, and on the default, where it must fail. An attack
that succeeds nowhere proves nothing.
"""

import argparse
import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from privacy.errors import ConfigError
from results.columns import Column
from results.commands.output import Parser
from results.environment import describe
from results.files import plain
from results.progress import progress, say
from results.render import Sheet, markdown

ATTACKS = {
    "key_recovery": "the secret key of CKKS, from an opened sum and its ciphertext (Li and Micciancio 2021)",
    "key_oracle": "the secret key, from a sum with a polynomial of the server's own in it",
    "single_update": "one client's update, opened as if it were a sum",
    "double_count": "one client's upload counted twice, in place of another's",
    "swapped_keys": "one client's update, under keys that the server puts in the place of the opener's",
    "wrapped_sum": "a sum that is larger than its modulus, and decodes to another number",
}

SUCCEEDS = "succeeds"
FAILS = "fails"


class Finding(NamedTuple):
    """The outcome of an attack: whether it succeeded, and the measurement, or the reason why it failed."""

    succeeded: bool
    evidence: str


@dataclass(frozen=True)
class AttackCase:
    """One attack on one setting, and its expected outcome. `note` names a step that the setting does not show."""

    overrides: tuple[str, ...]
    succeeds: bool
    mount: Callable[[Sequence[str]], Finding]
    holds: str  # the data that the attacker has
    shows: str  # words that the evidence must contain, so that only the expected reason counts
    note: str = ""

    @property
    def setting(self) -> str:
        """The overrides as a user would type them."""
        return shlex.join(self.overrides) + (f" ({self.note})" if self.note else "")


class AttackLine(NamedTuple):
    """A row of the table: the outcome of a case."""

    attack: str
    setting: str
    holds: str
    outcome: str
    evidence: str
    expected: bool


COLUMNS = tuple(Column(key, key.replace("holds", "the attacker holds"), "text") for key in AttackLine._fields)
# on a terminal: SHORT columns do not wrap; NARROW is the width of the column of few words
SHORT = ("attack", "outcome", "expected")
NARROW = 18


def main(argv: Sequence[str]) -> int:
    """Mount attacks, print their outcomes and, with `--json`, write them; 1 where an outcome is not the expected one.

    Raises:
        ConfigError: an unknown attack or option.
        RuntimeFailure: a setting on which an honest round fails too.
    """
    options = _parser().parse_args(argv)
    if options.list:
        print(_listing(), end="")
        return 0
    names = _chosen(options.name)
    if options.json is not None and not options.json.parent.is_dir():
        raise ConfigError.of("--json", options.json, f"there is no folder {options.json.parent}")
    lines = mounted(names)
    report(lines, options.json)
    return 0 if all(line.expected for line in lines) else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fedveil attack",
        description="Attack a secure sum as its server: on weak settings, where it should succeed, and on the default.",
        epilog=f"attacks:\n{_listing()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="an attack of the list below, or all")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the printed results")
    return parser


def _listing() -> str:
    return "".join(f"  {name:14} {what}\n" for name, what in ATTACKS.items())


def _chosen(name: str | None) -> list[str]:
    allowed = ", ".join(["all", *ATTACKS])
    if name is None:
        raise ConfigError(f"NAME: give one of {allowed}")
    if name == "all":
        return list(ATTACKS)
    if name not in ATTACKS:
        raise ConfigError.of("attack", name, f"allowed are {allowed}")
    return [name]


def mounted(names: Sequence[str]) -> list[AttackLine]:
    """Carry out every case of these attacks."""
    say(f"loading {', '.join(names)}")  # with PyTorch and Flower, which take their time
    cases = [(name, case) for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]
    lines = []
    with progress("attack", len(cases)) as attacks:
        for name, case in cases:
            attacks.within(f"{name} on {case.setting}")
            lines.append(_line(name, case))
            attacks.advance(f"{name} on {case.setting} {lines[-1].outcome}")
    return lines


def _line(name: str, case: AttackCase) -> AttackLine:
    finding = case.mount(case.overrides)
    outcome = SUCCEEDS if finding.succeeded else FAILS
    expected = finding.succeeded == case.succeeds and case.shows in finding.evidence
    return AttackLine(name, case.setting, case.holds, outcome, finding.evidence, expected)


def report(lines: Sequence[AttackLine], file: Path | None) -> None:
    """Print the table, and write it with the environment."""
    rows = [line._asdict() for line in lines]
    if sys.stdout.isatty():
        Console().print(_table(lines))
    else:
        print(markdown(Sheet(COLUMNS, [{**row, "expected": _yes_or_no(row["expected"])} for row in rows])), end="")
    if file is not None:
        file.write_text(json.dumps(plain({"attacks": rows, "environment": describe()}), indent=2) + "\n")


def _table(lines: Sequence[AttackLine]) -> Table:
    """The table for a terminal: one override a line; no text is cut on a narrow terminal."""
    table = Table(show_lines=True)
    for column in COLUMNS:
        short = column.key in SHORT
        narrow = NARROW if column.key == "holds" else None
        table.add_column(column.heading, overflow="fold", no_wrap=short, max_width=narrow)
    for line in lines:
        broken = line._replace(setting=re.sub(r" (?=[a-z_]+\.|\()", "\n", line.setting))
        table.add_row(*broken[:-1], _yes_or_no(line.expected))
    return table


def _yes_or_no(expected: bool) -> str:
    return "yes" if expected else "NO"
