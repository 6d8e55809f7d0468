"""Tests of what needs no heavy library wait for none: what a folder's tests import, and its conftest files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("crypten", "datasets", "dp_accounting", "flwr", "opacus", "tenseal", "torch")
COLLECT = f"""
import json, sys, pytest
status = pytest.main([*sys.argv[1:], "--collect-only", "-q", "-p", "no:cacheprovider"])
print()
print(json.dumps([int(status), [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def collected(*paths: str) -> tuple[int, list[str]]:
    """The exit status of a collection in a process of its own, and the heavy libraries that it loaded."""
    command = [sys.executable, "-c", COLLECT, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    return status, loaded


@pytest.mark.parametrize("paths", [["tests/results"], ["tests/test_layering.py", "tests/test_layout.py"]], ids=" ".join)
def test_light_tests_are_collected_without_heavy_libraries(paths):
    assert collected(*paths) == (0, [])


def test_a_heavy_library_would_be_seen():
    assert "torch" in collected("tests/fl/models/test_plain.py")[1]
