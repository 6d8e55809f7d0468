import hashlib
import json
import math
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl.config.checks import CHECKS, check, cohort_size
from fl.config.identity import from_json, hash_of, to_json
from fl.config.schema import FedveilConfig
from privacy.errors import ConfigError
from tests.composed import compose

BASE = compose()
NOT_IDENTITY = {
    *("out", "force", "roster", "tracking.name", "tracking.uri", "tracking.folder"),
    *("output.progress", "output.keep_checkpoints", "output.retry", "output.twins", "output.objectives"),
}


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key in node:
        path = f"{prefix}{key}"
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig) and len(value):
            found |= leaves(value, f"{path}.")
        else:
            found[path] = value
    return found


LEAVES = leaves(BASE)


def others(value: Any) -> list[Any]:
    """Values that differ from this one; the first that its type takes is used."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, DictConfig):
        return [{"fresh": 1}]
    if isinstance(value, ListConfig):
        return [[*value, "x"]]
    return [value + 1] if isinstance(value, int | float) else [f"{value}x"] if value else [7, "x", [1.5]]


def changed(key: str) -> DictConfig:
    for value in others(LEAVES[key]):
        config = BASE.copy()
        try:
            OmegaConf.update(config, key, value, force_add=isinstance(value, dict))
        except OmegaConfBaseException:
            continue
        assert OmegaConf.select(config, key) != LEAVES[key]
        return config
    raise AssertionError(f"no other value for {key}")


def test_the_default_has_every_key_of_the_schema():
    assert set(leaves(OmegaConf.structured(FedveilConfig))) - set(LEAVES) == {
        "mechanism",
        "model",
        "secure_sum",
        "server.optimizer",
        "training.optimizer",
    } - set(LEAVES)


@pytest.mark.parametrize("key", LEAVES)
def test_the_hash_ignores_what_changes_no_result_and_nothing_else(key):
    same = hash_of(to_json(changed(key))) == hash_of(to_json(BASE))
    assert same == (key in NOT_IDENTITY)


def test_a_configuration_without_the_later_keys_keeps_the_hash_of_before():
    of_before = {
        *("name", "path", "hub", "image_column", "label_column", "train_split", "test_split", "features"),
        *("partition", "alpha", "shards", "natural_column", "allow_empty"),
    }
    assert json.loads(to_json(BASE))["data"].keys() == of_before
    assert from_json(to_json(BASE)).data.unseen_labels == "refuse"
    assert json.loads(to_json(compose("data.config=full")))["data"].keys() == {*of_before, "config"}


def test_keys_that_a_group_adds_count_too():
    assert hash_of(to_json(compose("+mechanism.probe._target_=a.B"))) != hash_of(to_json(BASE))
    assert hash_of(to_json(compose("+training.optimizer.maximize=true"))) != hash_of(to_json(BASE))


def shuffled(node: Any) -> Any:
    return {key: shuffled(node[key]) for key in reversed(list(node))} if isinstance(node, dict) else node


def test_the_order_of_keys_and_where_a_value_came_from_change_nothing():
    values = OmegaConf.to_container(BASE, resolve=True)
    assert to_json(OmegaConf.create(shuffled(values))) == to_json(BASE)
    assert to_json(compose("rounds=10", "training/schedule=constant", f"training.lr={BASE.training.lr:e}")) == to_json(
        BASE
    )


def test_the_order_of_mechanisms_is_part_of_the_identity_and_survives():
    one, other = (compose(*(f"+mechanism.{name}._target_=a.B" for name in names)) for names in ("ab", "ba"))
    assert hash_of(to_json(one)) != hash_of(to_json(other))
    for config, names in ((one, ["a", "b"]), (other, ["b", "a"])):
        assert list(from_json(to_json(config)).mechanism) == names


def test_interpolations_are_resolved():
    assert json.loads(to_json(compose("training/schedule=cosine", "rounds=17")))["training"]["schedule"]["T_max"] == 17


def test_the_hash_is_that_of_the_text():
    text = '{"a":1}'
    assert hash_of(text) == hashlib.sha256(b'{"a":1}').hexdigest()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data=femnist", "data.partition=natural", "server=fedadam", "training/schedule=cosine"),
        ("training.epochs=null", "training.steps=7", "cohort=3", "server.deadline_s=0.5"),
        ("+mechanism.a._target_=x.Y", "+mechanism.a.list=[1,2.5,null,zwei]", "out=/somewhere", "force=true"),
        ("data.path='/tmp/größe \\' \" ü'",),
    ],
)
def test_the_canonical_text_round_trips(overrides):
    text = to_json(compose(*overrides))
    assert to_json(OmegaConf.structured(from_json(text))) == text
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-300, 1e300), st.integers(0, 2**80), st.text(min_size=1))
def test_any_value_round_trips(lr, seed, experiment):
    config = BASE.copy()
    config.training.lr = lr
    config.seed = seed
    if "${" not in experiment and experiment != "???":  # OmegaConf's own
        config.experiment = experiment
    read = from_json(to_json(config))
    assert (read.training.lr, read.seed, read.experiment) == (lr, seed, config.experiment)


def test_what_is_no_part_of_the_identity_takes_its_default():
    read = from_json(to_json(compose("out=/somewhere", "force=true", "output.keep_checkpoints=9")))
    assert (read.out, read.force, read.output.keep_checkpoints) == (None, False, 2)


def test_a_missing_value_is_told():
    config = OmegaConf.structured(FedveilConfig)
    with pytest.raises(OmegaConfBaseException, match="name"):
        to_json(config)


# key, values that are refused, values at the edge that are not
RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("clients", [0, -1], [1]),
    ("cohort", [0], [1, 10, None]),
    ("rounds", [0], [1]),
    ("seed", [-1], [0]),
    ("sampler.name", ["", "poisson"], ["uniform", "separated"]),
    ("sampler.min_separation", [0], [None]),
    ("sampler.max_participations", [0], [None]),
    ("noise", ["", "none", "OS"], ["os", "seeded"]),
    ("delta", [0.0, 1.0, -1e-5, math.nan], [1e-12]),
    ("accountant", ["", "moments"], ["prv", "rdp", "pld"]),
    ("epsilon_budget", [0.0, -1.0, math.inf, math.nan], [0.1, None]),
    ("retries", [-1], [0, 7]),
    ("data.partition", ["", "IID", "random"], ["iid", "dirichlet", "shards", "natural"]),
    ("data.features", ["", "pixels"], ["none", "scattering"]),
    ("data.unseen_labels", ["", "score"], ["refuse", "leave_out"]),
    ("data.public_share", [-0.1, 1.0, math.nan], [0.0]),
    ("data.alpha", [0.0, -1.0, math.inf, math.nan], [1e-9]),
    ("data.shards", [0], [1]),
    ("training.batch_size", [0], [1]),
    ("training.epochs", [0], [1]),
    ("training.steps", [0], []),
    ("training.lr", [0.0, -0.1, math.inf, math.nan], [1e-12]),
    ("training.proximal_mu", [-0.1, math.inf, math.nan], [0.0]),
    ("training.accumulate", [0], [1, 8]),
    ("training.class_weights", [[-1.0], [0.0, 0.0], [math.nan], []], [None, [0.0, 1.0]]),
    ("training.label_smoothing", [-0.1, 1.0, math.nan], [0.0, 0.99]),
    ("training.precision", ["", "fp16"], ["float32", "bf16"]),
    ("training.weighting", ["", "size"], ["examples", "uniform"]),
    ("training.max_weight", [0], [1, None]),
    ("training.sample_rate", [0.0, -0.1, 1.1, math.nan], [1e-6, 1.0, None]),
    ("training.threads", [0], [1]),
    ("server.min_contributors", [0], [1, 10]),
    ("server.min_share", [0.0, -0.5, 1.01], [0.01, 1.0]),
    ("server.patience", [0, -1], [None]),
    ("server.least_gain", [-0.1, math.inf, math.nan], [0.0]),
    ("server.deadline_s", [0.0, -1.0, math.inf, math.nan], [1e-3, None]),
    ("server.on_invalid", ["", "ignore"], ["leave_out", "abort"]),
    ("server.evaluate_every", [-1], [0]),
    ("server.evaluate_batch", [0], [1]),
    ("runtime.name", ["", "spark"], ["inprocess", "ray"]),
    ("runtime.workers", [-1], [0]),
    ("runtime.together", [0, -1, 1.5, True, "", "all"], ["auto", 1, 50]),
    ("runtime.gpus_per_client", [0.0, -1.0, math.inf, math.nan], [0.01]),
    ("runtime.cpus_per_client", [0.0, math.nan], [0.5]),
    ("runtime.supernodes", [0], [1]),
    ("runtime.roster", ["", "none"], ["pinned"]),
    ("tracking.name", ["", "wandb"], ["none", "mlflow", "tensorboard"]),
    ("faults.scaled_clients", [-1, 11], [0, 10]),
    ("faults.dropout_rate", [-0.1, 1.1], [0.0, 1.0]),
    ("faults.scale", [float("inf"), float("nan")], [-100.0, 0.0]),
    ("faults.kind", ["", "lost", "dropout"], ["flipped", "zero", None]),
    ("faults.rate", [-0.1, 1.1, math.nan], [0.0]),
    ("faults.delay_s", [0.0, -1.0, math.inf, math.nan], [1e-3]),
    ("faults.claimed_weight", [-0.1, 1.1, math.nan], [0.0, 1.0]),
    ("output.keep_checkpoints", [0], [1]),
]


def with_value(key: str, value: Any) -> DictConfig:
    config = BASE.copy()
    OmegaConf.update(config, key, value)
    return config


def test_every_check_is_tried_below():
    assert sorted(key for key, _, _ in RANGES) == sorted(key for key, _, _ in CHECKS)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values, _ in RANGES for value in values])
def test_a_value_out_of_range_is_refused_by_key_and_value(key, value):
    with pytest.raises(ConfigError) as refused:
        check(with_value(key, value))
    assert str(refused.value).startswith(f"{key}={value}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, _, values in RANGES for value in values])
def test_a_value_at_the_edge_passes(key, value):
    check(with_value(key, value))


@pytest.mark.parametrize("key", ["sampler.min_separation", "sampler.max_participations"])
def test_what_only_the_separated_sampler_heeds_is_refused_elsewhere(key):
    with pytest.raises(ConfigError, match=rf"^{key}=2: belongs to sampler\.name=separated$"):
        check(with_value(key, 2))
    config = with_value(key, 2)
    config.sampler.name = "separated"
    check(config)


def test_what_comes_over_the_wire_is_checked_too():
    text = to_json(BASE).replace('"rounds":10', '"rounds":0')
    with pytest.raises(ConfigError, match=r"^rounds=0: "):
        from_json(text)


@pytest.mark.parametrize(("epochs", "steps", "fine"), [(1, None, 1), (None, 1, 1), (None, None, 0), (1, 1, 0)])
def test_epochs_or_steps_but_not_both(epochs, steps, fine):
    config = BASE.copy()
    config.training.epochs = epochs
    config.training.steps = steps
    if fine:
        check(config)
    else:
        with pytest.raises(ConfigError, match=rf"^training.steps={steps}: give training.epochs or training.steps"):
            check(config)


RELAYED = ("runtime=deployment", "runtime.federation=lab", "runtime.roster=relayed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cohort=11"], r"^cohort=11: must be at most clients=10$"),
        (["clients=3", "cohort=4"], r"^cohort=4: must be at most clients=3$"),
        (["server.min_contributors=11"], r"^server.min_contributors=11: .* 10$"),
        (["cohort=4", "server.min_contributors=5"], r"^server.min_contributors=5: .* 4$"),
        (["runtime=ray", "runtime.workers=2"], r"^runtime.workers=2: belongs to runtime=inprocess$"),
        (["runtime.address=auto"], r"^runtime.address=auto: belongs to runtime=ray$"),
        (["runtime=ray", "runtime.federation=x"], r"^runtime.federation=x: belongs to runtime=deployment$"),
        (["roster=keys.json"], r"^roster=keys.json: belongs to runtime.federation; elsewhere a run makes its own$"),
        (["runtime=deployment"], r"^runtime.supernodes=3: must be at least clients=10"),
        (["faults.rate=0.1"], r"^faults.rate=0.1: belongs to faults.kind: late, duplicated, flipped"),
        (
            ["faults.kind=not_finite", "faults.stage=collect"],
            r"^faults.stage=collect: belongs to a faults.kind of messages",
        ),
        (["faults.kind=late", "faults.rate=0.1"], r"^faults.kind=late: nobody is late without a server.deadline_s"),
        (["faults.kind=lying", "training.weighting=uniform"], r"^faults.kind=lying: nobody tells a weight under"),
        (["runtime.roster=relayed"], r"^runtime.roster=relayed: .*=deployment: a simulation has its keys from set-up$"),
        (["tracking.uri=http://x"], r"^tracking.uri=http://x: belongs to tracking=mlflow$"),
        (["tracking=mlflow", "tracking.folder=x"], r"^tracking.folder=x: belongs to tracking=tensorboard$"),
        (["runtime=ray", "runtime.roster=relayed"], r"^runtime.roster=relayed: belongs to runtime=deployment"),
        ([*RELAYED, "roster=keys.json"], r"^roster=keys.json: belongs to runtime.roster=pinned; relayed takes"),
    ],
)
def test_keys_that_contradict_one_another(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(compose(*overrides))


def test_a_deployment_of_three():
    check(compose("runtime=deployment", "clients=3"))
    check(compose(*RELAYED))


@pytest.mark.parametrize(("cohort", "size"), [("null", 10), ("10", 10), ("1", 1)])
def test_the_size_of_a_cohort(cohort, size):
    assert cohort_size(compose(f"cohort={cohort}")) == size


@pytest.mark.parametrize(
    "override",
    ["round=3", "training.learning_rate=1", "rounds=abc", "training.lr=fast", "data.alpha=[1]", "rounds=1.5"],
)
def test_unknown_keys_and_wrong_types_are_refused(override):
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        compose(override)
