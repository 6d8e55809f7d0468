"""The command of a configuration gives the same configuration: Hydra is the oracle, through the command line."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.hydra.command_of import _text, command_of, overrides_of
from fl.config.identity import hash_of, to_json
from tests.composed import compose
from tests.experiments.command import Here

CONFIGURATIONS = (
    (),
    ("privacy=dp_sgd", "rounds=3"),
    ("privacy=dp_sgd_ckks", "mechanism.dp_sgd.noise_multiplier=null", "mechanism.dp_sgd.target_epsilon=3", "seed=7"),
    ("privacy=ckks_clients", "secure_sum.parameters={poly_modulus_degree: 8192, coeff_modulus_bits: [60, 40, 40]}"),
    ("privacy=fedml_he", "secure_sum.encrypt_fraction=0.25", "rounds=30"),
    ("privacy=secagg", "clients=20", "cohort=5", "secure_sum.server=curious"),
    ("privacy=secagg", "clients=20", "secure_sum.clients=10"),
    ("privacy=crypten_trimmed_mean", "clients=20", "secure_sum.aggregate.trim=3"),
    ("privacy=crypten_trimmed_mean", "clients=20", "server.min_contributors=8"),
    ("secure_sum=crypten", "secure_sum/aggregate=median"),
    ("mechanism=[client_dp,dp_sgd]", "secure_sum=bfv"),
    ("mechanism=[dp_sgd,client_dp]", "secure_sum=bfv"),
    ("experiment=price_of_privacy", "privacy=dp_sgd_secagg", "seed=3"),
    ("experiment=epsilon_curve", "privacy=plain"),
    ("training/optimizer=adam", "training/schedule=cosine", "server=fedadam", "training.lr=1e-3", "rounds=7"),
    ("training=fedprox", "training.epochs=null", "training.steps=3", "faults=stragglers", "faults.stage=train"),
    ("+mechanism.probe._target_=tests.outside.probe.Probe", "model._target_=my.models.Own", "~model.units"),
    ("data=huggingface", "data.hub=some/set", r"data.image_column='its <b>, \\\'a b\''", "data.label_column='null'"),
    ("server=fedadam", "server.optimizer.betas=[0.5,0.9]", "training.optimizer.momentum=0.5"),
)


@pytest.mark.parametrize("overrides", CONFIGURATIONS, ids=" ".join)
def test_the_overrides_of_a_configuration_compose_to_it(overrides: tuple[str, ...]) -> None:
    canonical = to_json(compose(*overrides))
    found = overrides_of(json.loads(canonical))
    assert found is not None
    assert to_json(compose(*found)) == canonical


def test_nothing_is_said_that_follows() -> None:
    for overrides in (
        ["privacy=secagg", "clients=20", "cohort=5"],
        ["privacy=dp_sgd_ckks", "mechanism.dp_sgd.clip=0.5"],
        ["experiment=price_of_privacy", "privacy=crypten", "seed=2"],
    ):
        assert overrides_of(json.loads(to_json(compose(*overrides)))) == overrides
    assert overrides_of(json.loads(to_json(compose()))) == []


def test_the_command_is_one_for_a_shell(here: Here) -> None:
    canonical = to_json(compose("privacy=ckks", "data.image_column='a b'", "secure_sum.parameters=nvflare"))
    command = command_of(json.loads(canonical))
    assert command is not None
    program, subcommand, *words = shlex.split(command)
    assert (program, subcommand) == ("fedveil", "run")
    assert here("hash", *words).out.strip() == hash_of(canonical)


def test_what_no_overrides_give_has_no_command() -> None:
    configuration = json.loads(to_json(compose()))
    assert command_of({**configuration, "experiment": "of somebody else"}) is None
    assert command_of({**configuration, "rounds": "several"}) is None


def test_keys_of_another_version_are_added_and_taken_away() -> None:
    configuration = json.loads(to_json(compose()))
    del configuration["witness"]
    other = dict(sorted({**configuration, "another": 1}.items()))
    found = overrides_of(other)
    assert found is not None
    assert json.loads(to_json(compose(*found))) == other


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=12)
SCALARS = TEXTS | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.booleans() | st.none()


@settings(max_examples=60, deadline=None)
@given(SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))
def test_any_value_is_read_as_it_was(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_override(f"key={_text(value)}").value()
    assert repr(_plain(read)) == repr(value)


def _plain(value: Any) -> Any:
    """A value parsed by Hydra as plain Python; Hydra has its own types for quoted keys and texts."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return getattr(value, "text", value)
