"""Common set-up of all tests: quiet and offline libraries, one torch thread, GPU tests skipped without a GPU."""

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

# Before flwr, ray, datasets and matplotlib are imported: they read these once. Child processes inherit them.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
}

import absl.logging
import pytest

NO_GPU = "needs a CUDA device, and torch sees none"
# Ray never waits for the processes it stops, so the garbage collector finds their handles still open.
RAY_LEAVES = "ignore:subprocess .* is still running:ResourceWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests without a GPU, and ignore the warnings on resources left open by Ray, only in `ray` tests.

    The workers of pytest-xdist take the longest files first.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests import groups

        items[:] = groups.longest_first(items, groups.recorded_s())
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason=NO_GPU))
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.filterwarnings(RAY_LEAVES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, unless `--dist` asks for something else."""
    if config.getvalue("dist") != "load":
        return None
    from tests.groups import Groups

    return Groups(config, log)


def has_gpu() -> bool:
    """Ask torch, which takes over a second to import: light tests do without it."""
    import torch

    return torch.cuda.is_available()


def pytest_configure() -> None:
    """Give absl's log the real stderr: it keeps the one of its import, pytest's own, which Hydra would close."""
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.hookimpl(tryfirst=True)  # before any fixture computes
def pytest_runtest_setup() -> None:
    """Use one torch thread, where torch is loaded: two threads give different float sums, and tests share the cores."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def collect_what_ray_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Release Ray's handles while their warning is still ignored, and not in the next test."""
    yield
    if request.node.get_closest_marker("ray"):
        gc.collect()
