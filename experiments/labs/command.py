"""`fedveil lab`: the labs, a lab as a notebook, the check of its answers, and the table of a class."""

import argparse
import getpass
from collections.abc import Sequence
from pathlib import Path

from experiments.labs.catalogue import LABS, numbered
from privacy.errors import ConfigError
from results.commands.output import Parser


def main(argv: Sequence[str]) -> int:
    """List the labs, open or check one, or collect results; 1 where an answer does not hold.

    Raises:
        ConfigError: an unknown lab or option, or a file that cannot be read or written.
        RuntimeFailure: the code of a checked file fails.
    """
    options = _parser().parse_args(argv)
    if options.action is None:
        for lab in LABS:
            print(f"{lab.number}  {lab.name:16} {lab.title} ({lab.time})")
        return 0
    action: int = options.action(options)
    return action


def _parser() -> argparse.ArgumentParser:
    parser = Parser("fedveil lab", description="A course of notebooks. Without a word, list them.", allow_abbrev=False)
    parser.set_defaults(action=None)
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    opening = actions.add_parser("open", help="write a lab as a notebook", allow_abbrev=False)
    opening.add_argument("number", metavar="N", help="its number in the list")
    opening.add_argument("--folder", type=Path, default=Path("labs"), help="default: labs")
    opening.set_defaults(action=_open)
    checking = actions.add_parser("check", help="run a student's file, and judge its answers", allow_abbrev=False)
    checking.add_argument("file", metavar="FILE", type=Path, help="a notebook, or a script in the percent format")
    checking.add_argument("--student", help="the name on the line for the teacher; default: the user's name")
    checking.set_defaults(action=_check)
    collecting = actions.add_parser("collect", help="the table of a class, as CSV", allow_abbrev=False)
    collecting.add_argument("folder", metavar="FOLDER", type=Path, help="the folder with the folders of the students")
    collecting.add_argument("--out", metavar="FILE", type=Path, help="write the table to this file")
    collecting.set_defaults(action=_collect)
    return parser


def _open(options: argparse.Namespace) -> int:
    from experiments.labs.notebooks import write

    print(write(numbered(options.number), options.folder))
    return 0


def _check(options: argparse.Namespace) -> int:
    from experiments.labs.marking import check

    student = getpass.getuser() if options.student is None else options.student
    if not student.strip() or not student.isprintable():
        raise ConfigError.of("--student", repr(student), "must be a name on one line")
    result = check(options.file, student.strip())
    return 0 if result.right == result.questions else 1


def _collect(options: argparse.Namespace) -> int:
    from experiments.labs.marking import collect

    if not options.folder.is_dir():
        raise ConfigError.of("lab collect", options.folder, "there is no such folder")
    table = collect(options.folder)
    if options.out is None:
        print(table, end="")
        return 0
    try:
        options.out.write_text(table, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of("--out", options.out, f"cannot be written: {error.strerror}") from None
    return 0
