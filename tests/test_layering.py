"""The walls between the packages, held over the syntax tree of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "experiments", "fl", "privacy", "results", "tests")

FORBIDDEN = {
    "privacy": {"flwr", "hydra", "omegaconf", "fl", "experiments", "results"},
    "results": {"fl", "experiments"},
    "fl": {"experiments"},
}
NOWHERE = {"torchvision"}  # it has no CPU build, and CrypTen, which asks for it, does without
MOVES_OR_COUNTS_BYTES = {"count_bytes", "send_and_receive", "push_messages", "pull_messages"}
BASELINE = "experiments/benchmarks/flower_secagg.py"  # it has its own grid for Flower's workflow
MAY_MOVE_AND_COUNT = ("fl/transport.py", "fl/metering.py", "fl/runtimes/", "tests/", BASELINE)
SHIM = "privacy.crypten_compat"


def called_name(call: ast.Call) -> str:
    """`f` of both `f()` and `module.f()`."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that this node imports; a relative import stays in its package and counts for none."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"}:
        texts = (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
        yield from (text for text in texts if not text.startswith("."))


def names(node: ast.AST) -> Iterator[str]:
    """Names that this node uses, defines or imports."""
    yield from (alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias))
    yield from (value for field in ("attr", "id", "name") if isinstance(value := getattr(node, field, None), str))


def crosses(path: str, module: str, shimmed: bool) -> str | None:
    """The reason why the file at `path` must not import `module`, or None."""
    folder = path.split("/")[0]
    package = module.split(".")[0]
    if package in FORBIDDEN.get(folder, set()) | NOWHERE:
        return f"{folder}/ may not import {package}"
    if package == "crypten" and not shimmed and path != f"{SHIM.replace('.', '/')}.py":
        return f"crypten is imported from {SHIM}"
    return None


def in_order(path: str, source: str) -> list[ast.stmt | ast.expr]:
    """The nodes of a file with a line number, top to bottom."""
    nodes = [node for node in ast.walk(ast.parse(source, path)) if isinstance(node, ast.stmt | ast.expr)]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))


def violations(path: str, source: str) -> list[str]:
    """Each breach of a wall in `source`, at `path` below the root, as `path:line: reason`."""
    found = set()
    shimmed = False
    for node in in_order(path, source):
        for module in imported(node):
            shimmed = shimmed or module.startswith(SHIM)
            if wrong := crosses(path, module, shimmed):
                found.add((node.lineno, wrong))
        for name in MOVES_OR_COUNTS_BYTES.intersection(names(node)):
            if not path.startswith(MAY_MOVE_AND_COUNT):
                found.add((node.lineno, f"{name} belongs to the transport"))
    return [f"{path}:{line}: {wrong}" for line, wrong in sorted(found)]


def sources() -> list[Path]:
    """Every Python file of the project; runs are data."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [path for path in files if not path.is_relative_to(ROOT / "results" / "runs")]


def test_no_file_crosses_a_wall() -> None:
    assert {folder for folder in FOLDERS if any((ROOT / folder).rglob("*.py"))} == set(FOLDERS)
    found = [line for path in sources() for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("privacy/he.py", "x = 1\nimport flwr.app\n", ["privacy/he.py:2: privacy/ may not import flwr"]),
        (
            "privacy/a/b.py",
            "def f():\n    from fl.rounds import drive\n",
            ["privacy/a/b.py:2: privacy/ may not import fl"],
        ),
        ("privacy/he.py", "from omegaconf import OmegaConf", ["privacy/he.py:1: privacy/ may not import omegaconf"]),
        (
            "privacy/he.py",
            "import importlib\nm = importlib.import_module('results.store')",
            ["privacy/he.py:2: privacy/ may not import results"],
        ),
        ("results/table.py", "import torch, fl", ["results/table.py:1: results/ may not import fl"]),
        ("fl/rounds.py", "import experiments.run as run", ["fl/rounds.py:1: fl/ may not import experiments"]),
        ("fl/models.py", "from torchvision import models", ["fl/models.py:1: fl/ may not import torchvision"]),
        (
            "fl/rounds.py",
            "r = grid.send_and_receive([])",
            ["fl/rounds.py:1: send_and_receive belongs to the transport"],
        ),
        ("fl/apps.py", "def count_bytes(x): ...", ["fl/apps.py:1: count_bytes belongs to the transport"]),
        (
            "fl/apps.py",
            "from flwr.supercore import count_bytes as size",
            ["fl/apps.py:1: count_bytes belongs to the transport"],
        ),
        ("privacy/mpc.py", "import crypten", ["privacy/mpc.py:1: crypten is imported from privacy.crypten_compat"]),
        (
            "privacy/mpc.py",
            "import crypten.mpc\nfrom privacy.crypten_compat import crypten",
            ["privacy/mpc.py:1: crypten is imported from privacy.crypten_compat"],
        ),
    ],
)
def test_a_breach_is_found(path: str, source: str, expected: list[str]) -> None:
    assert violations(path, source) == expected


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("privacy/he.py", "import tenseal, torch\nfrom privacy.errors import ConfigError\nfrom . import flwr_like"),
        ("privacy/he.py", "import flask\nfrom floats import results"),
        ("privacy/he.py", '"""Not fl, not flwr: import flwr, send_and_receive."""'),
        ("privacy/crypten_compat.py", "import crypten"),
        ("privacy/mpc.py", "from privacy.crypten_compat import crypten\nimport crypten.mpc"),
        ("privacy/mpc.py", "from privacy import crypten_compat\ndef f():\n    import crypten"),
        ("fl/rounds.py", "import flwr, hydra, privacy.backend, results.store"),
        ("fl/runtimes/ray.py", "grid.push_messages([])"),
        ("fl/transport.py", "grid.pull_messages([])"),
        ("fl/metering.py", "record.count_bytes()"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
