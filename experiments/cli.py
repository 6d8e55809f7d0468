"""The `fedveil` command: each subcommand gets the rest of the command line."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from privacy.errors import FedveilError, nearest

USAGE = """usage: fedveil COMMAND ...

commands:
  run           [OVERRIDES]  run one configuration (Hydra: --help, --cfg job, -m and completion work)
  sweep         [OVERRIDES]  run every combination of comma-separated overrides; finished cells are skipped
  table         [RUN...]     one row a configuration, overheads as ratios to the paired plain run
  plot          KIND [RUN..] draw figures of runs for print: fedveil plot --help lists the kinds
  report        [RUN...]     table, plots and provenance in one HTML page that works offline
  query         SQL [RUN...] ask the runs and their rows in SQL: fedveil query --help lists tables and columns
  audit-ledger  RUN          recompute a run's epsilon from its ledger, beside what its rows tell
  reproduce     NAME         regenerate a published table: fedveil reproduce --help lists them
  bench         NAME         run a benchmark: fedveil bench --help lists them
  attack        NAME         attack a secure sum as its server: fedveil attack --help lists the attacks
  lab           [ACTION]     list the labs of a course; open N, check FILE and collect FOLDER work with them
  explain       [OVERRIDES]  print the threat card of a configuration: what each role holds and sees
  hash          [OVERRIDES]  print the hash of a configuration, for the clients of a deployment to approve
  configuration [OVERRIDES]  print its canonical text, for the processes of a deployment's parties
"""
FORWARDED = ("run", "sweep", "hash", "configuration", "explain")
PRINTING = {  # the module of each command, imported on use
    "table": "results.commands.table",
    "plot": "results.commands.plot",
    "report": "experiments.report",
    "query": "results.commands.query",
    "audit-ledger": "experiments.audit_ledger",
    "reproduce": "experiments.published.reproduce",
    "bench": "experiments.benchmarks",
    "attack": "experiments.attacks",
    "lab": "experiments.labs.command",
}
COMMANDS = ("run", "sweep", *PRINTING, "hash", "configuration", "explain")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch; the exit status is 0, 1 for a failure, 2 for a value that is not allowed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail again
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
    allowed = f"allowed are {', '.join(COMMANDS)}{nearest(command, COMMANDS)}"
    print(f"fedveil: error: {command}: {allowed}", file=sys.stderr)
    return 2


def _hydra(command: str, rest: list[str]) -> int:
    from experiments import run

    logging.raiseExceptions = False  # Hydra logs its `--info`; with `| head` each line would print a traceback
    if command in run.PRINTED:
        return run.print_instead(command, rest)
    return run.main(["-m", *rest] if command == "sweep" else rest)


def _complete(arguments: list[str]) -> int:
    """Complete a command line: subcommands here, the words after them by Hydra, which knows no subcommands."""
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
