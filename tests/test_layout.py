"""The top level matches CONTRIBUTING.md, and contains no machine-specific files."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"configs", "experiments", "findings", "fl", "privacy", "results", "tests"}
FILES = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "requirements.lock",
}
# In pieces, so that this file does not contain the searched text.
HOME = rb"(?<![\w./-])/(?:" + rb"work|root|home/\w+|Users/\w+" + rb")/"
REGISTRY = rb"(?:py" + rb"pi\.org|python" + rb"hosted\.org|download\.py" + rb"torch\.org|(?:extra-)?index" + rb"-url)"
LOCAL = re.compile(HOME + rb"|" + REGISTRY)


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Paths that git tracks, relative to the root."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    if not listed.stdout:
        pytest.skip("git tracks nothing here yet")
    return listed.stdout.rstrip("\0").split("\0")


def test_top_level_is_exactly_this(tracked: list[str]) -> None:
    assert {path.split("/")[0] for path in tracked} == FOLDERS | FILES
    assert [path for path in tracked if path.startswith(".ci/")] == [".ci/run"]


def test_no_file_holds_a_machine_path_or_a_registry(tracked: list[str]) -> None:
    present = [ROOT / path for path in tracked if (ROOT / path).is_file()]
    found = {str(path.relative_to(ROOT)): match[0] for path in present if (match := LOCAL.search(path.read_bytes()))}
    assert not found


@pytest.mark.parametrize(
    "text", ["cd /wo" + "rk/main", "'/ro" + "ot/.cache'", "https://py" + "pi.org/simple", "--index" + "-url x"]
)
def test_machine_paths_and_registries_are_found(text: str) -> None:
    assert LOCAL.search(text.encode())


@pytest.mark.parametrize(
    "text", ["team/wo" + "rk/main", "results/ro" + "ot/x", "/usr/share/datasets", "tcp://127.0.0.1:5000"]
)
def test_other_paths_are_left_alone(text: str) -> None:
    assert not LOCAL.search(text.encode())
