"""Parties of a deployment as separate processes: meeting, listening, parting, and refusals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl.config.identity import hash_of
from fl.keys import folders as keys
from fl.runtimes.relay import answers
from fl.runtimes.resident import main
from tests.composed import canonical

CONFIG = canonical(
    "secure_sum=crypten", "secure_sum.parties=2", "secure_sum/aggregate=median", "training.weighting=uniform"
)
HASH = hash_of(CONFIG)
CLIENTS = tuple(f"client/{client}" for client in range(4))
MEMBERS = ("party/0", "party/1", "dealer")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all roles, and the configuration."""
    root = tmp_path_factory.mktemp("parties")
    keys.make_all(root, (*CLIENTS, *MEMBERS))
    (root / "configuration.json").write_text(f"{CONFIG}\n")
    return root


def arguments(root: Path, role: str, approved: str = HASH) -> list[str]:
    return [role, "--keys", str(keys.folder_of(root, role)), "--approve", approved]


def start(root: Path, role: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fl.runtimes.resident", *arguments(root, role)]
    command += ["--configuration", str(root / "configuration.json"), "--meet", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.slow
def test_parties_meet_listen_and_part_and_their_dealer_ends_with_them(root: Path) -> None:
    processes = {role: start(root, role) for role in MEMBERS}
    try:
        said = {role: process.stdout.readline() for role, process in processes.items() if process.stdout is not None}
        assert said["dealer"] == f"dealer deals, for the configuration {HASH}\n"
        for role in MEMBERS[:2]:
            socket = keys.folder_of(root, role) / "socket"
            assert said[role] == f"{role} listens at {socket}, for the configuration {HASH}\n"
            assert answers(socket)
            processes[role].send_signal(signal.SIGTERM)
        ended = {role: (*process.communicate(timeout=60), process.returncode) for role, process in processes.items()}
        assert {role: status for role, (_, _, status) in ended.items()} == dict(
            zip(MEMBERS, (143, 143, 0), strict=True)
        ), ended
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("fedveil: error: ").rstrip("\n")


def test_a_party_needs_the_approved_configuration(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "configuration.json"
    told = refusal(capsys, arguments(root, "party/0"))
    assert told == "configuration=None: parties need the file that `fedveil configuration` prints"
    told = refusal(capsys, [*arguments(root, "party/0"), "--configuration", str(root / "none.json")])
    assert told == f"configuration={root / 'none.json'}: cannot be read (No such file or directory)"
    told = refusal(capsys, [*arguments(root, "dealer", "0" * 64), "--configuration", str(file)])
    assert told == f"configuration={file}: its hash is {HASH}, not the approved one"


def test_parties_must_know_where_to_meet(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, [*arguments(root, "party/0"), "--configuration", str(root / "configuration.json")])
    assert told == "secure_sum.rendezvous=null: parties meet at tcp://HOST:PORT, or in --meet FOLDER"


def test_who_has_no_part_in_the_configuration_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summed = canonical("secure_sum=crypten", "secure_sum.parties=2")
    (root / "sum.json").write_text(summed)
    told = refusal(capsys, [*arguments(root, "dealer", hash_of(summed)), "--configuration", str(root / "sum.json")])
    assert told == "role=dealer: secure_sum=crypten has no such party"
