"""Party processes of these tests are told from those that other files' fixtures keep."""

import pytest

from tests.fl.runtimes.parties import runs


@pytest.fixture(autouse=True)
def _own_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PRESENT", {child.pid for child in runs.spawned()})
