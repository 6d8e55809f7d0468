"""The pass of a group of clients, compiled by torch (`runtime.compile=true`).

On a CPU this was slower in all that was measured (README): it is there to be measured elsewhere.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from privacy.errors import ConfigError

KEY = "runtime.compile"
COMPILERS = ("g++", "clang++")

Mapped = Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]  # stacked parameters, inputs (N, B, ...)


def require_compiler(device: torch.device) -> None:
    """Refuse a machine on which torch cannot compile for a device.

    Raises:
        ConfigError: there is no compiler.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError.of(KEY, True, "torch compiles for a GPU by Triton, which is not installed")
        return
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(one) for one in wanted):
        raise ConfigError.of(KEY, True, f"there is no C++ compiler here: torch needs {' or '.join(wanted)} in the PATH")


class Compiled:
    """A function that torch compiles at its first call, and again for other shapes.

    What was compiled before in this process is forgotten, so that a run depends on nothing but itself.
    """

    def __init__(self, mapped: Mapped) -> None:
        torch._dynamo.reset()
        torch._inductor.config.compile_threads = 1  # clients' processes are the parallel ones
        self._function: Mapped = torch.compile(mapped)
        self._begun_s = _compiling_s()
        self._told_s = 0.0

    def __call__(self, stack: tuple[torch.Tensor, ...], inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (N, B, K)."""
        return self._function(stack, inputs)

    @property
    def spent_s(self) -> float:
        """The wall time that torch has taken to compile, in seconds."""
        return _compiling_s() - self._begun_s

    def untold_s(self) -> float:
        """Return that since the last call."""
        before_s = self._told_s
        self._told_s = self.spent_s
        return self._told_s - before_s


def _compiling_s() -> float:
    spent: dict[str, Any] = importlib.import_module("torch._dynamo.utils").calculate_time_spent()
    return float(spent["total_wall_time"])
