"""The environment of a run: versions, hardware, revision and command. No user name and no host name."""

import getpass
import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("fedveil", "flwr", "opacus", "tenseal", "torch", "crypten", "hydra-core"),
    *("cryptography", "datasets", "dp-accounting", "flwr-datasets", "numpy", "polars", "ray", "scikit-learn", "scipy"),
)
ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, object]:
    """All properties of the environment that may change a figure, as JSON values; None where one is unknown."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "usable_cores": _usable_cores()},
        "memory_bytes": _memory_bytes(),
        "cuda": _cuda(),
        "git": _own_code(),
        "command": [Path(sys.argv[0]).name, *map(anonymous, sys.argv[1:])],
    }


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _usable_cores() -> int | None:
    # A container or a job scheduler may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cuda() -> dict[str, object]:
    """CUDA's version, and the names of the devices that this process sees."""
    try:
        import torch
    except ImportError:
        return {"version": None, "devices": []}
    return {"version": torch.version.cuda, "devices": _device_names(torch.cuda.device_count())}


def _device_names(count: int) -> list[str]:
    """Names from nvidia-smi: torch would open a context on the device, also for a run on the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [] if visible is None else ["-i", visible]
    names = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", *chosen]) if count else ""
    return ["unknown"] * count if names is None else names.splitlines()


@cache
def _own_code() -> dict[str, object]:
    """The state of the repository when this process first asks: it goes on with the code that it has loaded."""
    return git_state(ROOT)


def git_state(root: Path) -> dict[str, object]:
    """Revision and whether the tree differs from it; None for both unless `root` is the top of a checkout."""
    unknown: dict[str, object] = {"revision": None, "dirty": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed package may lie inside someone else's repository (such as a virtual environment).
    if top is None or Path(top).resolve() != root.resolve():
        return unknown
    revision = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(root, "status", "--porcelain")
    return unknown if revision is None else {"revision": revision, "dirty": bool(changes)}


def anonymous(argument: str) -> str:
    """An argument without the user's name: the home folder becomes `~`, and so does a folder named after the user."""
    argument = argument.replace(str(Path.home()), "~")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, the user may have no entry
        return argument
    return re.sub(rf"(?<=/){re.escape(user)}(?=/|$)", "~", argument)


def _git(root: Path, *arguments: str) -> str | None:
    # A git hook sets GIT_DIR and similar variables, which would select another repository.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return _output(["git", "-C", str(root), *arguments], clean | {"GIT_OPTIONAL_LOCKS": "0"})


def _output(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    """The output of a program, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
