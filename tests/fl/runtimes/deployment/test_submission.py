"""The parts of a submission: the app, its log, the user's connections, ports, and the environment of Flower."""

import socket
from pathlib import Path

import pytest

from fl.runtimes import deployment
from fl.runtimes.deployment import known, write_app
from fl.runtimes.loopback import HOST, environment, free_ports
from privacy.errors import ConfigError
from tests.fl.runtimes.deployment.deployed import ECHO


def test_only_what_the_app_itself_wrote_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show = deployment.shown()
    show("Using SuperLink: fedveil (127.0.0.1:18000)\n\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\n")
    show("Successfully installed fedveil to /tmp.\nround 1: accuracy 0.5\n\n")
    show("\x1b[91mERROR \x1b[0m:     ServerApp raised an exception\nTraceback (most recent call last):\n")
    show("ValueError: no\n")
    assert capsys.readouterr() == ("", "round 1: accuracy 0.5\n")


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
