"""A plugin of pytest that records the seconds of each test file: `make durations`.

They order the files of parallel runs, and tell `make check` what fits into a minute. A file without quick tests has 0.
"""

import json
from collections import Counter

import pytest

from tests.groups import DURATIONS, ROOT, file_of
from tests.rooms import House

spent_s: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count setup, call and teardown; with pytest-xdist, in the process that hands out the tests."""
    spent_s[file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write them, after a run that was not broken off."""
    whole = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if whole and not hasattr(session.config, "workerinput"):
        DURATIONS.write_text(as_text(House(ROOT).test_files(), spent_s))


def as_text(files: list[str], seconds: dict[str, float]) -> str:
    """JSON, a file a line."""
    return json.dumps({path: round(seconds.get(path, 0.0), 1) for path in sorted(files)}, indent=1) + "\n"
