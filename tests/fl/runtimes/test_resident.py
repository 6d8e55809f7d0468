"""A role's own process, asked over its socket as by its SuperNode: valid and invalid requests, and its death."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

from fl.apps import answer
from fl.config.identity import hash_of
from fl.keys import folders as keys
from fl.runtimes.relay import MAX_BYTES, answers, relay
from fl.runtimes.resident import listening, main
from fl.transport import ADDRESS, ENVELOPE, FAILURE, RESIDENT, ROLE, pack, unpack
from privacy.errors import ConfigError, RuntimeFailure
from privacy.randomness import OsRandomness
from privacy.sealing import Header, Identity, Roster, open_box
from privacy.secure_sums.signed_replies import reply_header, verified
from tests.composed import canonical

CONFIG = canonical("secure_sum=ckks", "clients=2")
HASH = hash_of(CONFIG)
RELAYED = ("secure_sum=ckks", "clients=2", "runtime=deployment", "runtime.federation=lab", "runtime.roster=relayed")
EVERYBODY = ("client/0", "client/1", "keyholder")


def start(folder: Path, *more: str, approve: str = HASH) -> "subprocess.Popen[str]":
    """Start the command as its user does, and wait until it listens."""
    command = [sys.executable, "-m", "fl.runtimes.resident", "keyholder", "--keys", str(folder), "--approve", approve]
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("keyholder listens at "), process.communicate()
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("roles")
    keys.make_all(root, EVERYBODY)
    return {address: keys.folder_of(root, address) for address in EVERYBODY}


@pytest.fixture(scope="module")
def resident(folders: dict[str, Path]) -> Iterator["subprocess.Popen[str]"]:
    process = start(folders["keyholder"])
    yield process
    assert process.poll() is None, "it did not outlive its tests"
    end(process)


@pytest.fixture
def path(folders: dict[str, Path], resident: object) -> Path:
    return folders["keyholder"] / "socket"


def asking(config: str = CONFIG, address: str = "keyholder", stage: str = "keys", attempt: str = "first") -> RecordDict:
    """A message of the server."""
    envelope = {"run": hash_of(config), "round": 0, "attempt": attempt, "stage": stage, "config": config}
    content = RecordDict({ENVELOPE: ConfigRecord(envelope), ADDRESS: ConfigRecord({"address": address})})
    content["scalars"] = ConfigRecord({"clients": "client/0,client/1"})
    return content


def through_supernode(content: RecordDict, context: Context) -> RecordDict:
    """The reply of a SuperNode's ClientApp; Flower tells the process of one which task it runs."""
    TaskIdentity.run_id = 1
    TaskIdentity.node_id = context.node_id
    TaskIdentity.task_id = 1
    return answer(Message(content, context.node_id, "train"), context).content


def failure_of(content: RecordDict) -> tuple[object, object]:
    assert set(content) == {FAILURE}
    return content[FAILURE]["type"], content[FAILURE]["message"]


def test_it_answers_with_the_roles_keys(folders: dict[str, Path], path: Path) -> None:
    content = relay(path, "keyholder", asking())
    roster = keys.read_roster(folders["client/0"] / "roster.json")
    records = verified(unpack(content), roster, reply_header(HASH, 0, "first", "keys", "keyholder"))
    own = keys.deployed(folders["client/1"], "client/1", EVERYBODY, HASH)
    box = Header("key", HASH, 0, "first", "", "keyholder", "client/1")
    parcel = open_box(own.identity, own.roster, box, records["client/1"])
    store = folders["keyholder"] / "runs" / HASH
    assert parcel == (store / "he.check").read_bytes() + (store / "he.public").read_bytes()
    for secret in ("he.secret", "he.check"):
        assert stat.S_IMODE((store / secret).stat().st_mode) == 0o600
        assert (store / secret).read_bytes() not in [bytes(value) for value in records.values()]


def test_its_supernode_passes_on_without_looking(path: Path) -> None:
    context = Context(1, 7, {ROLE: "keyholder", RESIDENT: str(path)}, RecordDict(), {})
    direct = relay(path, "keyholder", asking())
    relayed = through_supernode(asking(), context)
    assert set(unpack(relayed)) == set(unpack(direct)) == {"client/0", "client/1", "signature"}
    assert not context.state


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"config": canonical("secure_sum=ckks", "clients=2", "seed=2")}, "ConfigError", "refuses the configuration"),
        ({"address": "client/0"}, "ProtocolError", "a message for client/0 came to keyholder"),
        ({"stage": "dance"}, "ProtocolError", "no stage is called dance"),
        ({"stage": "collect"}, "ProtocolError", "None is not the opener"),
    ],
)
def test_it_refuses_what_every_node_refuses(path: Path, changes: dict[str, str], kind: str, message: str) -> None:
    found = failure_of(relay(path, "keyholder", asking(**changes)))
    assert found[0] == kind
    assert message in str(found[1])


def connect(path: Path) -> socket.socket:
    """Connect with independent code."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    before = Path.cwd()
    os.chdir(path.parent)  # the name alone is short enough
    try:
        connection.connect(path.name)
    finally:
        os.chdir(before)
    return connection


GOOD = recorddict_to_proto(asking()).SerializeToString()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ((2**63).to_bytes(8, "big"), f"is longer than {MAX_BYTES}"),
        (b"\xff" * 8, f"is longer than {MAX_BYTES}"),
        ((100).to_bytes(8, "big") + b"\xff" * 100, "100 bytes are not records"),
        (len(GOOD[:-1]).to_bytes(8, "big") + GOOD[:-1], "are not records"),
        (bytes(8), "a message without an envelope or an address"),
    ],
)
def test_what_does_not_parse_is_refused(path: Path, sent: bytes, reason: str) -> None:
    with connect(path) as connection:
        connection.sendall(sent)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    assert int.from_bytes(answer[:8], "big") == len(answer) - 8
    assert reason.encode() in answer
    assert answers(path)


@pytest.mark.parametrize("sent", [b"", b"\0\0", (1000).to_bytes(8, "big") + b"x", len(GOOD).to_bytes(8, "big") + GOOD])
def test_who_leaves_early_harms_nobody(path: Path, sent: bytes) -> None:
    with connect(path) as connection:
        connection.sendall(sent)
    assert failure_of(relay(path, "keyholder", asking(stage="dance")))


def test_an_announced_length_takes_no_memory(path: Path, resident: "subprocess.Popen[str]") -> None:
    relay(path, "keyholder", asking())
    process = psutil.Process(resident.pid)
    before = process.memory_info().vms
    with connect(path) as connection:
        connection.sendall((2**31 - 1).to_bytes(8, "big") + bytes(1000))
        time.sleep(0.2)
        assert process.memory_info().vms - before < 2**27


def test_two_do_not_share_a_socket(path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keyholder", "--keys", str(folders["keyholder"]), "--approve", HASH]) == 2
    assert "another process listens there" in capsys.readouterr().err
    assert answers(path)


def test_nobody_is_there(tmp_path: Path) -> None:
    why = r"^the process of keyholder does not answer at .*/socket: start `python -m fl\.runtimes\.resident keyholder`$"
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RuntimeFailure, match=why):
            relay(place / "socket", "keyholder", asking())
    context = Context(1, 7, {ROLE: "keyholder", RESIDENT: str(tmp_path / "socket")}, RecordDict(), {})
    assert failure_of(through_supernode(asking(), context))[0] == "RuntimeFailure"


def test_a_path_may_be_long_and_what_was_left_behind_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    (folder / "socket").touch()
    with listening(folder / "socket"):
        assert answers(folder / "socket")
        assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o660
        with pytest.raises(ConfigError, match=r"another process listens there"), listening(folder / "socket"):
            pass
    assert not (folder / "socket").exists()
    with pytest.raises(ConfigError, match=r"cannot be made \(No such file"), listening(tmp_path / "none" / "socket"):
        pass


TAKES_IT_AND_DIES = """
import os, signal, socket, sys
socket.socket(fileno=int(sys.argv[1])).accept()[0].recv(10)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_one_that_dies_while_it_answers_is_named(tmp_path: Path) -> None:
    with listening(tmp_path / "socket") as listener:
        command = [sys.executable, "-c", TAKES_IT_AND_DIES, str(listener.fileno())]
        child = subprocess.Popen(command, pass_fds=[listener.fileno()])
        with pytest.raises(RuntimeFailure, match=r"^the process of keyholder died$"):
            relay(tmp_path / "socket", "keyholder", asking())
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("keyholder", "--approve", "abc"), "approve=abc: must be the hash that `fedveil hash` prints"),
        (("party/0", "--approve", HASH), "party/0 is not on it"),
        (("client/0", "--approve", HASH), "its keys are not those of client/0"),
    ],
)
def test_arguments_that_will_not_do(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    assert main([*arguments, "--keys", str(folders["keyholder"])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err


def test_keys_are_made_where_the_roster_comes_through_the_server(tmp_path: Path) -> None:
    config = canonical(*RELAYED)
    folder = tmp_path / "own"
    process = start(folder, "--relayed", approve=hash_of(config))
    try:
        secret = (folder / "identity.key").read_bytes()
        kind, why = failure_of(relay(folder / "socket", "keyholder", asking(config)))
        assert (kind, why) == (
            "PrivacyRefusal",
            "keyholder has no roster of this configuration: it accepted none at set-up",
        )
        said = unpack(relay(folder / "socket", "keyholder", asking(config, stage="introduce")))
        clients = {address: Identity.generate(OsRandomness()).public for address in EVERYBODY[:2]}
        own = Roster.from_bytes(bytes(said["keys"]))
        assert own["keyholder"] == Identity.from_bytes(secret).public
        roster = Roster({**clients, "keyholder": own["keyholder"]})
        handed = asking(config, stage="roster")
        handed.update(pack({"roster": roster.to_bytes()}))
        assert set(unpack(relay(folder / "socket", "keyholder", handed))) == {"signature"}
        assert set(unpack(relay(folder / "socket", "keyholder", asking(config)))) == {*clients, "signature"}
    finally:
        end(process)
    assert (folder / "identity.key").read_bytes() == secret


def test_without_a_roster_it_does_not_start_where_one_is_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.make(tmp_path / "own", "keyholder")
    assert main(["keyholder", "--keys", str(tmp_path / "own"), "--approve", HASH]) == 2
    assert "roster.json: cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_or_stopped_it_makes_room_for_the_next(tmp_path: Path) -> None:
    keys.make_all(tmp_path / "roles", EVERYBODY)
    folder = tmp_path / "roles" / "keyholder"
    path = tmp_path / "elsewhere"
    first = start(folder, "--socket", str(path))
    end(first)
    assert path.exists()
    with pytest.raises(RuntimeFailure, match="does not answer"):
        relay(path, "keyholder", asking())
    second = start(folder, "--socket", str(path))
    assert "client/0" in unpack(relay(path, "keyholder", asking()))
    second.terminate()
    _, complaint = second.communicate(timeout=20)
    assert (second.returncode, complaint) == (128 + signal.SIGTERM, "")
    assert not path.exists()
