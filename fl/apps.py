"""The ServerApp and the ClientApp of a deployment, which Flower's own processes load by the names in this module.

A SuperNode whose node configuration names a socket (`resident`) passes its messages on to the resident process of its
role; any other one answers itself. Simulations have apps of their own: fl/runtimes/simulated.py.
"""

from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.runtimes.relay import relay
from fl.transport import RESIDENT, ROLE, told

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def answer(message: Message, context: Context) -> Message:
    """Answer one stage of the protocol."""
    return Message(told(lambda: _answer(message.content, context)), reply_to=message)


def _answer(content: RecordDict, context: Context) -> RecordDict:
    resident = context.node_config.get(RESIDENT)
    if resident is not None:
        return relay(Path(str(resident)), str(context.node_config.get(ROLE)), content)
    from fl.node import participate  # imports torch, which a relay does not need

    return participate(content, context)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve a run: its configuration, folder and pinned public keys are in Flower's run configuration."""
    from fl.runtimes.deployment import POLL_S, locate
    from fl.runtimes.serving import serve
    from fl.server import Errand
    from fl.workspace import workspace
    from privacy.sealing import Roster

    given = {name: str(value) for name, value in context.run_config.items()}
    work = workspace(given["config"])
    folder = Path(given["directory"]) / "checkpoints"
    roster = Roster.from_bytes(given["roster"].encode()) if given["roster"] else None
    errand = Errand(
        folder, int(given["keep-checkpoints"]), show_every_s=float(given["show-every-s"]), poll_s=POLL_S, roster=roster
    )
    serve(work, grid, locate(grid, work.plan), errand)
