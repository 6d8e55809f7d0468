"""Hydra's look-ups of configurations, without a copy of every registered one for each."""

from typing import Any

from hydra.core.config_store import ConfigStore


def share_store() -> None:
    """Let the copies of Hydra's repository share its store of registered configurations.

    Hydra 1.3 copies the repository, and so the whole store, for each composition and for each group that `--help`
    lists. Nothing writes to these copies, and the store copies each configuration that it gives.
    """
    ConfigStore.__deepcopy__ = _itself  # type: ignore[attr-defined]


def _itself(store: ConfigStore, _: dict[int, Any]) -> ConfigStore:
    return store
