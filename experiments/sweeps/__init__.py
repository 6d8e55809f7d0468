"""Sweeps: twins, cores and GPUs, exit status. Hydra's configuration names the callbacks below."""

from importlib import import_module

PUBLIC = {"Index": "experiments.sweeps.index_after", "Share": "experiments.sweeps.cores_and_gpus"}


def __getattr__(name: str) -> object:
    """The callback of this name, imported now."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
