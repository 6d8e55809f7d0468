"""Other aggregates than the sum, by CrypTen's parties as processes. C is clients, D values of the model."""

import os
import signal

import numpy as np
import pytest
import torch

from fl import participant
from privacy.errors import ConfigError, FedveilError
from tests.composed import rows_in, run_with_set_up, state_in, workspace_of
from tests.fl.runtimes.parties.runs import CRYPTEN, SEEDED, in_round, parties

ROBUST = (*CRYPTEN, SEEDED, "training.weighting=uniform", "clients=5", "server.min_contributors=3", "rounds=1")


def middle(vectors_CD: np.ndarray) -> np.ndarray:
    return np.sort(vectors_CD, axis=0)[1:-1].mean(axis=0)


def within(vectors_CD: np.ndarray) -> np.ndarray:
    """The mean of the updates with norm at most 1."""
    return vectors_CD[np.linalg.norm(vectors_CD, axis=1) <= 1].mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        (("secure_sum/aggregate=trimmed_mean",), middle),
        (("secure_sum/aggregate=median",), lambda vectors_CD: np.median(vectors_CD, axis=0)),
        (("secure_sum/aggregate=median", "secure_sum.insecure_provider=true"), lambda v_CD: np.median(v_CD, axis=0)),
        (("secure_sum/aggregate=norm_bounded", "secure_sum.aggregate.norm=1"), within),
        (("secure_sum/aggregate=median", "secure_sum.parties=3"), lambda vectors_CD: np.median(vectors_CD, axis=0)),
    ],
    ids=["trimmed mean", "median", "median of party 0's triples", "norm bounded", "median by three"],
)
def test_a_step_is_that_of_numpys_aggregate_though_one_client_cheats(tmp_path, monkeypatch, options, oracle):
    sent: list[np.ndarray] = []
    original = participant.contribution

    def noting(*arguments):
        sent.append(original(*arguments).copy())
        return sent[-1]

    monkeypatch.setattr(participant, "contribution", noting)
    cheat = ("faults.scaled_clients=1", "faults.scale=-100")
    found = run_with_set_up(tmp_path, *ROBUST, *options, *cheat)
    vectors_CD = np.array(sent, np.float64)[:, :-1]
    assert sorted(np.linalg.norm(vectors_CD, axis=1))[-1] > 3 > 1 > sorted(np.linalg.norm(vectors_CD, axis=1))[-2]
    step_D = found.weights_D.numpy() - workspace_of(*ROBUST).initial_D.numpy()
    np.testing.assert_allclose(step_D, oracle(vectors_CD), atol=2**-15)
    rows = rows_in(tmp_path / "checkpoints")
    dealt = rows.filter(rows["stage"] == "dealer").select("where", "metric", "value").rows()
    if any("insecure" in option for option in options):
        assert not dealt
    else:
        assert {where for where, _, _ in dealt} == {"party/0"}
        assert {metric for _, metric, _ in dealt} == {"comm_bytes", "comm_rounds", "comm_wall", "cpu"}
        assert min(value for _, _, value in dealt) > 0
    assert not parties()


@pytest.mark.slow
def test_the_parties_noise_is_charged_for_and_repeats_where_it_is_seeded(tmp_path):
    noised = (*CRYPTEN, SEEDED, "mechanism=party_dp", "secure_sum/aggregate=noised_sum", "delta=1e-2")
    first = run_with_set_up(tmp_path / "first", *noised)
    second = run_with_set_up(tmp_path / "second", *noised)
    assert torch.equal(first.weights_D, second.weights_D)
    loud = run_with_set_up(tmp_path / "loud", *noised, "secure_sum.aggregate.noise_multiplier=100", "rounds=1")
    assert (loud.weights_D - first.weights_D).std() > 1
    backend = workspace_of(*noised).plan.backend
    assert backend.holds_against("client") == ["outsider", "server", "server with 1 party"]
    [mechanism] = backend.mechanisms
    assert mechanism.epsilons["outsider"] < mechanism.epsilons["server with 1 party"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("secure_sum/aggregate=median",), "training.weighting=examples: crypten_median takes no weights of clients"),
        (
            ("secure_sum/aggregate=median", "training.weighting=uniform", "runtime.measure_sum_error=true"),
            "runtime.measure_sum_error=true: crypten_median opens another aggregate than the sum",
        ),
        (("secure_sum/aggregate=noised_sum",), "secure_sum/aggregate=noised_sum: noise protects updates that are clip"),
        (
            ("secure_sum/aggregate=median", "mechanism=distributed_dp", "delta=1e-2"),
            "secure_sum=crypten: does not sum integers exactly, which distributed_dp needs",
        ),
        (
            ("secure_sum/aggregate=trimmed_mean", "training.weighting=uniform"),
            "server.min_contributors=2: must be above 2 * secure_sum.aggregate.trim = 2",
        ),
        (
            ("mechanism=distributed_dp", "delta=1e-2", "faults.scaled_clients=1"),
            "faults.scaled_clients=1: distributed_dp+crypten sums residues",
        ),
        (("faults.scaled_clients=9",), "faults.scaled_clients=9: must be at most clients=4"),
        (
            (
                "mechanism=client_dp",
                "mechanism.client_dp.adaptive=true",
                "mechanism.client_dp.noise_multiplier=0.1",
                "secure_sum/aggregate=norm_bounded",
            ),
            "secure_sum/aggregate=norm_bounded: an adaptive clip adds values",
        ),
    ],
)
def test_what_an_aggregate_cannot_do_is_refused(overrides, message):
    with pytest.raises(ConfigError) as refusal:
        workspace_of(*CRYPTEN, *overrides)
    assert message in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGKILL, "the process of dealer died"),
        (signal.SIGSTOP, "the dealer ended, or did not answer in time"),
    ],
)
def test_a_dealer_that_is_gone_is_named(tmp_path, monkeypatch, how, message):
    in_round(monkeypatch, 2, lambda: os.kill(parties()[-1].pid, how))
    robust = [one for one in ROBUST if not one.startswith("rounds")]
    with pytest.raises(FedveilError) as failure:
        run_with_set_up(tmp_path, *robust, "secure_sum/aggregate=median", "secure_sum.timeout_s=16")
    assert message in str(failure.value)
    assert not parties()
    assert state_in(tmp_path / "checkpoints").round == 1
