"""The apps of the runtimes that simulate: a ClientApp that answers, and a ServerApp in this process."""

from collections.abc import Callable, Mapping

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.node import reply
from fl.plan import RunPlan
from fl.runtimes.committee import attended
from fl.runtimes.serving import serve
from fl.server import Errand
from fl.workspace import Workspace
from privacy.addresses import Address

client_app = ClientApp()


@client_app.train()
def participate(message: Message, context: Context) -> Message:
    """Answer one stage of the protocol."""
    return reply(message, context)


Locate = Callable[[Grid, RunPlan], Mapping[Address, int]]


def server_app_of(work: Workspace, locate: Locate, errand: Errand) -> ServerApp:
    """Make a ServerApp for a runtime that runs it in this process, with a process for each further role."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        with attended(work.plan, grid) as (wider, parties):
            serve(work, wider, {**locate(wider, work.plan), **parties}, errand)

    return app
