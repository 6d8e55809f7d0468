"""Outcomes of the cells of a sweep: printed as each cell ends, in any process, and summed up in the exit status."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

OK = 0
FAILED = 1
REFUSED = 2
OUTCOMES = "FEDVEIL_OUTCOMES"  # a file: each cell adds a line to it, and the exit status comes from it


@dataclass(frozen=True)
class Told:
    """The outcome of one cell; `private` says whether it claims an epsilon."""

    status: int
    line: str
    private: bool = False


def tell(told: Told) -> None:
    """Print the line, and record the outcome for `conclude`."""
    print(told.line, file=sys.stderr if told.status else sys.stdout, flush=True)
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(json.dumps(asdict(told)) + "\n")


def conclude(file: Path) -> int:
    """Print how many of several cells finished; returns the exit status of the sweep."""
    told = [Told(**json.loads(line)) for line in file.read_text().splitlines()]
    failed = [cell for cell in told if cell.status != OK]
    if len(told) > 1:
        finished = f"{len(told) - len(failed)} of {len(told)} cells finished"
        print(f"{finished}; failed ones are listed above and by `fedveil table`" if failed else finished)
    if sum(cell.private for cell in told) > 1:
        print(
            "each epsilon covers one cell: choosing the best cell on private data costs more, which no epsilon includes"
        )
    return max((cell.status for cell in failed), default=OK)
