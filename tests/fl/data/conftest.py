from pathlib import Path

import pytest

from fl.data import published


@pytest.fixture
def machine_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without data sets, except those that a test makes, and with an empty cache."""
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the cache of the hub's libraries to a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub_cache"))


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small sets of a test go by the names of published ones."""
    monkeypatch.setattr(published, "KNOWN", {})
