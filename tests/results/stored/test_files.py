import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import RunRefused
from results import files


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


# Killed with the new bytes written, before they take the old ones' place.
KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from results import files

os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
files.write_text(Path(sys.argv[1]), "new")
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    leftovers = [entry for entry in tmp_path.iterdir() if entry != path]
    assert [entry.read_text() for entry in leftovers] == ["new"]


def test_replacing_syncs_the_file_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace = files.os.replace
    fsync = files.os.fsync
    kinds = {True: "folder", False: "file"}
    monkeypatch.setattr(files.os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    monkeypatch.setattr(
        files.os,
        "fsync",
        lambda fd: (calls.append(kinds[Path(f"/proc/self/fd/{fd}").resolve().is_dir()]), fsync(fd)),
    )
    files.write_text(tmp_path / "state", "text")
    assert calls == ["file", "rename", "folder"]


def test_json_is_valid_whatever_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    odd = {"nan": float("nan"), "inf": [np.float32("inf"), -np.inf], "f": np.float64(0.25), "i": np.int64(3), "b": True}
    files.write_json(path, odd | {"path": Path("a/b"), "none": None, "nested": {1: (1, 2)}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(path.read_text(), parse_constant=refuse)
    expected = {"nan": None, "inf": [None, None], "f": 0.25, "i": 3, "b": True}
    assert values == expected | {"path": "a/b", "none": None, "nested": {"1": [1, 2]}}
    assert values["b"] is True


def test_json_refuses_what_has_no_form_in_it(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="set"):
        files.write_json(tmp_path / "values.json", {"a": {1}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"status": "fin', b"[1]", b"\xff\xfe"])
def test_damaged_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(RunRefused) as refusal:
        files.read_json(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "force=true" in str(refusal.value)


def test_absent_json_is_none(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "status.json") is None
