"""Tests in parallel: a file stays on one worker, so that what its tests share is made once, and long files start first.

Files whose tests share processes that live as long as the session go together: to start such processes takes seconds.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
DURATIONS = Path(__file__).with_name("durations.json")
UNKNOWN_S = 5.0
SHARED = re.compile(r"def test_\w+\([^)]*\b(committee|three_parties)\b")


def recorded_s(durations: Path = DURATIONS) -> dict[str, float]:
    """Seconds by test file, as `make durations` wrote them."""
    return json.loads(durations.read_text()) if durations.exists() else {}


def file_of(nodeid: str) -> str:
    """The path of the test's file, relative to the root."""
    return nodeid.split("::", 1)[0]


@lru_cache(maxsize=1024)
def group_of(file: str) -> str:
    """The file itself, or `committees` for the files whose tests share them."""
    return "committees" if SHARED.search((ROOT / file).read_text()) else file


def longest_first(items: list[pytest.Item], seconds: dict[str, float]) -> list[pytest.Item]:
    """The tests by group: the longest group first, so that no worker idles at the end."""
    cost_s: Counter[str] = Counter()
    for file in sorted({file_of(item.nodeid) for item in items}):
        cost_s[group_of(file)] += seconds.get(file, UNKNOWN_S)
    return sorted(items, key=lambda item: (-cost_s[group := group_of(file_of(item.nodeid))], group))


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Hand out whole groups, in the order of the collection.

    `--dist loadgroup` would do, but pytest 9.2 does not let pytest-xdist 3.8 write groups into the names of tests.
    """

    def __init__(self, config: pytest.Config, log: Callable[..., Any]) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(file_of(nodeid))
