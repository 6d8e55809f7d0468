"""The package has six core dependencies, declares its imports, and is locked to versions within its ranges."""

import ast
import importlib
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

from tests.scenery.paths import some
from tests.test_layering import ROOT, imported

PACKAGES = ("configs", "experiments", "fl", "privacy", "results")
OPTIONAL = ("browser", "labs", "launchers", "testing", "tracking")  # extras with modules imported on use
SUPPORTED = ("3.11", "3.12")


def project() -> dict[str, object]:
    """The [project] table of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared(*extras: str) -> list[Requirement]:
    """The dependencies of the project, with these extras and the extras that they name."""
    table = project()
    found = [Requirement(line) for line in table["dependencies"]]  # type: ignore[attr-defined]
    for extra in extras:
        for requirement in map(Requirement, table["optional-dependencies"][extra]):  # type: ignore[index]
            found += declared(*requirement.extras) if requirement.name == "fedveil" else [requirement]
    return found


def locked() -> list[Requirement]:
    """The lines of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def third_party(path: Path) -> set[str]:
    """Top-level packages that a file imports from outside the standard library and the project."""
    modules = {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}
    return modules - set(sys.stdlib_module_names) - set(PACKAGES)


@pytest.mark.parametrize(
    "package", ["flwr", "opacus", "tenseal", "torch", "privacy.secure_sums.mpc.crypten.compat", "hydra"]
)
def test_the_six_packages_import(package: str) -> None:
    assert importlib.import_module(package)


ELSEWHERE = {"pfl"}  # a peer of `fedveil bench runtime`, in an environment of its own


def test_what_is_imported_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared(*OPTIONAL)}
    owners = packages_distributions()
    files = [path for package in PACKAGES for path in some((ROOT / package).rglob("*.py"))]
    imports = {name for path in files for name in third_party(path)}
    undeclared = {name for name in imports if names.isdisjoint(map(canonicalize_name, owners.get(name, [])))}
    assert undeclared == ELSEWHERE


@pytest.mark.parametrize("python", SUPPORTED)
def test_the_lock_pins_an_allowed_version_of_each_dependency(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    pins = {
        canonicalize_name(line.name): next(iter(line.specifier))
        for line in locked()
        if line.marker is None or line.marker.evaluate(environment)
    }
    for requirement in declared("dev"):
        pin = pins[canonicalize_name(requirement.name)]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} is locked to {pin.version}"


def test_the_lock_names_no_build_and_no_place() -> None:
    lines = [str(line) for line in locked()]
    assert len(lines) > 100
    assert [line for line in lines if re.search(r"\+|@|/", line)] == []  # `+cpu` would shut out CUDA's build


def test_supported_versions_are_those_of_the_classifiers() -> None:
    classifiers = project()["classifiers"]
    assert isinstance(classifiers, list)
    assert [f"Programming Language :: Python :: {python}" in classifiers for python in SUPPORTED] == [True, True]
    assert project()["requires-python"] == ">=3.11,<3.13"


def test_every_room_is_packaged() -> None:
    """A folder without an __init__.py would be missing from the wheel, and nowhere else."""
    find: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"][
        "find"
    ]
    found = {name.replace(".", "/") for name in find_packages(str(ROOT), include=find["include"])}
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in files if "runs" not in path.parts}
    assert rooms == found
    assert {"privacy/testing", "privacy/secure_sums/mpc/crypten"} <= found
