"""Each condition between keys, broken alone: the whole line that a user reads, in the order of `CONDITIONS`."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from fl.config.checks import CONDITIONS, check
from privacy.errors import ConfigError
from tests.composed import compose

KINDS = (
    "late, duplicated, flipped, truncated, oversized, replayed, zero, not_finite, misshapen, retyped, weightless, lying"
)
LAB = {"runtime.name": "deployment", "runtime.federation": "lab"}

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"cohort": 11}, "cohort=11: must be at most clients=10"),
    ({"faults.scaled_clients": 11}, "faults.scaled_clients=11: must be at most clients=10"),
    ({"faults.dropout_stage": "mask"}, "faults.dropout_stage=mask: belongs to faults.dropout_rate"),
    ({"faults.killed": "server"}, "faults.killed_round=None: belongs to faults.killed, and that to it"),
    ({"faults.killed": "server", "faults.killed_round": 11}, "faults.killed_round=11: must be from 1 to rounds=10"),
    ({"faults.rate": 0.1}, f"faults.rate=0.1: belongs to faults.kind: {KINDS}"),
    (
        {"faults.kind": "zero", "faults.stage": "collect"},
        "faults.stage=collect: belongs to a faults.kind of messages: late, duplicated, flipped, truncated, oversized, "
        "replayed",
    ),
    ({"faults.kind": "late"}, "faults.kind=late: nobody is late without a server.deadline_s: give one"),
    (
        {"faults.kind": "lying", "training.weighting": "uniform"},
        "faults.kind=lying: nobody tells a weight under training.weighting=uniform: use examples",
    ),
    ({"cohort": 4, "server.min_contributors": 5}, "server.min_contributors=5: must be at most the cohort, 4"),
    ({"server.patience": 2}, "data.public_share=0.0: belongs to server.patience, and that to it"),
    ({"server.least_gain": 1.0}, "server.least_gain=1.0: belongs to server.patience"),
    (
        {"server.patience": 2, "data.public_share": 0.5, "server.evaluate_every": 0},
        "server.evaluate_every=0: evaluates nothing that server.patience could wait for: give at least 1",
    ),
    *(
        (
            {f"runtime.{key}": True, "runtime.client_metrics": False},
            f"runtime.{key}=True: is told with the times of clients: set runtime.client_metrics=true, too",
        )
        for key in ("client_evaluation", "client_diagnostics")
    ),
    ({"sampler.min_separation": 2}, "sampler.min_separation=2: belongs to sampler.name=separated"),
    ({"sampler.max_participations": 2}, "sampler.max_participations=2: belongs to sampler.name=separated"),
    ({"training.steps": 1}, "training.steps=1: give training.epochs or training.steps, and set the other to null"),
    (
        LAB | {"runtime.measure_sum_error": True},
        "runtime.measure_sum_error=True: sends contributions in the clear, to test a sum: it belongs to "
        "runtime=inprocess or ray",
    ),
    ({"runtime.name": "ray", "runtime.workers": 2}, "runtime.workers=2: belongs to runtime=inprocess"),
    (
        {"runtime.name": "ray", "runtime.together": 2},
        "runtime.together=2: runtime=ray trains clients one by one: set auto or 1",
    ),
    (
        {"runtime.compile": True, "runtime.workers": 2},
        "runtime.compile=True: belongs to runtime=inprocess with runtime.workers=0: each process compiles, and rounds, "
        "in a way of its own",
    ),
    (
        {"runtime.compile": True, "runtime.together": 1},
        "runtime.compile=True: compiles the pass of clients that train together: leave out runtime.together=1",
    ),
    (
        {"runtime.name": "ray", "runtime.prepare_ahead": True},
        "runtime.prepare_ahead=True: belongs to runtime=inprocess",
    ),
    ({"runtime.address": "auto"}, "runtime.address=auto: belongs to runtime=ray"),
    ({"runtime.federation": "lab"}, "runtime.federation=lab: belongs to runtime=deployment"),
    (
        {"runtime.roster": "relayed"},
        "runtime.roster=relayed: belongs to runtime=deployment: a simulation has its keys from set-up",
    ),
    ({"roster": "keys"}, "roster=keys: belongs to runtime.federation; elsewhere a run makes its own"),
    (
        LAB | {"runtime.roster": "relayed", "roster": "keys"},
        "roster=keys: belongs to runtime.roster=pinned; relayed takes no file",
    ),
    ({"tracking.uri": "http://x"}, "tracking.uri=http://x: belongs to tracking=mlflow"),
    ({"tracking.folder": "x"}, "tracking.folder=x: belongs to tracking=tensorboard"),
    (
        {"runtime.name": "deployment"},
        "runtime.supernodes=3: must be at least clients=10, one SuperNode a client",
    ),
]


def with_values(values: dict[str, Any]) -> DictConfig:
    """The default configuration with these values."""
    config = compose()
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    return config


def test_every_condition_is_broken_below() -> None:
    assert [message.partition("=")[0] for _, message in BROKEN] == [key for key, _, _ in CONDITIONS]


@pytest.mark.parametrize("index", range(len(BROKEN)))
def test_a_broken_condition_is_told_by_key_value_and_what_is_allowed(index: int) -> None:
    values, message = BROKEN[index]
    config = with_values(values)
    assert [holds(config) for _, holds, _ in CONDITIONS].index(False) == index
    with pytest.raises(ConfigError) as refused:
        check(config)
    assert str(refused.value) == message


def test_the_default_breaks_none() -> None:
    assert all(holds(compose()) for _, holds, _ in CONDITIONS)
