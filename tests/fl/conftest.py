from pathlib import Path

import pytest


@pytest.fixture
def machine_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set but those that a test makes, and an empty cache."""
    monkeypatch.setenv("FEDVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDVEIL_DATA", raising=False)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's libraries write into the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub_cache"))
