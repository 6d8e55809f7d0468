import json
from pathlib import Path

import pytest

from privacy.errors import ConfigError
from tests import recording
from tests.rooms import House, chosen, main, room_named, told

TREE = {
    "vault/__init__.py": "",
    "vault/lock.py": "",
    "vault/door.py": "def open():\n    from .lock import key\n",
    "vault/deep/__init__.py": "from ..door import open\n",
    "vault/deep/shaft.py": "from vault.deep import open\n",
    "yard/__init__.py": "",
    "yard/gate.py": "import importlib\nlock = importlib.import_module('vault.lock')\n",
    "yard/tree.py": "",
    "yard/runs/of_a_run.py": "import vault.lock\n",
    "tests/__init__.py": "",
    "tests/builders.py": "import vault.deep.shaft\n",
    "tests/test_walls.py": "import ast\n",
    "tests/test_far.py": "from tests import builders\n",
    "tests/vault/__init__.py": "",
    "tests/vault/test_lock.py": "import yard.tree\n",
    "tests/vault/test_door.py": "from vault import door\n",
    "tests/yard/__init__.py": "",
    "tests/yard/test_gate.py": "from yard.gate import lock\n",
    "tests/yard/test_tree.py": "import yard.tree as tree\n",
}

SETTINGS = """
[tool.ruff]
include = ["yard/tree.py"]
[tool.mypy]
files = ["yard/tree.py"]
strict = true
[tool.pytest.ini_options]
markers = ["slow: a", "ray: b", "deployment: c", "alone: d"]
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Two packages; the door needs the lock, the shaft needs the door, and the gate the lock."""
    for path, source in TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    return House(tmp_path)


def test_rooms_are_the_folders_and_modules_that_are_there(house):
    folders = ["vault", "vault/deep", "yard"]
    assert house.folders() == folders
    assert set(house.rooms) == {*folders, "vault/lock", "vault/door", "vault/deep/shaft", "yard/gate", "yard/tree"}


@pytest.mark.parametrize(
    ("room", "near"),
    [
        (
            "vault/lock",
            {"vault/test_lock": 0, "vault/test_door": 2, "yard/test_gate": 2, "test_far": 5, "test_walls": 1},
        ),
        ("vault/door", {"vault/test_door": 0, "test_far": 4, "test_walls": 1}),
        ("vault/deep", {"test_far": 2, "test_walls": 1}),
        ("vault", {"vault/test_lock": 0, "vault/test_door": 0, "yard/test_gate": 2, "test_far": 2, "test_walls": 1}),
        ("yard/tree", {"yard/test_tree": 0, "vault/test_lock": 1, "test_walls": 1}),
    ],
)
def test_a_rooms_tests_are_its_own_and_those_of_its_importers_by_distance(house, room, near):
    assert house.tests_of(room) == {f"tests/{name}.py": distance for name, distance in near.items()}


@pytest.mark.parametrize("text", ["vault/lock", "vault/lock.py", "./vault/lock"])
def test_a_room_is_named_as_a_path(house, text):
    assert room_named(text, house) == "vault/lock"


@pytest.mark.parametrize(("text", "room"), [("vault/shaft", "vault/deep/shaft"), ("deep", "vault/deep")])
def test_folders_may_be_left_out_of_a_room_where_one_room_is_meant(house: House, text: str, room: str) -> None:
    assert room_named(text, house) == room


@pytest.mark.parametrize("text", ["", "cellar", "vault/lo", "tests", "yard/runs", "/"])
def test_another_name_is_refused_in_one_line_that_names_the_rooms(house, text, capsys):
    with pytest.raises(ConfigError):
        room_named(text, house)
    assert main([text], house.root) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"ROOM={text}: allowed are vault, vault/deep, yard, or a module in one of them\n"


def test_the_nearest_come_first_then_the_quickest_and_what_does_not_fit_is_left_out():
    near = {"own slow": 0, "own": 0, "next slow": 1, "next": 1, "next long": 1, "far": 2}
    seconds = {"own slow": 20.0, "own": 4.0, "next slow": 3.0, "next": 2.0, "next long": 50.0, "far": 1.0}
    assert chosen(near, seconds, 100.0)[0] == ["own", "own slow", "next", "next slow", "next long", "far"]
    assert chosen(near, seconds, 30.0) == (["own", "own slow", "next", "next slow", "far"], ["next long"])
    assert chosen(near, seconds, 23.0) == (["own", "next", "next slow", "far"], ["own slow", "next long"])


def test_a_file_that_was_never_timed_counts_as_some_seconds():
    assert chosen({"new": 0, "newer": 0}, {}, 9.0) == (["new"], ["newer"])


def test_the_line_names_what_was_left_out_and_how_to_run_it():
    assert told(["tests/test_a.py", "tests/test_b.py"]) == (
        "Left out for time: tests/test_a.py, tests/test_b.py. `make test` runs all."
    )
    many = [f"tests/a/test_{number}.py" for number in range(7)] + ["tests/b/test_x.py", "tests/b/test_y.py"]
    assert told(many) == "Left out for time: 7 of tests/a, 2 of tests/b. `make test` runs all."
    assert told([]) == "No test file was left out."


def checked(house: House, body: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """The output of a check of a real room, after its exit status."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (house.root / "pyproject.toml").write_text(SETTINGS)
    (house.root / "yard" / "tree.py").write_text('"""Trees."""\n\nHEIGHT_M = 3\n')
    (house.root / "tests" / "yard" / "test_tree.py").write_text(body)
    (house.root / "tests" / "durations.json").write_text(json.dumps({"tests/vault/test_lock.py": 99.0}))
    status = main(["yard/tree", "--workers", "1"], house.root)
    return f"{status}\n{capfd.readouterr().out}"


TEST = "from yard.tree import HEIGHT_M\n\n\ndef test_height():\n    assert HEIGHT_M == {}\n"


def test_a_check_runs_style_types_and_the_rooms_tests(house, monkeypatch, capfd):
    said = checked(house, TEST.format(3), monkeypatch, capfd)
    assert said.startswith("0\n"), said
    assert "Success: no issues found in 1 source file" in said
    assert "1 passed" in said
    assert "Left out for time: tests/vault/test_lock.py. `make test` runs all.\n" in said
    assert said.endswith("s; nothing failed.\n")


def test_a_check_that_fails_says_in_which_step(house, monkeypatch, capfd):
    said = checked(house, TEST.format(4), monkeypatch, capfd)
    assert said.startswith("1\n")
    assert said.endswith("s; tests failed.\n")


def test_seconds_are_recorded_a_file_a_line_and_0_where_no_quick_test_is():
    text = recording.as_text(["tests/test_b.py", "tests/test_a.py"], {"tests/test_b.py": 1.26, "tests/gone.py": 9.0})
    assert text == '{\n "tests/test_a.py": 0.0,\n "tests/test_b.py": 1.3\n}\n'
