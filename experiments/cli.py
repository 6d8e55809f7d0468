"""The `fedveil` command: each subcommand hands the rest of the line on."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from privacy.errors import FedveilError

USAGE = """usage: fedveil COMMAND ...

commands:
  run           [OVERRIDES]  run one configuration (Hydra: --help, --cfg job, -m and completion work)
  sweep         [OVERRIDES]  run every combination of comma-separated overrides; finished cells are skipped
  table         [RUN...]     one row a configuration, overheads as ratios to the paired plain run
  plot          KIND [RUN..] draw them for print: fedveil plot --help lists how
  report        [RUN...]     all of it in one HTML page that works offline
  query         SQL [RUN...] ask the runs and their rows in SQL: fedveil query --help lists tables and columns
  reproduce     NAME         regenerate a published table: fedveil reproduce --help lists them
  bench         NAME         measure: fedveil bench --help lists what
  attack        NAME         attack a secure sum as its server: fedveil attack --help lists how
  explain       [OVERRIDES]  print the threat card of a configuration: who holds and sees what
  hash          [OVERRIDES]  print the hash of a configuration, for the clients of a deployment to approve
  configuration [OVERRIDES]  print its canonical text, for the processes of a deployment's parties
"""
FORWARDED = ("run", "sweep", "hash", "configuration", "explain")
PRINTING = {  # the module of each, which is imported when it is asked for
    "table": "results.table",
    "plot": "results.commands.plot",
    "report": "experiments.report",
    "query": "results.commands.query",
    "reproduce": "experiments.published.reproduce",
    "bench": "experiments.benchmarks",
    "attack": "experiments.attacks",
}
COMMANDS = ("run", "sweep", *PRINTING, "hash", "configuration", "explain")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch; the exit status is 0, 1 for a failure, 2 for a value that is not allowed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        return 1
    except FedveilError as error:
        print(f"fedveil: error: {error}", file=sys.stderr)
        return 2
    return status


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    command = arguments[0]
    rest = arguments[1:]
    if command.startswith("-"):  # completion scripts call `fedveil -sc query=bash`
        return _complete(arguments)
    if command in FORWARDED:
        return _hydra(command, rest)
    if command in PRINTING:
        return int(import_module(PRINTING[command]).main(rest))
    print(f"fedveil: error: {command}: allowed are {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


def _hydra(command: str, rest: list[str]) -> int:
    from experiments import run

    logging.raiseExceptions = False  # Hydra logs its `--info`, and `| head` would make each line a traceback
    if command in run.PRINTED:
        return run.print_instead(command, rest)
    return run.main(["-m", *rest] if command == "sweep" else rest)


def _complete(arguments: list[str]) -> int:
    """Hydra completes the words after the program's name, and knows nothing of subcommands."""
    from experiments import run

    line = os.environ.get("COMP_LINE")
    if line is not None:
        program, *words = re.split(r"\s+", line.lstrip())
        if len(words) < 2:
            print("\n".join(COMMANDS))
            return 0
        if words[0] not in FORWARDED:
            return 0
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
    return run.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
