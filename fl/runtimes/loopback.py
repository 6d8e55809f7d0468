"""A SuperLink and its SuperNodes on this machine, on free ports, with certificates and keys made for them alone."""

import json
import os
import socket
import ssl
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fl.keys.folders import KEYS_VARIABLE, LEDGERS_VARIABLE
from fl.runtimes.certificates import Certificates, make_certificates, make_node_key
from fl.runtimes.processes import Processes
from privacy.errors import RuntimeFailure

HOST = "127.0.0.1"
START_S = 120.0  # limit for the SuperLink's start and for a command of `flwr`: each takes some 1.5 s on a free core

# No telemetry, no check for updates, no `pip install` at run time, and a task starts at most 0.1 s after its arrival.
SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "PYTHONUNBUFFERED": "1",
}
# `flwr supernode register KEY LINK --name NAME` for many nodes in one process: a call takes a second, mostly imports.
REGISTER = """
import sys
from flwr.cli.app import app
for key, name in zip(sys.argv[2::2], sys.argv[3::2]):
    app(["supernode", "register", key, sys.argv[1], "--name", name], standalone_mode=False)
"""


@dataclass(frozen=True)
class SuperLinkConnection:
    """A SuperLink as `flwr` finds it: the name of a connection, and the environment with its configuration."""

    name: str
    env: Mapping[str, str]
    elsewhere: bool = False  # another operator's SuperLink, which is not stopped here


@dataclass(frozen=True)
class Node:
    """A SuperNode to start: the address under which it is registered, and its node configuration."""

    address: str
    config: dict[str, int | str]


@contextmanager
def superlink(processes: Processes, private: Path, nodes: Sequence[Node]) -> Iterator[SuperLinkConnection]:
    """Start a SuperLink, register a key for each node, and start the nodes with them.

    Raises:
        RuntimeFailure: the SuperLink does not come up, or refuses a key.
    """
    certificates = make_certificates(private)
    keys = [private / f"supernode-{i}.key" for i in range(len(nodes))]
    names = [part for node, key in zip(nodes, keys, strict=True) for part in (str(make_node_key(key)), node.address)]
    with free_ports(1 + len(nodes)) as (port, *node_ports):
        link = SuperLinkConnection("fedveil", environment(private / "superlink"))
        _write_connection(private / "superlink", link.name, port, certificates)
        processes.start("superlink", superlink_command(port, certificates), link.env)
        _wait_for_tls(processes, port, certificates)
        processes.call("register", [sys.executable, "-P", "-c", REGISTER, link.name, *names], link.env, START_S)
        for i, node in enumerate(nodes):
            command = supernode_command(port, node_ports[i], certificates, keys[i], node)
            # Each node has its own FLWR_HOME: if two nodes unpacked the app at once, one would read half a file.
            processes.start(f"supernode-{i}", command, environment(private / f"supernode-{i}"))
        yield link


def superlink_command(port: int, certificates: Certificates) -> list[str]:
    """Return the command that starts the SuperLink, with TLS and node authentication."""
    tls = ["--ssl-ca-certfile", str(certificates.authority), "--ssl-certfile", str(certificates.server)]
    tls += ["--ssl-keyfile", str(certificates.server_key)]
    return [tool("flower-superlink"), *tls, "--enable-supernode-auth", "--host", HOST, "--port", str(port)]


def supernode_command(port: int, own_port: int, certificates: Certificates, key: Path, node: Node) -> list[str]:
    """Return the command of a SuperNode that trusts our authority alone and signs its requests with `key`."""
    ports = ["--superlink", f"{HOST}:{port}", "--port", str(own_port)]
    secrets = ["--root-certificates", str(certificates.authority), "--auth-supernode-private-key", str(key)]
    values = " ".join(f"{name}={json.dumps(value)}" for name, value in node.config.items())
    return [tool("flower-supernode"), *ports, *secrets, "--node-config", values]


def environment(home: Path | None = None) -> dict[str, str]:
    """Return this process's environment with Flower's settings; `home` is a private FLWR_HOME for loopback."""
    env = {**os.environ, **SETTINGS}
    for name in (KEYS_VARIABLE, LEDGERS_VARIABLE):  # of a simulation; a deployment's roles have folders of their own
        env.pop(name, None)
    # Flower finds its own programs on the path.
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", os.defpath)])
    if home is not None:
        home.mkdir(exist_ok=True)
        env |= {"FLWR_HOME": str(home), "NO_PROXY": HOST, "no_proxy": HOST}
    return env


def tool(name: str) -> str:
    """Return the path of a program in this Python's environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Reserve distinct free ports on loopback for the time of the block.

    While a bound socket does not listen, Linux gives its port to no other program, but a server that sets SO_REUSEADDR,
    as Flower's servers do, may still listen there. On other systems the ports are free only at this moment.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((HOST, 0))
        ports = [one.getsockname()[1] for one in held]
        if sys.platform != "linux":
            stack.close()
        yield ports


def _write_connection(home: Path, name: str, port: int, certificates: Certificates) -> None:
    connection = {"address": f"{HOST}:{port}", "root-certificates": str(certificates.authority)}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": name, name: connection}}))


def _wait_for_tls(processes: Processes, port: int, certificates: Certificates) -> None:
    """Wait until the SuperLink completes a TLS handshake under our authority."""
    context = ssl.create_default_context(cafile=certificates.authority)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        processes.check()
        with suppress(ConnectionError, TimeoutError), socket.create_connection((HOST, port), timeout=1) as plain:
            context.wrap_socket(plain, server_hostname=HOST).close()
            return
        time.sleep(0.05)
    raise RuntimeFailure(f"the SuperLink does not answer after {START_S:.0f} s (logs: {processes.logs})")
