"""The command line, for tests of runs whose processes need the modules from outside."""

from pathlib import Path

import pytest

from tests.experiments.command import ROOT, Here


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process; processes that it starts find the modules from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Here(capsys)
