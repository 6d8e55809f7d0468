"""The range and the grid of a sum: weights and values that do not fit are refused or told, never lost in silence."""

import re

import numpy as np
import pytest

from fl.config.ranges import CutValues
from fl.threats import explained
from privacy.errors import ConfigError, RunRefused
from tests.composed import rows_in, run_with_set_up, workspace_of
from tests.fl.card.sentences import COUNTED, CUT, UNCOUNTED

EXACT = ("secagg", "pad", "bfv", "crypten")
TOLD = f"{CUT}: from 0.1% of a round's on it is said."  # faults enlarge updates on purpose, and end no run
LARGEST = 360  # examples of the largest of four clients of the digits


# ---- steps of the grid


def named_in(message: str) -> int:
    found = re.search(r"at (?:most|least) (\d+)", message)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("far", [3_600_000, 2_000_000_000])
@pytest.mark.parametrize("name", EXACT)
def test_a_bound_on_weights_far_above_the_data_is_refused_and_the_named_one_will_do(name, far):
    with pytest.raises(ConfigError, match=rf"training.max_weight={far}: {name} has .* for the smallest") as caught:
        workspace_of(f"secure_sum={name}", f"training.max_weight={far}")
    most = named_in(str(caught.value))
    work = workspace_of(f"secure_sum={name}", f"training.max_weight={most}")
    encoded = np.rint(LARGEST / most / (2 * work.tolerance))
    assert 63 <= encoded <= 66, "about 64 steps for clients of nearly equal size"
    with pytest.raises(ConfigError, match=rf"training.max_weight={most + 1}"):
        workspace_of(f"secure_sum={name}", f"training.max_weight={most + 1}")


@pytest.mark.parametrize(
    "overrides",
    [
        ("secure_sum=secagg", "secure_sum.value_bits=6"),
        ("secure_sum=pad", "secure_sum.value_bits=4"),
        ("secure_sum=bfv", "secure_sum.value_bits=2"),
        ("secure_sum=crypten", "secure_sum.fractional_bits=3"),
    ],
)
def test_a_grid_that_is_too_coarse_for_any_bound_is_refused_by_its_bits(overrides):
    key = overrides[1].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}=\d: .* at least \d, or training.weighting=uniform") as caught:
        workspace_of(*overrides)
    workspace_of(overrides[0], f"{key}={named_in(str(caught.value))}")
    workspace_of(*overrides, "training.weighting=uniform")


@pytest.mark.parametrize("name", ["plain", "ckks"])
def test_sums_that_are_fine_enough_take_any_bound(name):
    workspace_of(f"secure_sum={name}", "training.max_weight=3600000")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_at_the_largest_bound_a_run_loses_no_more_than_a_point(tmp_path, name):
    overrides = ("rounds=10", "server.evaluate_every=10", f"secure_sum={name}")
    with pytest.raises(ConfigError) as caught:
        workspace_of(*overrides, "training.max_weight=3600000")
    run_with_set_up(tmp_path / "tight", *overrides)
    run_with_set_up(tmp_path / "wide", *overrides, f"training.max_weight={named_in(str(caught.value))}")
    tight, wide = (accuracy(tmp_path / folder) for folder in ("tight", "wide"))
    assert abs(tight - wide) <= 0.01


def accuracy(folder):
    rows = rows_in(folder / "checkpoints")
    return rows.filter(rows["metric"] == "accuracy")["value"].to_list()[-1]


# ---- values that are cut


@pytest.mark.parametrize("name", ["secagg", pytest.param("pad", marks=pytest.mark.slow)])
def test_a_run_whose_clients_lose_much_to_the_bound_ends_and_keeps_its_rows(tmp_path, name):
    with pytest.raises(RunRefused, match=r"round 1: \d+\.\d+% of the updates' values were cut to .*bound=0.001"):
        run_with_set_up(tmp_path, f"secure_sum={name}", "secure_sum.bound=0.001", "rounds=1")
    rows = rows_in(tmp_path / "checkpoints")
    assert (rows.filter(rows["metric"] == "clipped_values")["value"] > 0).sum() == 4


def judged(cut, on_purpose=False, length=1000):
    survivors = [f"client/{i}" for i in range(len(cut))]
    return CutValues(length, 1.0, on_purpose).share(dict(zip(survivors, cut, strict=True)), survivors, 3)


def test_a_few_cut_values_are_no_matter(caplog):
    assert judged([0, 0, 3, 0]) == 3 / 4000
    assert not caplog.records


def test_more_are_told_once(caplog):
    judge = CutValues(1000, 1.0, on_purpose=False)
    for number in (1, 2):
        assert judge.share({"client/0": 50.0, "client/1": 0.0}, ["client/0", "client/1"], number) == 0.025
    assert [record.getMessage() for record in caplog.records] == [
        "round 1: 2.50% of the updates' values were cut to secure_sum.bound=1: raise it, or lower training.lr"
    ]


def test_most_clients_must_lose_much_for_an_end():
    assert judged([1000, 1000, 99, 99, 99]) > 0.4, "two that scale their updates do not end a run"
    with pytest.raises(RunRefused, match="most clients lose 10% or more"):
        judged([1000, 1000, 100, 99, 99])
    assert judged([1000] * 5, on_purpose=True) == 1.0


def test_whoever_is_not_in_the_sum_does_not_count():
    judge = CutValues(10, 1.0, on_purpose=False)
    assert judge.share({"client/0": 10.0}, ["client/1", "client/2"], 1) == 0


# ---- under differential privacy: what carries its noise may be counted

PRIVATE = ("delta=1e-2", "training.weighting=uniform", "rounds=1", "noise=seeded")


@pytest.mark.parametrize(
    ("overrides", "metric"),
    [
        (("mechanism=local_dp", "mechanism.local_dp.clip=0.01"), "noised_values_cut"),
        (("mechanism=client_dp",), None),
        (("mechanism=client_dp", "runtime.client_diagnostics=true"), "clipped_values"),
        (("mechanism=dp_sgd", "delta=1e-5", "accountant=rdp"), "noised_values_cut"),
    ],
)
def test_counts_under_a_mechanism_are_post_processing_or_on_request(tmp_path, overrides, metric):
    bounded = (*PRIVATE, *overrides, "secure_sum=secagg", "secure_sum.bound=0.02")
    card = explained(workspace_of(*bounded))["beyond"]
    assert any("nobody counts them" in line for line in card) == (metric is None)
    try:
        run_with_set_up(tmp_path, *bounded)
    except RunRefused:
        assert metric is not None
    rows = rows_in(tmp_path / "checkpoints")
    counted = set(rows["metric"]) & {"clipped_values", "noised_values_cut"}
    assert counted == ({metric} if metric else set())
    assert ("cut_share" in set(rows["metric"])) <= (metric is not None)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("secure_sum=secagg",), COUNTED),
        (("secure_sum=secagg", "faults.scaled_clients=1"), TOLD),
        (("secure_sum=secagg", "faults.kind=zero"), TOLD),
        (("secure_sum=plain",), None),
        (("secure_sum=secagg", "mechanism=client_dp", "delta=1e-2"), UNCOUNTED),
    ],
)
def test_the_card_says_what_becomes_of_values_beyond_the_range(overrides, said):
    found = [line for line in explained(workspace_of(*overrides))["beyond"] if "are cut" in line]
    assert found == ([said] if said else [])
