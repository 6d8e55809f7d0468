"""Keys of a deployment: a folder for each role, and a roster for all."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fl.keys import folders as keys
from privacy.errors import ConfigError
from privacy.sealing import Header, Roster
from tests.scenery.paths import some

EVERYBODY = ("client/0", "client/1", "keyholder")
RUN = "ab" * 32


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The folders of the roles of a small deployment."""
    keys.make_all(tmp_path / "all", EVERYBODY)
    return {address: tmp_path / "all" / address.replace("/", "-") for address in EVERYBODY}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one-line error of a refused command."""
    assert keys.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("fedveil: error: ").rstrip("\n")


def public_line(capsys: pytest.CaptureFixture[str], folder: Path, address: str) -> str:
    assert keys.main(["make", str(folder), address]) == 0
    return capsys.readouterr().out


def test_a_role_makes_keys_that_nobody_else_can_read_and_tells_the_public_ones(tmp_path, capsys):
    line = public_line(capsys, tmp_path / "own", "client/3")
    assert (mode(tmp_path / "own"), mode(tmp_path / "own" / "identity.key")) == (0o700, 0o600)
    secret = (tmp_path / "own" / "identity.key").read_bytes()
    assert len(secret) == 64
    public = keys.own_identity(tmp_path / "own").public
    assert json.loads(line) == {"client/3": [public.signing.hex(), public.exchange.hex()]}
    assert line.count("\n") == 1
    assert not any(part.hex() in line for part in (secret[:32], secret[32:]))


def test_keys_are_never_made_twice(tmp_path, capsys):
    public_line(capsys, tmp_path, "client/3")
    before = (tmp_path / "identity.key").read_bytes()
    assert error_of(capsys, "make", tmp_path, "client/4").startswith(f"keys={tmp_path}: has keys already")
    assert (tmp_path / "identity.key").read_bytes() == before


@pytest.mark.parametrize("address", ["server", "", "Client/0", "client/01", "client/-1", "../x", "client/0/1"])
def test_what_is_no_role_makes_no_keys(tmp_path, capsys, address):
    assert error_of(capsys, "make", tmp_path / "own", address).startswith(f"address={address}: must be a role's")
    assert not (tmp_path / "own").exists()


def test_an_open_folder_is_refused(tmp_path, capsys):
    (tmp_path / "own").mkdir(mode=0o755)
    assert "is open to others (mode 0755)" in error_of(capsys, "make", tmp_path / "own", "client/0")
    assert not any((tmp_path / "own").iterdir())


def test_a_roster_has_everybodys_public_lines_and_its_hash_is_that_of_its_file(tmp_path, capsys):
    files = []
    for address in EVERYBODY:
        files.append(tmp_path / f"{address.replace('/', '-')}.pub")
        files[-1].write_text(public_line(capsys, tmp_path / address, address))
    assert keys.main(["roster", str(tmp_path / "roster.json"), *map(str, files)]) == 0
    digest, name = capsys.readouterr().out.split()
    assert (digest, name) == (
        hashlib.sha256((tmp_path / "roster.json").read_bytes()).hexdigest(),
        f"{tmp_path}/roster.json",
    )
    roster = keys.read_roster(tmp_path / "roster.json")
    assert {a: roster[a] for a in EVERYBODY} == {a: keys.own_identity(tmp_path / a).public for a in EVERYBODY}
    files[0].write_text("".join(file.read_text() for file in files))
    assert keys.gather(files[:1]).to_bytes() == roster.to_bytes(), "several lines of one file are as good"


def test_a_roster_of_what_is_none_is_refused(tmp_path, capsys):
    line = public_line(capsys, tmp_path / "own", "client/0")
    good = tmp_path / "good.pub"
    bad = tmp_path / "bad.pub"
    out = tmp_path / "roster.json"
    good.write_text(line)
    bad.write_text("ssh-ed25519 AAAA me@here\n")
    for files, complaint in (
        ((good, good), f"public={good}: client/0 occurs twice"),
        ((good, bad), f"public={bad}: roster=24 bytes: is not a roster"),
        ((tmp_path / "none.pub",), f"public={tmp_path}/none.pub: cannot be read (No such file or directory)"),
    ):
        assert error_of(capsys, "roster", out, *files).startswith(complaint)
    bad.write_text(line.replace("client/0", "client/1"))
    assert "client/1: has a key of client/0" in error_of(capsys, "roster", out, good, bad)
    assert not out.exists()


def test_roles_find_in_their_folders_what_they_need_to_work_together(folders):
    one, other = (keys.deployed(folders[a], a, EVERYBODY, RUN) for a in ("client/0", "keyholder"))
    header = Header("mask", RUN, 1, "a", "", "client/0", "keyholder")
    shared = one.identity.shared(one.roster["keyholder"], header, b"salt")
    assert shared == other.identity.shared(other.roster["client/0"], header, b"salt")
    assert one.identity.to_bytes() != other.identity.to_bytes()


def test_what_a_role_stores_is_kept_by_configuration_and_for_itself(folders):
    one = keys.deployed(folders["client/0"], "client/0", EVERYBODY, RUN)
    one.store.put("he.secret", b"secret")
    assert one.store.claim("opened")
    again = keys.deployed(folders["client/0"], "client/0", EVERYBODY, RUN).store
    assert again.get("he.secret") == b"secret"
    assert not again.claim("opened")
    assert keys.deployed(folders["client/0"], "client/0", EVERYBODY, "cd" * 32).store.get("he.secret") is None
    for path in some(folders["client/0"].rglob("*")):
        assert mode(path) & 0o077 == 0, path


def spoil(folder: Path, how: str) -> None:
    if how == "no keys":
        (folder / "identity.key").unlink()
    elif how == "no folder":
        folder.rename(folder.with_name("elsewhere"))
    elif how == "no roster":
        (folder / "roster.json").unlink()
    elif how == "open folder":
        folder.chmod(0o750)
    elif how == "open key":
        (folder / "identity.key").chmod(0o604)
    elif how == "short key":
        (folder / "identity.key").write_bytes(bytes(63))
    elif how == "damaged roster":
        (folder / "roster.json").write_bytes(b"{}\n")
    else:
        other = keys.make(folder.with_name("other"), "client/0")
        mine = keys.read_roster(folder / "roster.json")
        swapped = Roster({address: (other if address == "client/0" else mine)[address] for address in mine})
        (folder / "roster.json").write_bytes(swapped.to_bytes())


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("no keys", r"^keys={own}/identity\.key: cannot be read \(No such file or directory\)"),
        ("no folder", r"^keys={own}: cannot be read \(No such file or directory\)"),
        ("no roster", r"^roster={own}/roster\.json: cannot be read"),
        ("open folder", r"^keys={own}: is open to others \(mode 0750\); close it with `chmod go= {own}`$"),
        ("open key", r"^keys={own}/identity\.key: is open to others \(mode 0604\)"),
        ("short key", r"^keys={own}/identity\.key: is damaged: it must hold 64 bytes$"),
        ("damaged roster", r"^roster={own}/roster\.json: roster=3 bytes: is not in the canonical form"),
        ("swapped", r"^keys={own}: its keys are not those of client/0 on the roster"),
    ],
)
def test_a_folder_that_will_not_do_is_refused_in_one_line(folders, how, complaint):
    own = folders["client/0"]
    spoil(own, how)
    with pytest.raises(ConfigError, match=complaint.format(own=own)):
        keys.deployed(own, "client/0", EVERYBODY, RUN)


def test_a_roster_must_have_everybody_and_oneself(folders):
    with pytest.raises(ConfigError, match=r"^roster=[0-9a-f]{64}: client/2 is not on it"):
        keys.deployed(folders["client/0"], "client/0", (*EVERYBODY, "client/2"), RUN)
    with pytest.raises(ConfigError, match=r"^roster=[0-9a-f]{64}: client/9 is not on it"):
        keys.deployed(folders["client/0"], "client/9", EVERYBODY, RUN)


def test_keys_that_are_there_stay(tmp_path):
    first = keys.make_all(tmp_path, EVERYBODY)
    more = keys.make_all(tmp_path, (*EVERYBODY, "party/0"))
    assert {address: more[address] for address in first} == {address: first[address] for address in first}
    assert (tmp_path / "client-0" / "roster.json").read_bytes() == more.to_bytes()


def test_the_command_as_its_user_has_it(tmp_path):
    command = [sys.executable, "-m", "fl.keys", "make", "keys-0", "client/0"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert Roster.from_bytes(done.stdout.strip().encode())["client/0"] == keys.own_identity(tmp_path / "keys-0").public
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (2, "", 1)


def test_what_is_added_is_never_replaced(tmp_path):
    store = keys.FileStore(tmp_path / "own")
    assert store.add("identity.key", b"first")
    assert not store.add("identity.key", b"second")
    assert store.get("identity.key") == b"first"
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["identity.key"]
    assert mode(tmp_path / "own" / "identity.key") == 0o600
