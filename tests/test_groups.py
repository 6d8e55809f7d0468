import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import groups


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Three files with tests, two of which share a committee."""
    for name, test in {
        "one": "def test_one(tmp_path):",
        "two": "def test_two(\n    committee\n):",
        "three": "def test_three(x, three_parties):",
    }.items():
        (tmp_path / f"{name}.py").write_text(f"{test}\n    committee = 1\n")
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    groups.group_of.cache_clear()
    yield
    groups.group_of.cache_clear()


def items(*nodeids):
    return [SimpleNamespace(nodeid=nodeid) for nodeid in nodeids]


def test_a_file_is_a_group_and_those_that_share_a_committee_are_one(sources):
    assert [groups.group_of(f"{name}.py") for name in ("one", "two", "three")] == ["one.py", "committees", "committees"]


@pytest.mark.parametrize(("one_s", "first"), [(9.0, ["one.py::b", "one.py::a"]), (7.0, ["two.py::c", "three.py::d"])])
def test_the_longest_group_comes_first_and_its_tests_in_their_order(sources, one_s, first):
    collected = items("two.py::c", "one.py::b", "three.py::d", "one.py::a")
    ordered = groups.longest_first(collected, {"one.py": one_s, "two.py": 4.0, "three.py": 4.0})
    assert [item.nodeid for item in ordered[:2]] == first
    assert len(ordered) == 4


CONFTEST = """
from pathlib import Path
import pytest
from tests import groups
from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler

groups.ROOT = Path(__file__).parent

@pytest.fixture(scope="module")
def made(request):
    with (groups.ROOT / f"{request.module.__name__}.made").open("a") as file:
        file.write("x")
"""
MANY = """
import pytest

@pytest.mark.parametrize("n", range(30))
def test_it(n, made): ...
"""


@pytest.mark.slow
def test_what_a_file_shares_is_made_once_on_two_workers(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("test_a", "test_b", "test_c"):
        (tmp_path / f"{name}.py").write_text(MANY)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command += ["-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    done = subprocess.run(command, cwd=groups.ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "90 passed" in done.stdout, done.stdout + done.stderr
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.made")} == {f"test_{name}": "x" for name in "abc"}
