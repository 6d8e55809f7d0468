"""A SuperLink with two SuperNodes on loopback, and the settings of the echo apps."""

import json
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.runtimes.certificates import Certificates
from fl.runtimes.deployment import client_node, submit, write_app
from fl.runtimes.loopback import SuperLinkConnection, superlink
from fl.runtimes.processes import Processes

ROOT = Path(__file__).parents[4]
ECHO = "tests.fl.runtimes.deployment.echo_apps"
APPROVED = "ab" * 32
# All that TOML and Flower's parsers might stumble on.
TEXT = "a \"quoted\" 'text' = with\nlines, \\ and é €"
NODES = 2


@dataclass(frozen=True)
class Deployment:
    """A deployment that stays up for several tests."""

    processes: Processes
    private: Path
    link: SuperLinkConnection

    def run(self, folder: Path, **config: Any) -> dict[str, Any]:
        """Run the echo apps and return the replies that the ServerApp got."""
        submit(self.processes, self.link, write_app(folder, settings(folder, **config), ECHO))
        return json.loads((folder / "seen.json").read_text())

    @property
    def port(self) -> int:
        connection = tomllib.loads((self.private / "superlink" / "config.toml").read_text())["superlink"]["fedveil"]
        return int(connection["address"].split(":")[1])

    @property
    def certificates(self) -> Certificates:
        return Certificates(*(self.private / name for name in ("ca.crt", "server.crt", "server.key")))


def settings(folder: Path, **config: Any) -> dict[str, str]:
    whole = {"nodes": NODES, "rounds": 1, "text": TEXT, "fail": "", "sleep_s": 0} | config
    return {"config": json.dumps(whole), "directory": str(folder)}


def start(stack: ExitStack, folder: Path) -> Deployment:
    private = folder / "private"
    private.mkdir(mode=0o700)
    processes = stack.enter_context(Processes(folder))
    nodes = [client_node(client, APPROVED) for client in range(NODES)]
    return Deployment(processes, private, stack.enter_context(superlink(processes, private, nodes)))
