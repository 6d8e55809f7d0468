"""The start of a server over a grid: every ServerApp serves a run through `serve`."""

from collections.abc import Mapping

import torch
from flwr.serverapp import Grid

from fl.faults.options import FaultsConfig
from fl.server import Errand, Server
from fl.training.generators import preserved_generators
from fl.workspace import Workspace
from privacy.addresses import Address
from privacy.errors import RuntimeFailure


def serve(work: Workspace, grid: Grid, nodes: Mapping[Address, int], errand: Errand) -> None:
    """Serve a whole run, or the rest of a resumed one, as every ServerApp does.

    Raises:
        FedveilError: the run cannot go on.
    """
    work.activate()
    with preserved_generators(work.device):
        try:
            server_of(work, grid, nodes, errand).run()
        except torch.OutOfMemoryError as error:
            raise RuntimeFailure(f"the server: {error}; lower server.evaluate_batch, or the model's size") from error


def server_of(work: Workspace, grid: Grid, nodes: Mapping[Address, int], errand: Errand) -> Server:
    """Make the server of a run; one that notes faults and dies by them, where the configuration asks for faults."""
    if work.plan.config.faults == FaultsConfig():
        return Server(work, grid, nodes, errand)
    from fl.faults.server import FaultyServer

    return FaultyServer(work, grid, nodes, errand)
