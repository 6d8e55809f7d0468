"""Configurations that tests compose in two steps are those of Hydra."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.hydra.compose import composed
from fl.config.identity import to_json
from tests.composed import SMALL, compose


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        SMALL,
        (*SMALL, "privacy=dp_sgd_secagg", "secure_sum.bound=2", "noise=seeded", "data.partition=dirichlet"),
        ("secure_sum=crypten", "secure_sum/aggregate=median", "training.weighting=uniform", "seed=3"),
        ("+mechanism.probe._target_=a.B", "mechanism=client_dp", "mechanism.client_dp.clip=0.5", "delta=1e-2"),
        ("training/optimizer=adam", "training.optimizer.betas=[0.5,0.9]", "cohort=${clients}"),
        ("experiment=first_table", "model._target_=x.Y", "training.class_weights=[1,2]", "data.path=null"),
        ("faults=stragglers", "faults.rate=0.5", "server=fedadam", "runtime=ray", "runtime.workers=0"),
    ],
)
def test_two_steps_end_where_one_does(overrides):
    ours, hydras = compose(*overrides), composed(overrides)
    assert ours == hydras
    assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(hydras)
    assert OmegaConf.get_type(ours) == OmegaConf.get_type(hydras)
    assert compose(*overrides) is not ours


def test_wrong_keys_and_values_are_errors_of_the_same_kind():
    for overrides in (("traning.lr=1",), ("training.lr=x",), ("privacy=dpsgd",), ("rounds.x=1",)):
        with pytest.raises((HydraException, OmegaConfBaseException)) as ours:
            compose(*overrides)
        with pytest.raises((HydraException, OmegaConfBaseException)) as hydras:
            composed(overrides)
        assert (type(ours.value), str(ours.value)) == (type(hydras.value), str(hydras.value))


def test_a_change_of_one_does_not_show_in_the_next():
    changed = compose(*SMALL)
    changed.rounds = 77
    assert to_json(compose(*SMALL)) != to_json(changed)
