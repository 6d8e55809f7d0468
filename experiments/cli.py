"""The `fedveil` command: each subcommand hands the rest of the line on."""

import os
import sys
from collections.abc import Sequence

USAGE = """usage: fedveil COMMAND ...

commands:
  run    [OVERRIDES]     run one configuration (Hydra: --help, --cfg job, -m and completion work)
  sweep  [OVERRIDES]     run every combination of comma-separated overrides; finished cells are skipped
  table  [RUN...]        one row a configuration, overheads as ratios to the paired plain run
  bench  NAME            measure: fedveil bench --help lists what
  hash   [OVERRIDES]     print the hash of a configuration, for the clients of a deployment to approve
"""
FORWARDED = ("run", "sweep", "hash")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch; the exit status is 0, 1 for a failure, 2 for a value that is not allowed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in FORWARDED or command.startswith("-"):  # completion scripts call `fedveil -sc query=bash`
        return _hydra(command, arguments if command.startswith("-") else rest)
    if command == "table":
        from results.table import main as table

        return table(rest)
    if command == "bench":
        from experiments.benchmarks import main as bench

        return bench(rest)
    print(f"fedveil: error: {command}: allowed are run, sweep, table, bench, hash", file=sys.stderr)
    return 2


def _hydra(command: str, rest: list[str]) -> int:
    from experiments import run

    _strip_command_from_completion()
    if command == "sweep":
        rest = ["-m", *rest]
    if command == "hash":
        os.environ[run.PRINT_HASH] = "1"
    return run.main(rest)


def _strip_command_from_completion() -> None:
    """Hydra completes the words after the program's name, and knows nothing of subcommands."""
    line = os.environ.get("COMP_LINE")
    if line is None:
        return
    words = line.split(" ")
    if len(words) > 2 and words[1] in FORWARDED:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        if point := os.environ.get("COMP_POINT"):
            os.environ["COMP_POINT"] = str(max(0, int(point) - len(words[1]) - 1))


if __name__ == "__main__":
    sys.exit(main())
