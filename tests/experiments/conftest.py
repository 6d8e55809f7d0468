from pathlib import Path

import pytest

from tests.experiments.command import Here


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return Here(capsys)
