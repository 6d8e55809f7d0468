"""Charges: their serialised form in a ledger, and their composition."""

import dataclasses
import json
import math

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    RandomizedResponseDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.charges import Charge, compose, gaussian_event, poisson_steps
from privacy.accounting.epsilon import epsilon
from privacy.errors import ConfigError

noises = st.floats(0, 1e6) | st.integers(0, 100)
leaves = st.one_of(
    st.just(NoOpDpEvent()),
    st.just(NonPrivateDpEvent()),
    st.builds(GaussianDpEvent, noises),
    st.builds(LaplaceDpEvent, noises),
    st.builds(ZCDpEvent, noises, noises),
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(PoissonSampledDpEvent, st.floats(0, 1), inner),
        st.builds(SampledWithoutReplacementDpEvent, st.integers(9, 99), st.integers(0, 9), inner),
        st.builds(SelfComposedDpEvent, inner, st.integers(0, 1000)),
        st.builds(ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=6,
)


@given(event=events)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_charge_survives_json_and_hashes(event):
    charge = Charge("dp_sgd", "record", "add_remove", event)
    text = json.dumps(charge.to_json(), sort_keys=True, allow_nan=False)
    again = Charge.from_json(json.loads(text))
    assert again == charge
    assert hash(again) == hash(charge)
    assert json.dumps(again.to_json(), sort_keys=True) == text


def test_equal_charges_give_equal_text():
    inner = PoissonSampledDpEvent(np.float64(0.5), GaussianDpEvent(1))
    ours = Charge("a", "client", "replace", ComposedDpEvent([inner, GaussianDpEvent(-0.0)]))
    inner = PoissonSampledDpEvent(0.5, GaussianDpEvent(np.float32(1.0)))
    theirs = Charge("a", "client", "replace", ComposedDpEvent((inner, GaussianDpEvent(0))))
    assert ours == theirs
    assert json.dumps(ours.to_json(), sort_keys=True) == json.dumps(theirs.to_json(), sort_keys=True)
    assert dataclasses.replace(ours, unit="record") != ours


CHARGE = Charge("dp_sgd", "record", "add_remove", poisson_steps(1.0, 0.01, 10))


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": None},
        {"unit": "household"},
        {"relation": "add"},
        {"extra": 1},
        {"event": None},
        {"event": {"kind": "RandomizedResponse", "noise_parameter": 0.5, "num_buckets": 2}},
        {"event": {"kind": "Composed", "events": 3}},
        {"event": {"kind": "Gaussian"}},
        {"event": {"kind": "Gaussian", "noise_multiplier": -1.0}},
        {"event": {"kind": "Gaussian", "noise_multiplier": math.nan}},
        {"event": {"kind": "Gaussian", "noise_multiplier": "1"}},
        {"event": {"kind": "Gaussian", "noise_multiplier": 1.0, "sensitivity": 1}},
        {"event": {"kind": "SelfComposed", "count": 1.5, "event": {"kind": "NoOp"}}},
        {"event": {"kind": "PoissonSampled", "sampling_probability": 1.1, "event": {"kind": "NoOp"}}},
        {
            "event": {
                "kind": "SampledWithoutReplacement",
                "source_dataset_size": 1,
                "sample_size": 2,
                "event": {"kind": "NoOp"},
            }
        },
    ],
)
def test_a_damaged_charge_is_refused(change):
    with pytest.raises(ConfigError):
        Charge.from_json({**CHARGE.to_json(), **change})
    with pytest.raises(ConfigError, match=r"charge=.*must hold mechanism, unit, relation, event"):
        Charge.from_json([change])


def test_a_charge_takes_no_event_that_a_ledger_cannot_hold():
    with pytest.raises(ConfigError, match="event=RandomizedResponse"):
        Charge("a", "record", "replace", RandomizedResponseDpEvent(0.5, 2))


def test_charges_compose_in_any_order_and_grouping():
    other = Charge("other", "record", "add_remove", ComposedDpEvent([gaussian_event(3.0), NoOpDpEvent()]))
    one = compose([(CHARGE, 2), (other, 1), (CHARGE, 1)])
    assert one == compose([(other, 1), (CHARGE, 3)]) == compose(iter([(CHARGE, 3), (other, 1)]))
    assert (one.unit, one.relation) == ("record", "add_remove")
    step = PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0))
    by_hand = ComposedDpEvent([*[step] * 30, GaussianDpEvent(3.0)])
    assert epsilon(one.event, 1e-5, "rdp") == epsilon(by_hand, 1e-5, "rdp") > epsilon(CHARGE.event, 1e-5, "rdp")


def test_units_and_relations_do_not_add_up():
    with pytest.raises(ConfigError, match=r"unit=client and record: .* cannot be added"):
        compose([(CHARGE, 1), (dataclasses.replace(CHARGE, unit="client"), 1)])
    with pytest.raises(ConfigError, match=r"relation=add_remove and zero_out: .* cannot be added"):
        compose([(CHARGE, 1), (dataclasses.replace(CHARGE, relation="zero_out"), 1)])
    with pytest.raises(ConfigError, match="count=-1"):
        compose([(CHARGE, -1)])
