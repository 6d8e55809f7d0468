from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # it imports the whole command line
    from tests.experiments.command import Here


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process, in an empty working directory."""
    from tests.experiments.command import Here

    monkeypatch.chdir(tmp_path)
    return Here(capsys)
