"""`make readme`: the first table and picture of the README, written from the runs of `experiment=first_table`.

A digest of the cells and columns stands beside them, so that a test can tell when they are stale.
"""

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.hydra.compose import composed
from fl.config.identity import hash_of, to_json
from results import render
from results.plots.overview import overview
from results.runs import collect, find_runs
from results.table import table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "experiments" / "first_table.png"
EXPERIMENT = "first_table"
BEGIN = "<!-- first_table {digest} {picture} -->\n"
END = "<!-- first_table ends -->\n"
BLOCK = re.compile(r"<!-- first_table (\w*) (\w*) -->\n(.*?)<!-- first_table ends -->\n", re.DOTALL)


def configurations() -> list[str]:
    """The hashes of the experiment's cells, as they are composed today."""
    whole = composed([f"experiment={EXPERIMENT}"], with_hydra=True)
    swept = {key: str(values).split(",") for key, values in whole.hydra.sweeper.params.items()}
    (key, values), *others = swept.items()
    assert not others, "one key is swept"
    return [hash_of(to_json(composed([f"experiment={EXPERIMENT}", f"{key}={value}"]))) for value in values]


def digest(columns: Sequence[str]) -> str:
    """Digest of the cells and the columns; the table has to be made again when it changes."""
    return hashlib.sha256(json.dumps([configurations(), list(columns)]).encode()).hexdigest()[:16]


def main(argv: Sequence[str]) -> int:
    """Write table and picture; `argv` is the folder of the runs, and the columns separated by commas."""
    folder, listed = argv
    columns = listed.split(",")
    runs = collect(find_runs([Path(folder)]))
    lines = [line for line in render.markdown(table(runs, columns)).splitlines() if line.startswith("|")]
    overview(runs, PICTURE)
    marks = BEGIN.format(digest=digest(columns), picture=hashlib.sha256(PICTURE.read_bytes()).hexdigest()[:16])
    block = marks + "\n".join(lines) + "\n" + END
    text = README.read_text()
    assert BLOCK.search(text), "the README holds the marks"
    README.write_text(BLOCK.sub(lambda _: block, text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
