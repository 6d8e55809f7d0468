"""The device of tensors, and the settings that make the same seed give the same weights."""

import os
import sys

import torch

from fl.training.uncompiled import without_compiler
from privacy.errors import ConfigError

# cuBLAS is deterministic only with a workspace of this form, and reads it when CUDA starts
CUBLAS_WORKSPACE = ":4096:8"
COMPILER = "torch._inductor.config"


def resolve(name: str) -> torch.device:
    """Return the device of a name; `auto` takes the GPU where there is one.

    Raises:
        ConfigError: the name is unknown, or this machine lacks the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError.of("device", name, "allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda":
        present = torch.cuda.device_count()
        if (device.index or 0) >= present:
            raise ConfigError.of("device", name, f"there are {present} CUDA devices; use device=cpu or device=auto")
    return device


def configure(device: torch.device, threads: int, deterministic: bool, tf32: bool) -> None:
    """Set this process's options that change results. The call is cheap to repeat, so every message makes it."""
    without_compiler()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        # `torch.use_deterministic_algorithms` would do the same, and import torch's compiler, which takes two seconds
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        # filling fresh memory only helps to detect reads of it, and costs up to a tenth of a training step
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    compiler = sys.modules.get(COMPILER)  # where a model is compiled
    if compiler is not None and compiler.deterministic != deterministic:
        compiler.deterministic = deterministic  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = not deterministic
