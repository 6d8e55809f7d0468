"""The deployment runtime: one SuperLink and SuperNodes as separate processes, with TLS and node authentication.

Without `runtime.federation`, this module makes all keys, starts all processes on loopback and stops them; with it, the
run goes to a SuperLink that another operator runs. In both cases `flwr run` submits an app that contains only the names
of the two apps of the installed package, and the SuperLink's status of the run decides whether it succeeded.

Where the secure sum pins keys, each client and role has a folder of its own, which its node configuration names. The
ServerApp gets the roster of public keys, unless the roster is relayed through it (`runtime.roster=relayed`). A role
beside clients and server has a resident process, to which its SuperNode relays messages.
"""

import json
import math
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import tomli_w
from flwr.serverapp import Grid

from fl.keys import folders as keys
from fl.plan import RunPlan
from fl.runtimes.loopback import START_S, Node, SuperLinkConnection, environment, superlink, tool
from fl.runtimes.processes import Process, Processes
from fl.runtimes.relay import SOCKET, answers
from fl.server import Errand
from privacy.addresses import Address, client_address
from privacy.errors import ConfigError, RuntimeFailure
from privacy.sealing import Roster

APPS = "fl.apps"
POLL_S = 0.2  # between two polls of the ServerApp for nodes and replies; each poll is a request over TLS
NODES_TIMEOUT_S = 600.0  # SuperNodes on other machines may be started by hand
PATIENCE = 5  # status requests in a row, PAUSE_S apart, that may fail at a SuperLink on another machine
PAUSE_S = 5.0
COMPLETED = "finished:completed"
# Lines in the ServerApp's log that are from Flower, not from the app.
FLOWERS_OWN = re.compile(r"\x1b\[|Using SuperLink|Successfully installed")
FLOWERS_ERROR = "\x1b[91mERROR"  # the start of a line before a traceback

Echo = Callable[[str], None]


def run(plan: RunPlan, directory: Path, errand: Errand) -> None:
    """Run a configuration to its end over a SuperLink; the log of every process goes to `directory`/deployment.

    The ServerApp finds `config` (the canonical JSON), `directory` and `roster` in its run configuration, a ClientApp
    finds `partition-id`, `approved-config` and `keys` in its node configuration, or `role` and `resident`.

    Raises:
        ConfigError: `runtime.federation` is not a connection of $FLWR_HOME/config.toml, or the roster is not usable.
        RuntimeFailure: a process ended early or the run did not complete; the message is one line and names the log.
    """
    federation = plan.config.runtime.federation
    with _folders(directory) as (logs, private), Processes(logs) as processes, ExitStack() as stack:
        if federation is None:
            folder = directory.resolve() / "keys"  # kept after a stop: a resumed run needs the same keys
            roster = _make_keys(plan, folder)
            start_residents(processes, plan, folder, private)
            link = stack.enter_context(superlink(processes, private, nodes_of(plan, folder)))
        else:
            roster = _given_roster(plan, errand)
            link = known(federation)
        settings = {
            "config": plan.canonical,
            "directory": str(directory.resolve()),
            "keep-checkpoints": str(errand.keep_checkpoints),
            "roster": "" if roster is None else roster.to_bytes().decode(),
            "show-every-s": str(errand.show_every_s or 0.0),
        }
        submit(processes, link, write_app(private, settings, APPS), None if errand.show_every_s is None else shown())


def _make_keys(plan: RunPlan, folder: Path) -> Roster | None:
    """On loopback: make keys in a subfolder of `folder` for each SuperNode and role; None where no role needs one."""
    secure_sum = plan.backend.secure_sum
    if plan.relayed or (not secure_sum.needs.roster and not secure_sum.parties.roles):
        return None
    return keys.make_all(folder, [*map(client_address, range(plan.config.runtime.supernodes)), *plan.members])


def _given_roster(plan: RunPlan, errand: Errand) -> Roster | None:
    secure_sum = plan.backend.secure_sum
    if secure_sum.needs.roster and not plan.relayed and errand.roster is None:
        raise ConfigError.of("roster", None, f"secure_sum={secure_sum.name} needs the file of everybody's public keys")
    if not secure_sum.needs.roster and errand.roster is not None:
        raise ConfigError.of("roster", errand.roster.digest.hex(), f"secure_sum={secure_sum.name} needs no roster")
    return errand.roster


def nodes_of(plan: RunPlan, folder: Path) -> list[Node]:
    """On loopback: return a SuperNode for each client, and one for each role."""
    secure_sum = plan.backend.secure_sum
    clients = [client_node(client, plan.hash) for client in range(plan.config.runtime.supernodes)]
    if secure_sum.needs.roster or any(plan.backend.keeps_account(node.address) for node in clients):
        for node in clients:
            node.config["keys"] = str(keys.folder_of(folder, node.address))
    return [*clients, *(role_node(role, keys.folder_of(folder, role) / SOCKET) for role in secure_sum.parties.roles)]


def client_node(client: int, approved: str) -> Node:
    """Return the SuperNode of a client that acts only on the configuration with the hash `approved`."""
    return Node(client_address(client), {"partition-id": client, "approved-config": approved})


def role_node(role: Address, socket: Path) -> Node:
    """Return the SuperNode of a role, which relays messages to the role's resident process."""
    return Node(role, {"role": role, "resident": str(socket)})


def start_residents(processes: Processes, plan: RunPlan, folder: Path, private: Path) -> None:
    """Start a process for each role, and wait until each role that the server asks is listening.

    Raises:
        RuntimeFailure: a process is not listening in time.
    """
    more = _for_parties(plan, private) if plan.backend.secure_sum.parties.meeting is not None else []
    started = {role: _start_resident(processes, plan, folder, role, more) for role in plan.members}
    ends = time.monotonic() + START_S
    for role in plan.backend.secure_sum.parties.roles:
        while not answers(keys.folder_of(folder, role) / SOCKET):
            processes.check()
            if time.monotonic() > ends:
                raise started[role].failure(f"does not listen after {START_S:.0f} s")
            time.sleep(POLL_S)


def _start_resident(processes: Processes, plan: RunPlan, folder: Path, role: Address, more: Sequence[str]) -> Process:
    own = str(keys.folder_of(folder, role))
    command = [sys.executable, "-P", "-m", "fl.runtimes.resident", role, "--keys", own, "--approve", plan.hash, *more]
    command += ["--relayed"] if plan.relayed else []
    return processes.start(role.replace("/", "-"), command, environment())


def _for_parties(plan: RunPlan, private: Path) -> list[str]:
    """Return the options of a party's process: parties meet before they receive a configuration, so it is in a file."""
    file = private / "configuration.json"
    file.write_text(plan.canonical)
    return ["--configuration", str(file), "--meet", str(private)]


def locate(grid: Grid, plan: RunPlan) -> Mapping[Address, int]:
    """Wait for the nodes of all clients and roles, and return them by the names under which their keys are registered.

    Raises:
        RuntimeFailure: a node is not online in time, or two nodes have the same name.
    """
    wanted = set(plan.asked)
    ends = time.monotonic() + NODES_TIMEOUT_S
    while missing := wanted - (nodes := _online(grid)).keys():
        if time.monotonic() > ends:
            first = min(missing)
            raise RuntimeFailure(
                f"{len(missing)} of {len(wanted)} SuperNodes are not online after {NODES_TIMEOUT_S:g} s, among them "
                f"{first}: register its key with `flwr supernode register KEY LINK --name {first}` and start it"
            )
        time.sleep(POLL_S)
    return {address: nodes[address] for address in wanted}


def _online(grid: Grid) -> dict[Address, int]:
    nodes: dict[Address, int] = {}
    for info in grid.get_nodes():
        if info.name in nodes:
            raise RuntimeFailure(f"two SuperNodes are registered as {info.name}: `flwr supernode unregister` one")
        if info.name:
            nodes[info.name] = info.node_id
    return nodes


def known(name: str) -> SuperLinkConnection:
    """Return the user's own SuperLink connection of that name.

    Raises:
        ConfigError: there is no such connection; the message lists the existing ones.
    """
    file = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "config.toml"
    connections = tomllib.loads(file.read_text()).get("superlink", {}) if file.is_file() else {}
    names = sorted(key for key, value in connections.items() if isinstance(value, dict))
    if name not in names:
        there = ", ".join(names) or "none"
        raise ConfigError.of("runtime.federation", name, f"must be a SuperLink connection of {file}, which has {there}")
    return SuperLinkConnection(name, environment(), elsewhere=True)


@contextmanager
def _folders(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Make a fresh folder for logs and, in it, a private one for keys and Flower's own files.

    The private folder is removed after the block.
    """
    logs = directory.resolve() / "deployment"
    private = logs / "private"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    private.mkdir(mode=0o700)
    try:
        yield logs, private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def write_app(private: Path, settings: Mapping[str, str], apps: str) -> tuple[Path, Path]:
    """Write an app without code, and its run configuration; return the app's folder and the configuration's file.

    The app is the same for every run, byte for byte, so Flower unpacks it once and its hash is known in advance.
    """
    folder = private / "app"
    run_config = private / "run.toml"
    flower = {
        "publisher": "fedveil",
        "components": {"serverapp": f"{apps}:server_app", "clientapp": f"{apps}:client_app"},
        "config": dict.fromkeys(settings, ""),
    }
    project = {"name": "fedveil", "version": "1.0.0", "description": "names installed apps", "license": "Apache-2.0"}
    folder.mkdir()
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flower}}}))
    run_config.write_text(tomli_w.dumps(settings))
    return folder, run_config


def submit(processes: Processes, link: SuperLinkConnection, app: tuple[Path, Path], echo: Echo | None = None) -> None:
    """Start a run and wait for its end; `echo` gets the ServerApp's output as it arrives.

    Raises:
        RuntimeFailure: the run's final status is not `completed`.
    """
    folder, run_config = app
    run_id = str(_flwr(processes, link, "run", str(folder), link.name, "--run-config", str(run_config))["run-id"])
    with _stopping(processes, link, run_id):
        status = _follow(processes, link, run_id, echo)
    if status["status"] != COMPLETED:
        log = processes.logs / "serverapp.log"
        why = " ".join(status["status-details"].split())
        raise RuntimeFailure(f"the run is {status['status']}: {why} (log: {log})")


@contextmanager
def _stopping(processes: Processes, link: SuperLinkConnection, run_id: str) -> Iterator[None]:
    """Stop the run where the block fails, on another machine's SuperLink; our own SuperLink ends with its runs."""
    try:
        yield
    except BaseException:
        if link.elsewhere:
            with suppress(RuntimeFailure):
                _flwr(processes, link, "stop", run_id, link.name)
        raise


def _follow(processes: Processes, link: SuperLinkConnection, run_id: str, echo: Echo | None) -> dict[str, Any]:
    """Return the status of a run after its end, and stream the ServerApp's log until then."""
    stream = [tool("flwr"), "log", run_id, link.name, "--stream"]
    while True:
        with suppress(RuntimeFailure):  # the stream may break; the status shows whether the run goes on
            processes.call("serverapp", stream, link.env, math.inf, echo)
        processes.check()
        status = _status(processes, link, run_id)
        if status["status"].startswith("finished"):
            return status


def _status(processes: Processes, link: SuperLinkConnection, run_id: str) -> dict[str, Any]:
    """Return the SuperLink's status of a run. A SuperLink on another machine may be unreachable for a while."""
    failures = 0
    while True:
        try:
            return cast(dict[str, Any], _flwr(processes, link, "ls", link.name, "--run-id", run_id)["runs"][0])
        except RuntimeFailure:
            failures += 1
            if not link.elsewhere or failures == PATIENCE:
                raise
        time.sleep(PAUSE_S)


def _flwr(processes: Processes, link: SuperLinkConnection, command: str, *arguments: str) -> dict[str, Any]:
    """Run a command of `flwr` and return its JSON answer, which also reports failures, with exit status 0.

    Raises:
        RuntimeFailure: the command failed.
    """
    name = f"flwr-{command}"
    output = processes.call(name, [tool("flwr"), command, *arguments, "--format", "json"], link.env, START_S)
    start = output.find("{")
    answer: dict[str, Any] = json.JSONDecoder().raw_decode(output[start:])[0] if start >= 0 else {}
    if not answer.get("success"):
        lines = str(answer.get("error-message", "it answered nothing")).strip().splitlines()
        raise RuntimeFailure(f"flwr {command} failed: {lines[-1]} (log: {processes.logs / name}.log)")
    return answer


def shown() -> Echo:
    """Return a function that prints the ServerApp's output without Flower's own lines.

    It prints until the app fails: the error message then gives the reason in one line.
    """
    failed = False

    def show(text: str) -> None:
        nonlocal failed
        for line in text.splitlines():
            failed = failed or line.startswith(FLOWERS_ERROR)
            if line.strip() and not failed and not FLOWERS_OWN.match(line):
                print(line, file=sys.stderr, flush=True)

    return show
