"""The README's first table and picture match `make readme` with the present code."""

import hashlib
import re

from experiments.readme import BLOCK, PICTURE, README, ROOT, digest
from results.columns import BY_KEY

STALE = "stale: run `make readme`"


def columns() -> list[str]:
    """The columns that `make run` prints."""
    found = re.search(r"^FIRST_COLUMNS = (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split(",")


def test_the_table_is_of_todays_configurations_and_columns() -> None:
    block = BLOCK.search(README.read_text())
    assert block is not None
    made_from, picture, table = block.groups()
    assert made_from == digest(columns()), STALE
    headings = [text.strip() for text in table.splitlines()[0].strip("|").split("|")]
    assert headings == ["configuration", *(BY_KEY[key].heading for key in columns())], STALE
    assert picture == hashlib.sha256(PICTURE.read_bytes()).hexdigest()[:16], STALE
    assert len(table.splitlines()) == 2 + 6


def test_another_column_or_configuration_makes_it_stale() -> None:
    assert digest(columns()) != digest(columns()[1:])
