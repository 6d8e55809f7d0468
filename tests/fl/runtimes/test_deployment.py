"""A real SuperLink with real SuperNodes: runs, authentication, and the end of all processes however the parent ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fl.plan import RunPlan
from fl.runtimes import certificates, deployment, loopback
from fl.runtimes.certificates import Certificates, make_node_key
from fl.runtimes.deployment import client_node, known, submit, write_app
from fl.runtimes.loopback import (
    HOST,
    SuperLinkConnection,
    environment,
    free_ports,
    superlink,
    superlink_command,
    supernode_command,
)
from fl.runtimes.processes import Processes, last_error
from privacy.errors import ConfigError, RuntimeFailure

ROOT = Path(__file__).parents[3]
ECHO = "tests.fl.runtimes.echo_apps"
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


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PYTHONPATH", str(ROOT))  # the echo apps are no part of the installed package
        yield start(stack, tmp_path_factory.mktemp("deployed"))


@pytest.mark.deployment
def test_a_run_reaches_every_client_in_a_process_of_its_own(deployed: Deployment, tmp_path: Path) -> None:
    seen = deployed.run(tmp_path)
    assert seen["text"] == TEXT
    assert sorted(seen["nodes"]) == ["client/0", "client/1"]
    assert sorted((said["partition"], said["approved"]) for said in seen["said"]) == [(0, APPROVED), (1, APPROVED)]
    assert len({os.getpid(), *(said["process"] for said in seen["said"])}) == 1 + NODES
    assert seen["home"] == str(deployed.private / "superlink")


@pytest.mark.slow
@pytest.mark.deployment
def test_a_failed_run_fails_with_its_reason_though_flwr_exits_with_0(deployed: Deployment, tmp_path: Path) -> None:
    heard: list[str] = []
    app = write_app(tmp_path, settings(tmp_path, rounds=0, fail="the budget\nis spent"), ECHO)
    with pytest.raises(RuntimeFailure) as caught:
        submit(deployed.processes, deployed.link, app, heard.append)
    log = deployed.processes.logs / "serverapp.log"
    assert str(caught.value) == (
        f"the run is finished:failed: ServerApp failed with exception: the budget is spent (log: {log})"
    )
    assert "all nodes are here" in log.read_text()
    assert "Traceback" in log.read_text()
    assert "".join(heard) == log.read_text()


def test_only_what_the_app_itself_wrote_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show = deployment.shown()
    show("Using SuperLink: fedveil (127.0.0.1:18000)\n\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\n")
    show("Successfully installed fedveil to /tmp.\nround 1: accuracy 0.5\n\n")
    show("\x1b[91mERROR \x1b[0m:     ServerApp raised an exception\nTraceback (most recent call last):\n")
    show("ValueError: no\n")
    assert capsys.readouterr().out == "round 1: accuracy 0.5\n"


@pytest.mark.slow
@pytest.mark.deployment
def test_an_interrupted_run_is_stopped_on_a_superlink_elsewhere(deployed: Deployment, tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        if "all nodes are here" in text:
            raise KeyboardInterrupt

    app = write_app(tmp_path, settings(tmp_path, sleep_s=600), ECHO)
    with pytest.raises(KeyboardInterrupt):
        submit(deployed.processes, replace(deployed.link, elsewhere=True), app, interrupt)
    [latest, *_] = deployment._flwr(deployed.processes, deployed.link, "ls", "fedveil", "--limit", "1")["runs"]
    assert latest["status"] == "finished:stopped"


@pytest.mark.slow
@pytest.mark.deployment
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("unregistered", "Failed to activate SuperNode"),
        ("keyless", "SuperNode authentication is enabled"),
        ("distrustful", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_a_supernode_is_refused(case: str, reason: str, deployed: Deployment, tmp_path: Path) -> None:
    make_node_key(tmp_path / "node.key")
    with free_ports(1) as (port,):
        command = supernode_command(
            deployed.port, port, deployed.certificates, tmp_path / "node.key", client_node(9, APPROVED)
        )
        if case != "unregistered":
            start = command.index("--auth-supernode-private-key" if case == "keyless" else "--root-certificates")
            del command[start : start + 2]
        with Processes(tmp_path) as processes, pytest.raises(RuntimeFailure, match="ended with status 1"):
            processes.call("supernode", command, environment(tmp_path / "home"), 60)
    assert reason in last_error(tmp_path / "supernode.log")


@pytest.mark.slow
@pytest.mark.deployment
def test_an_expired_certificate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joining SuperNode names it; a submission of a run only fails for lack of a connection."""

    class Past(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Past":
            return super().now(tz) - timedelta(days=40)

    monkeypatch.setattr(certificates, "datetime", Past)
    expired = certificates.make_certificates(tmp_path, days=30)
    make_node_key(tmp_path / "node.key")
    (tmp_path / "link").mkdir()
    with free_ports(2) as (port, own_port), Processes(tmp_path) as processes:
        link = SuperLinkConnection("fedveil", environment(tmp_path / "link"))
        loopback._write_connection(tmp_path / "link", link.name, port, expired)
        processes.start("superlink", superlink_command(port, expired), link.env)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                break
            time.sleep(0.1)
        command = supernode_command(port, own_port, expired, tmp_path / "node.key", client_node(0, APPROVED))
        with pytest.raises(RuntimeFailure, match=r"supernode .*: certificate has expired"):
            processes.call("supernode", command, environment(tmp_path / "home"), 60)
        with pytest.raises(RuntimeFailure, match="flwr ls failed: Connection to the SuperLink is unavailable"):
            deployment._flwr(processes, link, "ls", link.name)


@pytest.mark.deployment
def test_the_superlink_speaks_nothing_but_tls(deployed: Deployment) -> None:
    with socket.create_connection((HOST, deployed.port), timeout=5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"200" not in plain.recv(1000)


# ---- The end of a deployment

PARENT = """
import signal, sys
from contextlib import ExitStack, suppress
from pathlib import Path
from fl.runtimes.deployment import submit, write_app
from tests.fl.runtimes.test_deployment import ECHO, settings, start

signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
with ExitStack() as stack:
    deployed = start(stack, folder)
    submit(deployed.processes, deployed.link, write_app(folder, settings(folder, sleep_s=600), ECHO))
"""


@pytest.fixture
def parents(tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Two processes that each have a deployment, at the same time."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    found: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("killed", "interrupted"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", PARENT, str(tmp_path / name)]
        found[name] = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    yield found
    for parent in found.values():
        parent.kill()
        parent.communicate()


def tree_when_running(folder: Path, parent: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes of a parent, once its ServerApp has replies from every client and sleeps."""
    ends = time.monotonic() + 120
    while not (folder / "seen.json").exists():
        assert parent.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.1)
    return psutil.Process(parent.pid).children(recursive=True)


# One SuperExec beside the SuperLink and each SuperNode.
EVERYTHING = Counter(
    {"flower-superlink": 1, "flower-supernode": NODES, "flower-superexec": 1 + NODES, "flwr-serverapp": 1}
)


def program(process: psutil.Process) -> str | None:
    """The program of a process; None once it has ended, also where its SuperExec has not noticed yet."""
    with suppress(psutil.NoSuchProcess):
        words = [Path(word).name for word in process.cmdline()]
        return next(word for word in words if not word.startswith(("python", "-")))
    return None


@pytest.mark.slow
@pytest.mark.deployment
def test_nothing_outlives_a_parent_that_is_killed_or_interrupted(
    parents: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    trees = {name: tree_when_running(tmp_path / name, parent) for name, parent in parents.items()}
    for tree in trees.values():
        assert Counter(filter(None, map(program, tree))) >= EVERYTHING
    parents["killed"].kill()
    assert not psutil.wait_procs(trees["killed"], timeout=10)[1]
    assert all(process.is_running() for process in trees["interrupted"])
    parents["interrupted"].send_signal(signal.SIGINT)
    _, complaint = parents["interrupted"].communicate(timeout=10)
    assert complaint.endswith(b"KeyboardInterrupt\n")
    assert not psutil.wait_procs(trees["interrupted"], timeout=0)[1]


@pytest.mark.slow
@pytest.mark.deployment
def test_a_superlink_that_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    others = set(psutil.Process().children(recursive=True))
    with ExitStack() as stack:
        deployed = start(stack, tmp_path)
        tree = [process for process in psutil.Process().children(recursive=True) if process not in others]
        [process] = [process for process in tree if program(process) == "flower-superlink"]
        process.kill()
        with pytest.raises(RuntimeFailure, match=r"superlink ended with status 137: .* \(log: .*superlink.log\)"):
            deployed.run(tmp_path)
    assert not psutil.wait_procs(tree, timeout=0)[1]


# ---- Parts


class Nodes:
    """The part of Flower's grid that lists the online nodes, changing over time."""

    def __init__(self, *times: dict[int, str]) -> None:
        self._times = list(times)

    def get_nodes(self) -> list[NodeInfo]:
        online = self._times.pop(0) if len(self._times) > 1 else self._times[0]
        return [NodeInfo(node_id=node_id, name=name) for node_id, name in online.items()]


def locate(nodes: Nodes, clients: int, *roles: str) -> dict[str, int]:
    everybody = (*(f"client/{client}" for client in range(clients)), *roles)
    plan = SimpleNamespace(asked=everybody)
    return dict(deployment.locate(cast(Grid, nodes), cast(RunPlan, plan)))


def test_clients_are_located_by_the_names_of_their_keys_once_all_are_online() -> None:
    nodes = Nodes({}, {7: "client/1"}, {7: "client/1", 9: "client/0", 3: "", 4: "keyholder"})
    assert locate(nodes, 2) == {"client/0": 9, "client/1": 7}


def test_a_role_is_waited_for_like_a_client() -> None:
    nodes = Nodes({9: "client/0"}, {9: "client/0", 5: "party/0"}, {9: "client/0", 5: "party/0", 4: "keyholder"})
    assert locate(nodes, 1, "keyholder") == {"client/0": 9, "keyholder": 4}


def test_a_client_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "NODES_TIMEOUT_S", 0.0)
    with pytest.raises(RuntimeFailure, match=r"2 of 3 SuperNodes are not online after 0 s, among them client/1"):
        locate(Nodes({7: "client/0"}), 3)
    with pytest.raises(RuntimeFailure, match=r"1 of 2 SuperNodes are not online .* --name keyholder` and start it"):
        locate(Nodes({7: "client/0"}), 1, "keyholder")


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(RuntimeFailure, match="two SuperNodes are registered as client/0"):
        locate(Nodes({7: "client/0", 8: "client/0"}), 1)


def test_the_app_is_the_same_for_every_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    apps = [write_app(tmp_path / name, {"config": name, "directory": name}, ECHO)[0] for name in ("a", "b")]
    files = [{path.name: path.read_bytes() for path in app.rglob("*")} for app in apps]
    assert files[0] == files[1]
    assert list(files[0]) == ["pyproject.toml"]


def test_ports_are_distinct_and_kept_and_still_open_to_a_server() -> None:
    with free_ports(3) as ports:
        assert len(set(ports)) == 3
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((HOST, ports[0]))
        with socket.create_server((HOST, ports[0])) as server:  # it sets SO_REUSEADDR, like uvicorn
            socket.create_connection((HOST, ports[0]), timeout=5).close()
            server.accept()[0].close()


def test_a_connection_of_the_users_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(
        '[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "example.org:8000"\n'
    )
    link = known("lab")
    assert (link.name, link.elsewhere, link.env["FLWR_HOME"]) == ("lab", True, str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"runtime.federation=ward: must be a SuperLink connection of .*, which has lab"
    ):
        known("ward")


def test_without_any_connection_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="which has none"):
        known("lab")


def test_flower_neither_calls_home_nor_installs_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    env = environment(tmp_path / "home")
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["FLWR_HOME"] == str(tmp_path / "home")
    assert HOST in env["NO_PROXY"]
