"""Hydra's errors on one line; each is raised by Hydra itself, from the configuration of this project."""

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.hydra.error_lines import one_line
from privacy.errors import ConfigError
from tests.composed import compose


def line_of(*overrides: str) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as caught:
        compose(*overrides)
    return one_line(caught.value, overrides)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.lrr=1", "training.lrr=1: Key 'lrr' not in 'TrainingConfig'; did you mean lr?"),
        (
            "serverr.optimizer.lr=1",
            "serverr.optimizer.lr=1: Key 'serverr' not in 'FedveilConfig'; did you mean server?",
        ),
        ("~training.nope", "Could not delete from config. 'training.nope' does not exist."),
        ("runtime.workers=two", "runtime.workers=two: Value 'two' of type 'str' could not be converted to Integer"),
        ("server=fedagv", "server=fedagv: allowed are fedadagrad, fedadam, fedavg, fedavgm; did you mean fedavg?"),
        ("training/schedule=linear", "training/schedule=linear: allowed are constant, cosine, exponential, step"),
        ("server=null", "server=null: allowed are fedadagrad, fedadam, fedavg, fedavgm"),
        ("training/schedule=7", "training/schedule=7: allowed are constant, cosine, exponential, step"),
        ("noise.noise_multiplier=1.0", "noise.noise_multiplier=1.0: noise is a single value, without keys below it"),
        ("rounds.x=1", "rounds.x=1: rounds is a single value, without keys below it"),
        (
            "mechanism.noise_multiplier=1",
            "mechanism.noise_multiplier=1: Key 'noise_multiplier' is not in struct; mechanism has no keys here: choose "
            "mechanism=client_dp or distributed_dp or dp_ftrl or dp_sgd or local_dp, or add one as "
            "+mechanism.noise_multiplier=",
        ),
    ],
)
def test_the_line_names_the_override_and_what_is_allowed(override: str, line: str) -> None:
    assert line_of("seed=3", override, "rounds=4") == line


@pytest.mark.parametrize(
    ("overrides", "end"),
    [
        (("privacy=dpsgd",), "; did you mean dp_sgd?"),
        (("privacy=Dp-Sgd",), "; did you mean dp_sgd?"),
        (("model=resnet18",), "; did you mean resnet18_gn?"),
        (("privacy=homomorphic",), ", secagg, secagg_curious"),
        (("mechanism=dp_sgd", "mechanism.noise_multiplier=1"), "; did you mean mechanism.dp_sgd.noise_multiplier?"),
        (("secure_sum=ckks", "secure_sum.boud=2"), "; did you mean bound?"),
    ],
)
def test_a_likely_name_is_asked_for(overrides: tuple[str, ...], end: str) -> None:
    assert line_of(*overrides).endswith(end)


def test_without_a_likely_name_all_are_listed() -> None:
    line = line_of("output.zzz=1")
    allowed = "progress, keep_checkpoints, twins, retry, objectives"
    assert line == f"output.zzz=1: Key 'zzz' not in 'OutputConfig'; allowed are {allowed}"


def test_an_error_of_our_own_is_put_on_one_line() -> None:
    assert one_line(ConfigError("out=x:\n  no such folder\n")) == "out=x: no such folder"


def test_an_error_without_a_message_is_named() -> None:
    assert one_line(KeyError()) == "KeyError"


def test_the_last_of_several_overrides_of_a_key_counts() -> None:
    assert line_of("rounds=3", "rounds=x").startswith("rounds=x: ")
