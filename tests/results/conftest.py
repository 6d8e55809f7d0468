import pytest

from results import environment


@pytest.fixture(autouse=True)
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are stored without a question to torch, which takes over a second to import."""
    monkeypatch.setattr(environment, "_cuda", lambda: {"version": None, "devices": []})
