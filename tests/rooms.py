"""`python -m tests.rooms ROOM`: style, types, and the tests of a room and of what imports it, in under a minute.

A room is a folder or a module of the packages. Its own tests come first: those at the mirrored path. Then come those
that import it, nearest first, as many as fit into a budget of recorded seconds; a line names the others. Tests that
import nothing, and look at all files, count among the nearest. Tests marked `alone` are left to `make test`.
"""

import argparse
import ast
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from privacy.errors import ConfigError
from tests.groups import ROOT, UNKNOWN_S, recorded_s

TESTS = "tests"
BUDGET_S = 12.0  # for each worker; the rest of the minute goes to imports and types
QUICK = "not (slow or ray or deployment or alone)"
NAMED = 8  # test files left out, beyond which their folders do
NO_TESTS = 5  # of pytest, where all tests of the files are slow


def module_of(path: str) -> str:
    """`a.b` of both `a/b.py` and `a/b/__init__.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Full names of all that a syntax tree imports, wherever in it; of `from a import b`, both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            up = len(parents) - node.level + is_package
            base = ".".join([*parents[:up], *filter(None, [node.module])]) if node.level else str(node.module)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


@dataclass(frozen=True)
class House:
    """The Python files below a root, and who imports whom."""

    root: Path

    @cached_property
    def paths(self) -> list[str]:
        """Files of the tests and of each package at the top, relative to the root."""
        packages = sorted(found.parent for found in self.root.glob("*/__init__.py"))
        files = (path for package in packages for path in sorted(package.rglob("*.py")))
        return [path.relative_to(self.root).as_posix() for path in files if self._is_packaged(path)]

    def _is_packaged(self, path: Path) -> bool:
        """Every folder down to the file is a package: runs and caches are not."""
        folders = path.relative_to(self.root).parents[:-1]
        return all((self.root / folder / "__init__.py").exists() for folder in folders)

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        """By file, the files that import it."""
        path_of = {module_of(path): path for path in self.paths}
        found: dict[str, set[str]] = {path: set() for path in self.paths}
        for path in self.paths:
            tree = ast.parse((self.root / path).read_text(), path)
            for name in imported(tree, module_of(path), path.endswith("/__init__.py")):
                if name in path_of and path_of[name] != path:
                    found[path_of[name]].add(path)
        return found

    @cached_property
    def rooms(self) -> list[str]:
        """Folders and modules, without `.py`."""
        outside = [path for path in self.paths if not path.startswith(f"{TESTS}/")]
        folders = {parent.as_posix() for path in outside for parent in Path(path).parents[:-1]}
        modules = {path.removesuffix(".py") for path in outside if not path.endswith("/__init__.py")}
        return sorted(folders | modules)

    def folders(self) -> list[str]:
        """The rooms that are packages. A folder of output may have the name of a module beside it."""
        return [room for room in self.rooms if (self.root / room / "__init__.py").exists()]

    def inside(self, room: str) -> set[str]:
        """The files of a room."""
        return {path for path in self.paths if path == f"{room}.py" or path.startswith(f"{room}/")}

    def own_tests(self, room: str) -> set[str]:
        """Test files at the path that mirrors the room: `tests/a/b/...`, or `tests/a/test_b.py`."""
        folder, _, name = room.rpartition("/")
        alone = "/".join(filter(None, (TESTS, folder, f"test_{name}.py")))
        return {path for path in self.test_files() if path == alone or path.startswith(f"{TESTS}/{room}/")}

    def test_files(self) -> list[str]:
        """The files that pytest collects."""
        return [path for path in self.paths if path.startswith(f"{TESTS}/") and Path(path).name.startswith("test_")]

    def distances(self, sources: Collection[str]) -> dict[str, int]:
        """The number of imports from each file that depends on a source to the nearest one."""
        found = dict.fromkeys(sources, 0)
        edge = list(sources)
        while edge:
            nearer, edge = edge, []
            for path in nearer:
                for importer in self.importers[path] - found.keys():
                    found[importer] = found[path] + 1
                    edge.append(importer)
        return found

    def tests_of(self, room: str) -> dict[str, int]:
        """Test files by how near they are to the room: 0 for its own, 1 for those that import it, and so on."""
        near = self.distances(self.inside(room))
        bound = self.distances([path for path in self.paths if not path.startswith(f"{TESTS}/")])
        found = {path: near.get(path, 1) for path in self.test_files() if path in near or path not in bound}
        return found | dict.fromkeys(self.own_tests(room), 0)


def chosen(near: dict[str, int], seconds: dict[str, float], budget_s: float) -> tuple[list[str], list[str]]:
    """The test files that fit into the budget, nearest first and then quickest first, and the others."""
    taken: list[str] = []
    left: list[str] = []
    for path in sorted(near, key=lambda path: (near[path], seconds.get(path, UNKNOWN_S), path)):
        fits = seconds.get(path, UNKNOWN_S) <= budget_s
        budget_s -= seconds.get(path, UNKNOWN_S) if fits else 0
        (taken if fits else left).append(path)
    return taken, left


def room_named(text: str, house: House) -> str:
    """The room of this name, with or without `.py` or a slash at the end; folders between may be left out.

    Raises:
        ConfigError: there is no such room.
    """
    room = text.strip().removeprefix("./").rstrip("/").removesuffix(".py")
    if room not in house.rooms:
        meant = [one for one in house.rooms if is_short_for(room, one)]
        if len(meant) == 1:
            return meant[0]
        raise ConfigError(f"ROOM={text}: allowed are {', '.join(house.folders())}, or a module in one of them")
    return room


def is_short_for(text: str, room: str) -> bool:
    """True where the text is the room's path with some folders left out: `privacy/he` for `privacy/secure_sums/he`."""
    parts = iter(room.split("/"))
    return all(part in parts for part in text.split("/")) and text.split("/")[-1] == room.split("/")[-1]


def told(left: list[str]) -> str:
    """A line that names the test files left out for time, by folder where they are many, and the way to run them."""
    if not left:
        return "No test file was left out."
    folders = Counter(Path(path).parent.as_posix() for path in left)
    many = [f"{count} of {folder}" for folder, count in sorted(folders.items())]
    return f"Left out for time: {', '.join(left if len(left) <= NAMED else many)}. `make test` runs all."


def steps(files: list[str], workers: int) -> dict[str, list[str]]:
    """The commands by name."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q", "-n", str(workers), "--dist", "worksteal", "-m", QUICK, *files]
    return {
        "style": [*python, "ruff", "check", "--quiet"],
        "format": [*python, "ruff", "format", "--check", "--quiet"],
        "types": [*python, "mypy"],
        **({"tests": pytest} if files else {}),
    }


def run(commands: dict[str, list[str]], root: Path) -> list[str]:
    """Run all at once, show the output of one after another, and return the names of those that failed."""
    started = {
        name: subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, command in commands.items()
    }
    failed = []
    for name, process in started.items():
        print(process.communicate()[0], end="", flush=True)
        if process.returncode and (name, process.returncode) != ("tests", NO_TESTS):
            failed.append(name)
    return failed


def main(arguments: list[str], root: Path = ROOT) -> int:
    """The exit status: 0, 1 where something failed, 2 for a name that is no room."""
    parser = argparse.ArgumentParser(prog="python -m tests.rooms")
    parser.add_argument("room")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds of tests for each worker")
    parser.add_argument("--workers", default="logical", help="how many processes run tests")
    given = parser.parse_args(arguments)
    house = House(root)
    try:
        room = room_named(given.room, house)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    started_s = time.monotonic()
    workers = int(given.workers) if given.workers.isdigit() else os.cpu_count() or 1
    files, left = chosen(house.tests_of(room), recorded_s(root / TESTS / "durations.json"), given.budget_s * workers)
    failed = run(steps(files, workers), root)
    print(told(left))
    took_s = time.monotonic() - started_s
    print(f"{room}: {len(files)} test files in {took_s:.0f} s; {', '.join(failed) or 'nothing'} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
