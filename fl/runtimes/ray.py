"""Flower's own simulation engine on Ray, here or on a cluster. Only this file uses deprecated parts of Flower."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flwr.serverapp import Grid

from fl.keys.folders import KEYS_VARIABLE, LEDGERS_VARIABLE, variable
from fl.keys.ledgers import kept_in
from fl.node import APPROVED_VARIABLE
from fl.plan import RunPlan
from fl.runtimes.simulated import client_app, server_app_of
from fl.server import Errand
from fl.workspace import Workspace
from privacy.addresses import Address, client_address
from privacy.errors import ConfigError, RuntimeFailure

POLL_S = 0.005
NODES_TIMEOUT_S = 120.0


def run(work: Workspace, errand: Errand) -> None:
    """Make a whole run on Ray: the ServerApp in this process, the ClientApps in Ray's actors.

    Raises:
        ConfigError: Ray cannot assign the device.
        RuntimeFailure: Ray failed.
    """
    from flwr.simulation import run_simulation

    plan = work.plan
    if work.device.index is not None:
        raise ConfigError.of("device", plan.config.device, "Ray itself places clients on GPUs: use device=cuda")
    app = server_app_of(work, locate, errand)
    # the actors that Ray starts on this machine inherit the environment
    with variable(APPROVED_VARIABLE, plan.hash), kept_in(errand.folder), _quiet():
        try:
            run_simulation(app, client_app, plan.config.clients, backend_config=_backend_config(work))  # type: ignore[no-untyped-call,unused-ignore]
        except RuntimeError as error:
            raise RuntimeFailure(f"Flower's Ray engine failed: {error.__cause__ or error}") from error


def _backend_config(work: Workspace) -> Any:
    runtime = work.plan.config.runtime
    gpus = runtime.gpus_per_client if work.device.type == "cuda" else 0.0
    init_args: dict[str, Any] = {"log_to_driver": False}  # a client reports its errors in its reply
    if runtime.address is None:
        init_args["include_dashboard"] = False
    else:
        # where roles have keys or ledgers, the run's folder must be one that all machines share
        passed = (APPROVED_VARIABLE, KEYS_VARIABLE, LEDGERS_VARIABLE)
        variables = {name: os.environ[name] for name in passed if name in os.environ}
        init_args |= {"address": runtime.address, "runtime_env": {"env_vars": variables}}
    return {
        "init_args": init_args,
        "client_resources": {"num_cpus": runtime.cpus_per_client, "num_gpus": gpus},
    }


def locate(grid: Grid, plan: RunPlan) -> Mapping[Address, int]:
    """Wait until Flower has registered its simulated nodes; return one for each client. Any node can play any client.

    Raises:
        RuntimeFailure: Flower has not registered them all in time.
    """
    ends = time.monotonic() + NODES_TIMEOUT_S
    while len(nodes := sorted(grid.get_node_ids())) < plan.config.clients:
        if time.monotonic() > ends:
            raise RuntimeFailure(f"Ray registered {len(nodes)} of {plan.config.clients} nodes in {NODES_TIMEOUT_S:g} s")
        time.sleep(POLL_S)
    return {client_address(client): node for client, node in enumerate(nodes)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Flower's reports of its start, its deprecations and each poll; the run shows its own progress."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
