"""Every file in `configs/` composes, passes the check, and names objects that can be built and work."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import privacy
from experiments import sweeps
from experiments.hydra.error_lines import CONFIGS
from fl import models, runtimes
from fl.config.build import build
from fl.config.checks import check
from fl.config.identity import from_json, to_json
from fl.config.schema import RUNTIMES
from fl.data.arrange import LOSSLESS_ORIGINALS
from fl.workspace import Workspace
from privacy.backend import PrivacyBackend
from results.naming.former_names import FORMER
from tests.composed import compose
from tests.scenery.paths import some

PUBLISHED = {"privacy": privacy.PUBLIC, "fl.models": models.PUBLIC, "experiments.sweeps": sweeps.PUBLIC}
FILES = [path.relative_to(CONFIGS).with_suffix("") for path in some(CONFIGS.rglob("*/*.yaml"))]  # less config.yaml
# further overrides that an option needs, where the default does not fit
BESIDE = {
    "runtime=deployment": ["clients=3"],
    "mechanism=party_dp": ["privacy=party_dp"],
    "secure_sum/aggregate": ["secure_sum=crypten"],
}
# named pairs that are special cases of other ones
ARRANGED = {"bfv_clients": "bfv", "ckks_clients": "ckks", "fedml_he": "ckks", "flare": "ckks"} | {
    "party_dp": "party_dp_crypten_noised_sum",
    "secagg_curious": "secagg",
}
# shape and classes of an image set that the model was made for
SHAPES = {
    "cnn": (1, 28, 28),
    "cnn_mcmahan": (1, 28, 28),
    "cnn_tanh": (1, 28, 28),
    "cnn_tanh_cifar": (3, 32, 32),
    "cnn_tanh_gn": (1, 28, 28),
    "lenet": (3, 32, 32),
    "logistic": (1, 8, 8),
    "mlp": (1, 8, 8),
    "moderate_cnn": (3, 32, 32),
    "resnet18_gn": (3, 32, 32),
    "scatter_cnn": (81, 7, 7),
    "scatter_linear": (81, 7, 7),
}


def targets(node: Any) -> list[str]:
    """Every `_target_` of a file."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    return []


@pytest.mark.parametrize("path", [*FILES, Path("config")], ids=str)
def test_classes_are_named_as_the_packages_publish_them(path: Path) -> None:
    """So that a file can move and no hash changes."""
    for target in targets(OmegaConf.to_container(OmegaConf.load((CONFIGS / path).with_suffix(".yaml")))):
        package, _, name = target.rpartition(".")
        assert package.startswith("torch.optim") or name in PUBLISHED[package], target


@pytest.mark.parametrize("package", ["privacy", "fl.models", "experiments.sweeps"])
def test_a_published_class_is_what_its_module_defines(package: str) -> None:
    for name, module in PUBLISHED[package].items():
        published = getattr(import_module(package), name)
        assert published is getattr(import_module(module), name)
        assert published.__module__ == module
    with pytest.raises(AttributeError, match="Nope"):
        _ = import_module(package).Nope


def test_every_former_name_leads_to_a_published_class() -> None:
    for former, present in FORMER.items():
        package, _, name = present.rpartition(".")
        assert name in PUBLISHED[package]
        assert former.rpartition(".")[2] == name


def of(group: str) -> list[str]:
    """The options of a group."""
    return [path.name for path in FILES if str(path.parent) == group]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_an_option_composes_and_is_allowed_and_what_it_says_is_heard(path: Path) -> None:
    """A misspelt package or group would be silent otherwise."""
    option = f"{path.parent}={path.name}"
    config = compose(*BESIDE.get(option, BESIDE.get(str(path.parent), ())), option)
    check(config)
    assert from_json(to_json(config)).seed == config.seed
    file = (CONFIGS / path).with_suffix(".yaml")
    said = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(said, dict)
    package = "" if "@package _global_" in file.read_text() else f"{path.parent}.".replace("/", ".")
    for key, value in flat(said):
        if "${" not in str(value) and key.split(".")[0] not in ("defaults", "hydra"):
            assert OmegaConf.select(config, package + key) == value, key


def flat(values: dict[Any, Any], above: str = "") -> list[tuple[str, Any]]:
    """Leaves by dotted key."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += flat(value, f"{above}{key}.") if isinstance(value, dict) and value else [(f"{above}{key}", value)]
    return [(key, value) for key, value in found if value != {}]


@pytest.mark.parametrize("name", of("model"))
def test_a_model_can_be_made_and_maps_images_to_logits(name: str) -> None:
    shape = SHAPES[name]
    model = build(torch.nn.Module, "model", compose(f"model={name}").model, shape=shape, classes=10)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", of("training/optimizer"))
def test_a_clients_optimizer_steps(name: str) -> None:
    work = workspace_of(f"training/optimizer={name}", "training.lr=0.5")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = work.client_optimizer([weight], lr=0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert (weight < 1).all()


@pytest.mark.parametrize("name", of("server"))
def test_a_servers_optimizer_goes_with_the_mean_update(name: str) -> None:
    work = workspace_of(f"server={name}")
    weights_D = torch.nn.Parameter(torch.zeros(3))
    optimizer = work.server_optimizer(weights_D)
    weights_D.grad = -torch.tensor([1.0, 2.0, -3.0])
    optimizer.step()
    assert torch.sign(weights_D.detach()).tolist() == [1, 1, -1]
    if name.startswith("fedavg"):  # its first step is the mean itself
        assert weights_D.tolist() == [1, 2, -3]


@pytest.mark.parametrize("name", of("training/schedule"))
def test_a_schedule_never_raises_the_rate_and_starts_with_it(name: str) -> None:
    rates = workspace_of(f"training/schedule={name}", "training.lr=0.2", "rounds=30").plan.learning_rates
    assert len(rates) == 30
    assert rates[0] == 0.2
    assert all(now >= then >= 0 for now, then in pairwise(rates))
    assert (rates[-1] < 0.2) is (name != "constant")


@pytest.mark.parametrize("privacy", of("privacy"))
def test_a_named_pair_is_a_backend_of_that_name(privacy: str) -> None:
    backend = workspace_of(f"privacy={privacy}").plan.backend
    assert isinstance(backend, PrivacyBackend)
    assert (backend.name.replace("+", "_").removesuffix("_plain") or "plain") == ARRANGED.get(privacy, privacy)


@pytest.mark.parametrize("option", [f"{group}={name}" for group in ("mechanism", "secure_sum") for name in of(group)])
def test_a_half_of_a_backend_can_be_made(option: str) -> None:
    assert isinstance(workspace_of(*BESIDE.get(option, ()), option).plan.backend, PrivacyBackend)


@pytest.mark.parametrize("name", of("runtime"))
def test_a_runtime_is_one_that_there_is(name: str) -> None:
    assert compose(f"runtime={name}", "clients=3").runtime.name == name
    assert name in RUNTIMES
    assert (Path(runtimes.__file__).parent / f"{name}.py").exists()
    assert set(of("runtime")) == set(RUNTIMES)


@pytest.mark.parametrize("name", of("data"))
def test_a_data_set_is_named_like_its_file(name: str) -> None:
    config = compose(f"data={name}").data
    assert config.name == name
    if name in LOSSLESS_ORIGINALS:
        assert "/" in config.hub


@pytest.mark.parametrize("name", of("experiment"))
def test_an_experiment_runs_under_its_own_name(name: str) -> None:
    config = compose(f"experiment={name}")
    check(config)
    assert config.experiment == name


@pytest.mark.parametrize("name", of("experiment"))
def test_what_an_experiment_needs_can_be_had(name: str) -> None:
    config = compose(f"experiment={name}")
    if config.data.name != "digits":
        pytest.skip(f"needs {config.data.name}, which is not embedded")
    assert Workspace(to_json(config)).spec.length > 1


def test_models_have_shapes_to_be_tried_on() -> None:
    assert SHAPES.keys() == set(of("model"))


def workspace_of(*overrides: str) -> Workspace:
    """The workspace of a configuration on the embedded data."""
    return Workspace(to_json(compose("model=logistic", *overrides)))
