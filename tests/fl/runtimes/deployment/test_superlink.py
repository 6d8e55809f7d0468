"""A real SuperLink with real SuperNodes: runs, their failures, authentication, and TLS."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from fl.runtimes import certificates, deployment, loopback
from fl.runtimes.certificates import make_node_key
from fl.runtimes.deployment import client_node, submit, write_app
from fl.runtimes.loopback import (
    HOST,
    SuperLinkConnection,
    environment,
    free_ports,
    superlink_command,
    supernode_command,
)
from fl.runtimes.processes import Processes, last_error
from privacy.errors import RuntimeFailure
from tests.fl.runtimes.deployment.deployed import APPROVED, ECHO, NODES, ROOT, TEXT, Deployment, settings, start


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
