"""A run that is stopped while a round is under way."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from fl.server import Server
from fl.workspace import Workspace
from tests.composed import server_of
from tests.fl.grids import Tampered


def stopped_in(round_: int, work: Workspace, folder: Path) -> Server:
    """The server of a run into `folder`, after Ctrl-C once a client had answered in this round."""

    def stop(_: str, reply: Message) -> Iterable[Message]:
        if server.meter.round == round_:
            raise KeyboardInterrupt
        return [reply]

    server = server_of(work, folder, Tampered(work, stop))
    with pytest.raises(KeyboardInterrupt):
        server.run()
    return server
