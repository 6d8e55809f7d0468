"""The walls between the rooms, held over the syntax tree of every file.

`WALLS` reads from the ground up: a room may import itself and the rooms that its line names, all of which stand above
it in the table. A room is a folder; a file with a line of its own is a room of its own.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "experiments", "fl", "privacy", "results", "tests")

GROUND = "privacy"  # errors, randomness, spans, sealing, addresses, checks
SUMS = "privacy privacy/secure_sums"  # the contract of secure sums, and what its families share
COSTS = "privacy/accounting privacy/noise"
BACKEND = f"{SUMS} {COSTS} privacy/mechanisms/contract.py privacy/backend.py"
STORED = "privacy results results/naming"
SETTINGS = "privacy results fl/faults/options.py fl/config"
WALLS = {
    "privacy": "",
    # what a participation costs, and noise
    "privacy/accounting": GROUND,
    "privacy/noise": f"{GROUND} privacy/accounting",
    # the two contracts
    "privacy/secure_sums": f"{GROUND} privacy/noise",
    "privacy/mechanisms/contract.py": f"{SUMS} {COSTS}",
    # mechanisms, and the three families of secure sums, of which none imports another
    "privacy/mechanisms/dp_sgd_optimizers.py": GROUND,  # how gradients are clipped
    "privacy/mechanisms/stacked": f"{GROUND} privacy/mechanisms/contract.py privacy/mechanisms/dp_sgd_optimizers.py",
    "privacy/mechanisms": (
        f"{SUMS} {COSTS} privacy/mechanisms/contract.py privacy/mechanisms/dp_sgd_optimizers.py "
        "privacy/mechanisms/stacked"
    ),
    "privacy/secure_sums/he": SUMS,
    "privacy/secure_sums/secagg": SUMS,
    "privacy/secure_sums/mpc/crypten": SUMS,
    "privacy/secure_sums/mpc/aggregates": f"{SUMS} privacy/noise privacy/secure_sums/mpc/crypten",
    "privacy/secure_sums/mpc": f"{SUMS} privacy/secure_sums/mpc/crypten privacy/secure_sums/mpc/aggregates",
    # beside them
    "privacy/witness": SUMS,
    "privacy/testing": f"{SUMS} privacy/secure_sums/mpc/crypten",
    # the two slots together, and the public names, each of which is imported when it is asked for
    "privacy/backend.py": f"{SUMS} {COSTS} privacy/mechanisms/contract.py",
    "privacy/__init__.py": (
        f"{BACKEND} privacy/mechanisms privacy/secure_sums/he privacy/secure_sums/mpc privacy/secure_sums/secagg"
    ),
    # runs on disk
    "results/naming": GROUND,
    "results": f"{GROUND} results/naming",
    "results/networks": STORED,
    "results/published": STORED,
    "results/commands/output.py": f"{STORED} results/networks",
    "results/table.py": f"{STORED} results/networks",
    "results/plots": f"{STORED} results/table.py",
    "results/report": f"{STORED} results/plots",
    "results/commands": f"{STORED} results/networks results/commands/output.py results/table.py results/plots",
    # a run
    "fl/faults/options.py": GROUND,
    "fl/config": f"{SUMS} privacy/__init__.py privacy/backend.py results results/naming fl/faults/options.py",
    "fl/data": SETTINGS,
    "fl/models": "privacy fl/data",
    "fl/training": f"{BACKEND} fl/data",
    "fl/training/together": f"{BACKEND} {SETTINGS} fl/data fl/training",
    "fl/card": "",
    "fl/spawned": GROUND,  # processes that end with the one that spawned them
    "fl": f"{BACKEND} privacy/witness {SETTINGS} fl/data fl/training fl/training/together fl/card fl/spawned",
    # around the participant and the server
    "fl/faults": f"{SUMS} privacy/mechanisms/contract.py {SETTINGS} fl fl/training/together",
    "fl/keys": f"{SUMS} results fl/config fl",
    "fl/node.py": f"{SUMS} fl/config fl/faults/options.py fl/faults fl/keys fl",
    "fl/runtimes": (
        f"{SUMS} privacy/secure_sums/mpc/crypten privacy/secure_sums/mpc fl/config fl/faults/options.py fl/faults "
        "fl/training fl/keys fl fl/node.py fl/spawned"
    ),
    "fl/apps.py": f"{GROUND} fl fl/node.py fl/runtimes",
}
FREE = ("experiments", "configs", "tests")  # above everything else
MOST_AT_THE_ROOT = 12
MOST_FILES = 16

FORBIDDEN = {
    "privacy": {"flwr", "hydra", "omegaconf", "fl", "experiments", "results"},
    "results": {"fl", "experiments"},
    "fl": {"experiments"},
}
NOWHERE = {"torchvision"}  # it has no CPU build, and CrypTen, which asks for it, does without
MOVES_OR_COUNTS_BYTES = {"count_bytes", "send_and_receive", "push_messages", "pull_messages"}
BASELINE = "experiments/benchmarks/flower_secagg.py"  # it has its own grid for Flower's workflow
MAY_MOVE_AND_COUNT = ("fl/transport.py", "fl/metering.py", "fl/runtimes/", "tests/", BASELINE)
SHIM = "privacy.secure_sums.mpc.crypten.compat"


def room_of(path: str) -> str:
    """The room of a file: the file itself where it has a line of its own, else its folder."""
    return path if path in WALLS else path.rpartition("/")[0]


@cache
def file_of(module: str) -> str | None:
    """The file of a module of ours, relative to the root; of a name in a module, None."""
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).exists()), None)


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


def files_imported(node: ast.AST) -> Iterator[str]:
    """The files of ours that this node imports, relative to the root."""
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        inner = [file_of(f"{node.module}.{alias.name}") for alias in node.names]
        yield from {file for file in (found or file_of(node.module) for found in inner) if file}
    else:
        yield from (file for module in imported(node) if (file := file_of(module)))


def trespasses(path: str, node: ast.AST) -> Iterator[str]:
    """The rooms that this node of the file at `path` may not import from, in words."""
    mine = room_of(path)
    if mine.partition("/")[0] in FREE:
        return
    for theirs in sorted({room_of(file) for file in files_imported(node)} - {mine, *WALLS[mine].split()}):
        if theirs.partition("/")[0] not in FORBIDDEN.get(mine.partition("/")[0], set()):  # which `crosses` tells
            yield f"{mine} may not import {theirs}"


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


@cache  # for two tests, which both look at every file
def nodes_of(source: str) -> list[ast.AST]:
    """All nodes of a file."""
    return list(ast.walk(ast.parse(source)))


def in_order(source: str) -> list[ast.stmt | ast.expr]:
    """The nodes of a file with a line number, top to bottom."""
    nodes = [node for node in nodes_of(source) if isinstance(node, ast.stmt | ast.expr)]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))


def violations(path: str, source: str) -> list[str]:
    """Each breach of a wall in `source`, at `path` below the root, as `path:line: reason`."""
    found = set()
    shimmed = False
    for node in in_order(source):
        for module in imported(node):
            shimmed = shimmed or module.startswith(SHIM)
            if wrong := crosses(path, module, shimmed):
                found.add((node.lineno, wrong))
        found |= {(node.lineno, wrong) for wrong in trespasses(path, node)}
        for name in MOVES_OR_COUNTS_BYTES.intersection(names(node)):
            if not path.startswith(MAY_MOVE_AND_COUNT):
                found.add((node.lineno, f"{name} belongs to the transport"))
    return [f"{path}:{line}: {wrong}" for line, wrong in sorted(found)]


def sources() -> list[Path]:
    """Every Python file of the project; runs are data."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [path for path in files if not path.is_relative_to(ROOT / "results" / "runs")]


def graph() -> dict[str, set[str]]:
    """The files that each file of ours imports."""
    found = {}
    for path in sources():
        mine = path.relative_to(ROOT).as_posix()
        found[mine] = {file for node in nodes_of(path.read_text()) for file in files_imported(node)} - {mine}
    return found


def test_no_imports_form_a_circle() -> None:
    assert len(list(TopologicalSorter(graph()).static_order())) > 300  # it raises a CycleError that names the circle


def test_every_room_stands_above_those_that_it_imports() -> None:
    rooms = list(WALLS)
    for index, room in enumerate(rooms):
        assert set(WALLS[room].split()) <= set(rooms[:index]), room


def test_every_room_has_walls_and_no_line_is_of_a_room_that_is_gone() -> None:
    of_files = {room_of(path.relative_to(ROOT).as_posix()) for path in sources()}
    assert {room for room in of_files if room.partition("/")[0] not in FREE} == set(WALLS)


def test_no_folder_holds_too_many_files() -> None:
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in sources())
    assert folders["privacy"] <= MOST_AT_THE_ROOT
    assert not {folder: count for folder, count in folders.items() if count > MOST_FILES}


def test_no_file_crosses_a_wall() -> None:
    assert {folder for folder in FOLDERS if any((ROOT / folder).rglob("*.py"))} == set(FOLDERS)
    found = [line for path in sources() for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        (
            "privacy/secure_sums/he/sums.py",
            "x = 1\nimport flwr.app\n",
            ["privacy/secure_sums/he/sums.py:2: privacy/ may not import flwr"],
        ),
        (
            "privacy/noise/b.py",
            "def f():\n    from fl.rounds import drive\n",
            ["privacy/noise/b.py:2: privacy/ may not import fl"],
        ),
        (
            "privacy/secure_sums/he/sums.py",
            "from omegaconf import OmegaConf",
            ["privacy/secure_sums/he/sums.py:1: privacy/ may not import omegaconf"],
        ),
        (
            "privacy/secure_sums/he/sums.py",
            "import importlib\nm = importlib.import_module('results.store')",
            ["privacy/secure_sums/he/sums.py:2: privacy/ may not import results"],
        ),
        (
            "privacy/secure_sums/he/ckks.py",
            "from privacy.secure_sums.secagg import masks",
            ["privacy/secure_sums/he/ckks.py:1: privacy/secure_sums/he may not import privacy/secure_sums/secagg"],
        ),
        (
            "privacy/secure_sums/contract.py",
            "from privacy.secure_sums.plain import PlainSum\nfrom privacy.backend import PrivacyBackend",
            ["privacy/secure_sums/contract.py:2: privacy/secure_sums may not import privacy/backend.py"],
        ),
        (
            "fl/server.py",
            "from fl import node",
            ["fl/server.py:1: fl may not import fl/node.py"],
        ),
        ("results/table.py", "import torch, fl", ["results/table.py:1: results/ may not import fl"]),
        ("fl/rounds.py", "import experiments.run as run", ["fl/rounds.py:1: fl/ may not import experiments"]),
        (
            "fl/models/plain.py",
            "from torchvision import models",
            ["fl/models/plain.py:1: fl/ may not import torchvision"],
        ),
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
        (
            "privacy/secure_sums/mpc/protocol.py",
            "import crypten",
            ["privacy/secure_sums/mpc/protocol.py:1: crypten is imported from privacy.secure_sums.mpc.crypten.compat"],
        ),
        (
            "privacy/secure_sums/mpc/protocol.py",
            "import crypten.mpc\nfrom privacy.secure_sums.mpc.crypten.compat import crypten",
            ["privacy/secure_sums/mpc/protocol.py:1: crypten is imported from privacy.secure_sums.mpc.crypten.compat"],
        ),
    ],
)
def test_a_breach_is_found(path: str, source: str, expected: list[str]) -> None:
    assert violations(path, source) == expected


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "privacy/secure_sums/he/sums.py",
            "import tenseal, torch\nfrom privacy.errors import ConfigError\nfrom . import flwr_like",
        ),
        ("privacy/secure_sums/he/sums.py", "import flask\nfrom floats import results"),
        ("privacy/secure_sums/he/sums.py", '"""Not fl, not flwr: import flwr, send_and_receive."""'),
        ("privacy/secure_sums/mpc/crypten/compat.py", "import crypten"),
        (
            "privacy/secure_sums/mpc/protocol.py",
            "from privacy.secure_sums.mpc.crypten.compat import crypten\nimport crypten.mpc",
        ),
        (
            "privacy/secure_sums/mpc/protocol.py",
            "from privacy.secure_sums.mpc.crypten import compat\ndef f():\n    import crypten",
        ),
        ("fl/rounds.py", "import flwr, hydra, privacy.backend, results.store"),
        ("fl/runtimes/ray.py", "grid.push_messages([])"),
        ("fl/transport.py", "grid.pull_messages([])"),
        ("fl/metering.py", "record.count_bytes()"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
