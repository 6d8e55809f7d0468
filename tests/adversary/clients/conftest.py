"""A folder for the ledgers of a simulation."""

from pathlib import Path

import pytest

from fl.keys.folders import LEDGERS_VARIABLE


@pytest.fixture
def ledger_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a simulation's ledgers."""
    monkeypatch.setenv(LEDGERS_VARIABLE, str(tmp_path / "ledgers"))
    return tmp_path / "ledgers"
