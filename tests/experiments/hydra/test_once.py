"""A cell of a sweep is composed once, to what Hydra itself composes, and copies of its repository share one store."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.hydra import once
from experiments.hydra.error_lines import CONFIGS
from fl.config.schema import register_schema

ROOT = Path(__file__).parents[3]
HELP = "import sys; from experiments.hydra import once; once.work_once = lambda: None; from experiments import run"
HELP += "; run.main(['--help'])"


@pytest.fixture
def loader():
    register_schema()
    once.work_once()
    once.forget()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    once.forget()


@pytest.fixture
def composed(monkeypatch):
    """The overrides of each composition of a cell."""
    seen = []
    own = once._compose

    def compose(loader: ConfigLoaderImpl, master: DictConfig, overrides: list[str]) -> DictConfig:
        seen.append(overrides)
        return own(loader, master, overrides)

    monkeypatch.setattr(once, "_compose", compose)
    return seen


def master(loader: ConfigLoaderImpl, *overrides: str) -> DictConfig:
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)


def composed_by_hydra(loader: ConfigLoaderImpl, whole: DictConfig, cell: list[str]) -> DictConfig:
    assert not once._in_sweep
    return once._compose(loader, whole, cell)


def told(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config, resolve=False)


def test_a_cell_is_composed_once_and_the_same(loader, composed):
    whole = master(loader, "rounds=3")
    cells = [["seed=1"], ["seed=2", "privacy=ckks"]]
    first = [loader.load_sweep_config(whole, cell) for cell in cells]
    second = [loader.load_sweep_config(whole, cell) for cell in cells]
    assert composed == cells
    own = [composed_by_hydra(loader, whole, cell) for cell in cells]
    assert [*map(told, first)] == [*map(told, second)] == [*map(told, own)]
    assert [config._metadata.flags for config in second] == [config._metadata.flags for config in own]
    assert [OmegaConf.get_type(config) for config in second] == [OmegaConf.get_type(config) for config in own]
    assert told(second[0]) != told(second[1])


def test_a_third_time_is_composed_again(loader, composed):
    whole = master(loader)
    for _ in range(3):
        loader.load_sweep_config(whole, ["seed=1"])
    assert len(composed) == 2


def test_cells_of_other_sweeps_are_others(loader, composed):
    loader.load_sweep_config(master(loader), ["seed=1"])
    loader.load_sweep_config(master(loader, "hydra.verbose=true"), ["seed=1"])
    assert len(composed) == 2
    once.forget()
    loader.load_sweep_config(master(loader), ["seed=1"])
    assert len(composed) == 3


def test_a_change_of_the_first_is_none_of_the_second(loader):
    whole = master(loader)
    first = loader.load_sweep_config(whole, ["seed=1"])
    first.seed = 7
    assert loader.load_sweep_config(whole, ["seed=1"]).seed == 1


def test_files_are_parsed_once_a_sweep(loader, monkeypatch):
    seen = []
    own = once._parse
    monkeypatch.setattr(once, "_parse", lambda repository, path: seen.append(path) or own(repository, path))
    whole = master(loader)
    seen.clear()
    loader.load_sweep_config(whole, ["seed=1"])
    first = len(seen)
    assert first == len(set(seen)) > 10
    loader.load_sweep_config(whole, ["seed=2", "model=cnn"])
    assert seen[first:] == ["model/cnn"]
    once.forget()
    loader.load_sweep_config(whole, ["seed=3"])
    assert seen[first + 1 :] == seen[:first]


def test_an_option_that_is_not_there_is_found_in_a_sweep_too(loader):
    whole = master(loader)
    for _ in range(2):
        with pytest.raises(HydraException, match="Could not find 'model/nosuch'"):
            loader.load_sweep_config(whole, ["model=nosuch"])
    assert not once._in_sweep


def test_no_more_are_kept_than_allowed(loader, composed, monkeypatch):
    monkeypatch.setattr(once, "MOST_KEPT", 1)
    whole = master(loader)
    for _ in range(2):
        for cell in (["seed=1"], ["seed=2"]):
            loader.load_sweep_config(whole, cell)
    assert composed == [["seed=1"], ["seed=2"], ["seed=2"]]


def test_the_store_is_shared_and_gives_copies(loader):
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    assert store.load("schema.yaml").node is not store.load("schema.yaml").node


def test_help_is_that_of_hydra_alone():
    ours = [sys.executable, "-m", "experiments.cli", "run", "--help"]
    hydras = [sys.executable, "-c", HELP]
    shown = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
        for command in (ours, hydras)
    ]
    assert "secure_sum: bfv, ckks" in shown[0]
    rest = [text.partition("\n")[2] for text in shown]  # the first line names the program
    assert rest[0] == rest[1]
