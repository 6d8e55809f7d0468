"""The project's own apps, with a server that records all it sees: messages, settings, and opened files."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

opened: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)  # before anything of the project is imported

from fl import apps  # noqa: E402
from tests.fl.runtimes.recording import Recorder  # noqa: E402

client_app = apps.client_app
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    folder = Path(str(context.run_config["directory"])) / "recorded"
    apps.main(Recorder(grid, folder), context)  # type: ignore[arg-type]
    seen = {"run_config": dict(context.run_config), "environment": dict(os.environ), "opened": opened}
    (folder / "seen.json").write_text(json.dumps(seen))
    shutil.copytree(os.environ["FLWR_HOME"], folder / "superlink")
