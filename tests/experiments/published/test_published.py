"""The tables of `results/published/`: each setting composes, and the baseline of a row is its plain twin."""

import shlex

import pytest

from experiments.sweeps.plain_twins import twin_of
from fl.config.identity import to_json
from results.published import registry
from results.published.registry import Kind
from tests.composed import compose
from tests.experiments.command import Here

TWINS = [name for name in registry.names() if any(row.has_twin for row in registry.load(name).rows)]


def commands(here: Here, *arguments: str) -> list[list[str]]:
    """The overrides of each run."""
    dry = here("reproduce", *arguments, "--dry-run")
    assert dry.status == 0, dry
    return [shlex.split(line)[2:] for line in dry.out.splitlines() if line.startswith("fedveil run ")]


@pytest.mark.parametrize("setting", [pytest.param((), marks=pytest.mark.slow), ("--full",)])
@pytest.mark.parametrize("name", registry.names())
def test_both_settings_compose(here: Here, name: str, setting: tuple[str, ...]) -> None:
    table = registry.load(name)
    running = [row for row in table.rows if row.kind is Kind.measured and not row.compute]
    if not setting:
        running = [row for row in running if not (row.small.skip or table.small.skip)]
    assert bool(commands(here, name, *setting)) == bool(running)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if place else []) for place, name in enumerate(TWINS)]
)
def test_a_row_is_compared_with_its_plain_twin(here: Here, name: str) -> None:
    for row in registry.load(name).rows:
        if row.has_twin:
            runs = commands(here, name, "--only", row.name)
            for twin, cell in zip(runs[::2], runs[1::2], strict=True):
                wanted = twin_of(compose(*cell))
                assert to_json(compose(*twin)) == to_json(wanted), row.name


def test_whatever_is_smaller_than_published_says_so() -> None:
    for name in registry.names():
        table = registry.load(name)
        for small in (table.small, *(row.small for row in table.rows)):
            assert small.says or not (small.seeds or small.overrides or small.compute or small.skip), name
