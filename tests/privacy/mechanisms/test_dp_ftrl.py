"""DP-FTRL: its noise against dense matrices, its price by brute force, its state, and real runs with it.

The tests derive the mechanism from its noise alone: `whitening` is the matrix M that makes the noise white, so the
release is equivalent to M x + N(0, 1), with x the sums of the rounds. T is rounds, D values of the model.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import solve_triangular, toeplitz
from scipy.stats import kstest, norm

from fl.checkpoint import Checkpoints
from fl.training import vectors
from privacy.accounting.charges import Charge, compose
from privacy.accounting.epsilon import epsilon
from privacy.errors import ConfigError, NonFiniteContribution
from privacy.mechanisms.client_dp import ClientDp
from privacy.mechanisms.contract import ClientJob, Plan, ServerJob
from privacy.mechanisms.dp_ftrl import DpFtrl
from privacy.randomness import SeededRandomness
from tests.composed import PROBE, run, server_of, workspace_of
from tests.fl.faults.stopping import stopped_in
from tests.fl.spending import charged
from tests.outside.probe import known_update
from tests.privacy.accounting.exact import gaussian_delta, gaussian_epsilon
from tests.privacy.mechanisms.test_client_dp import PLAN as CLIENT_PLAN

PLAN = replace(CLIENT_PLAN, rounds=100, separation=10, participations=(10,) * 200)
SIGMA = 1.3
CLIP = 0.7
Matrix = NDArray[np.float64]


def settled(bands: int | None = None, plan: Plan = PLAN) -> DpFtrl:
    mechanism = DpFtrl(noise_multiplier=SIGMA, clip=CLIP, bands=bands)
    mechanism.settle(plan)
    return mechanism


def server_job(round_: int, memory: dict[str, torch.Tensor]) -> ServerJob:
    return ServerJob(round_, SeededRandomness("server", round_), 100, (), 100.0, {}, memory)


def client_job() -> ClientJob:
    optimizer = torch.optim.SGD(PLAN.model.parameters(), lr=0.1)
    return ClientJob("client/0", 1, {}, SeededRandomness("noise"), 20, PLAN.model, optimizer, ())


def noise(mechanism: DpFtrl, rounds: int, dimension: int) -> Matrix:
    """The noise of a whole run, shape (T, D)."""
    memory: dict[str, torch.Tensor] = {}
    return np.stack([mechanism.on_total(server_job(t, memory), np.zeros(dimension)) for t in range(1, rounds + 1)])


def drawn(rounds: int, dimension: int) -> Matrix:
    """The standard normal values behind the noise."""
    sources = (SeededRandomness("server", number) for number in range(1, rounds + 1))
    return np.stack([source.generator().standard_normal(dimension) for source in sources])


@cache
def whitening(bands: int, rounds: int) -> Matrix:
    """M, where M noise = N(0, 1), shape (T, T): by least squares over twice as many values as necessary."""
    noise_TD = noise(settled(bands, replace(PLAN, rounds=rounds, separation=bands)), rounds, 2 * rounds)
    return np.linalg.lstsq(noise_TD.T, drawn(rounds, 2 * rounds).T, rcond=None)[0].T


def strategy(bands: int, rounds: int) -> Matrix:
    """C, shape (T, T), from central binomials: exact in integers except for one division."""
    column = [math.comb(2 * j, j) / 4**j if j < bands else 0.0 for j in range(rounds)]
    return np.asarray(toeplitz(column, np.zeros(rounds)))


def price(matrix: Matrix, rounds: Sequence[int]) -> float:
    """The largest squared distance due to a client in these rounds, over all signs of updates with norm `clip`."""
    signs = np.array(list(product((-1, 1), repeat=len(rounds)))).T
    return float(np.square(CLIP * matrix[:, list(rounds)] @ signs).sum(axis=0).max())


# ---- the noise


def test_the_strategy_is_the_root_of_the_prefix_sums():
    """M is C over the noise, and C C the workload."""
    m_TT = whitening(30, 30)
    assert np.allclose(m_TT @ m_TT / m_TT[0, 0] ** 2, np.tri(30), atol=1e-9)


@pytest.mark.parametrize("bands", [1, 2, 5, 10])
def test_the_noise_is_the_inverse_strategy_on_fresh_noise(bands):
    c_TT = strategy(bands, 40)
    std = SIGMA * CLIP * np.linalg.norm(strategy(bands, 40)[:, 0])
    expected_TD = solve_triangular(c_TT, std * drawn(40, 7), lower=True)
    assert np.allclose(noise(settled(bands), 40, 7), expected_TD, rtol=1e-12, atol=1e-12)
    assert np.allclose(np.linalg.inv(c_TT) @ (std * drawn(40, 7)), expected_TD, atol=1e-10)


def test_the_total_shifts_the_noise_and_is_in_no_later_round():
    mechanism = settled(4)
    memory = dict[str, torch.Tensor]()
    totals_TD = np.random.default_rng(1).normal(0, 50, (9, 7))
    noised_TD = np.stack([mechanism.on_total(server_job(t + 1, memory), totals_TD[t]) for t in range(9)])
    assert np.allclose(noised_TD - totals_TD, noise(mechanism, 9, 7), atol=1e-12)


def test_a_value_over_many_rounds_is_white_noise_under_the_strategy():
    long = settled(8, replace(PLAN, rounds=3000))
    series_T = noise(long, 3000, 1)[:, 0]
    std = SIGMA * CLIP * np.linalg.norm(strategy(8, 8)[:, 0])
    white_T = np.convolve(series_T, strategy(8, 8)[:, 0])[:3000]
    assert kstest(white_T / std, norm.cdf).pvalue > 1e-3
    lags = [abs(np.corrcoef(white_T[lag:], white_T[:-lag])[0, 1]) for lag in range(1, 12)]
    assert max(lags) < 0.07
    # rounds far enough apart to be nearly independent, each at the deviation of a row far down in the inverse
    row = np.linalg.norm(np.linalg.inv(strategy(8, 200))[-1])
    assert kstest(series_T[::20] / (std * row), norm.cdf).pvalue > 1e-3
    assert np.corrcoef(series_T[1:], series_T[:-1])[0, 1] < -0.2, "nothing is taken back"


@pytest.mark.parametrize("round_", [1, 2, 12])
def test_the_values_of_a_round_are_gaussian_with_the_deviation_of_its_row(round_):
    inverse_TT = np.linalg.inv(strategy(10, 12))
    std = SIGMA * CLIP * np.linalg.norm(strategy(10, 12)[:, 0]) * np.linalg.norm(inverse_TT[round_ - 1])
    assert kstest(noise(settled(), round_, 20_000)[-1] / std, norm.cdf).pvalue > 1e-3


def test_one_band_is_independent_noise():
    independent = ClientDp(noise_multiplier=SIGMA, clip=CLIP)
    independent.settle(PLAN)
    for number, noise_D in enumerate(noise(settled(1), 5, 20), 1):
        job = replace(server_job(number, {}), state=independent.initial_state())
        assert independent.on_total(job, np.zeros(20)).tobytes() == noise_D.tobytes()


# ---- the price


@given(st.data(), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_a_client_that_keeps_away_for_the_bands_pays_a_gaussian_a_participation(data, bands, times):
    gaps = data.draw(st.lists(st.integers(bands, bands + 3), min_size=times, max_size=times))
    rounds = np.cumsum([data.draw(st.integers(0, 3)), *gaps[1:]]).tolist()
    whole = whitening(bands, rounds[-1] + bands)
    assert price(whole, rounds) == pytest.approx(times / SIGMA**2, rel=1e-8)
    if bands > 1:  # rows that the run's end cuts off make it cheaper, never dearer
        assert price(whole[: rounds[-1] + 1], rounds) < times / SIGMA**2 * (1 - 1e-3)


@given(st.data(), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_one_that_returns_earlier_would_pay_more(data, bands):
    """So `settle` refuses."""
    first = data.draw(st.integers(0, 3))
    gap = data.draw(st.integers(1, bands - 1))
    assert price(whitening(bands, first + gap + bands), (first, first + gap)) > 2 / SIGMA**2 * (1 + 1e-3)
    with pytest.raises(ConfigError, match=f"^mechanism.dp_ftrl.bands={bands}: some client returns after {gap} rounds"):
        settled(bands, replace(PLAN, separation=gap))


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_a_row_that_is_released_again_tells_of_the_window_and_costs_nobody_more_than_a_charge(bands):
    plan = replace(PLAN, rounds=15, separation=bands)
    assert settled(bands, plan).window == bands
    for round_, row_T in enumerate(whitening(bands, 15)):
        costs_T = np.square(CLIP * row_T)
        assert costs_T.max() <= 1 / SIGMA**2 * (1 + 1e-9)
        told = np.flatnonzero(costs_T > 1e-12).tolist()
        assert told == list(range(max(0, round_ - bands + 1), round_ + 1))


def charge_of(mechanism: DpFtrl) -> Charge:
    charge = mechanism.charge(7)
    assert charge is not None
    return charge


@pytest.mark.parametrize(("bands", "times"), [(1, 6), (4, 3), (10, 9)])
def test_epsilon_of_the_ledger_is_that_of_the_whole_release(bands, times):
    """Oracles: one Gaussian with the sensitivity found by brute force, and dp-accounting driven by hand."""
    charge = charge_of(settled(bands))
    assert (charge.mechanism, charge.unit, charge.relation) == ("dp_ftrl", "client", "zero_out")
    ledger = epsilon(compose([(charge, times)]).event, 1e-5, "pld", "zero_out")
    worst = price(whitening(bands, bands * times), [bands * n for n in range(times)])
    assert ledger == pytest.approx(gaussian_epsilon(1 / math.sqrt(worst), 1e-5), rel=1e-3)
    by_hand = PLDAccountant().compose(SelfComposedDpEvent(GaussianDpEvent(SIGMA), times)).get_epsilon(1e-5)
    assert ledger == pytest.approx(by_hand, rel=1e-3)


def test_a_target_is_met_by_the_client_that_takes_part_most_often():
    plan = replace(PLAN, participations=(1, 9) + (4,) * 198, accountant="pld")
    mechanism = DpFtrl(target_epsilon=3.0)
    mechanism.settle(plan)
    sigma = mechanism.noise_multiplier
    assert sigma is not None
    assert gaussian_delta(sigma / 3, 3.0) <= plan.delta * (1 + 1e-3)
    assert gaussian_delta(sigma / 3, 2.98) > plan.delta
    assert charge_of(mechanism) == replace(charge_of(settled()), event=GaussianDpEvent(sigma))
    assert np.allclose(noise(mechanism, 20, 3), noise(settled(), 20, 3) * sigma / (SIGMA * CLIP), rtol=1e-9)


# ---- benefit


def error(bands: int, rounds: int) -> Matrix:
    """Deviation of a value of each prefix sum, at the epsilon of independent noise of deviation 1, shape (T,)."""
    prefix_TT = np.tri(rounds) @ np.linalg.inv(whitening(bands, rounds))
    return np.asarray(np.linalg.norm(prefix_TT, axis=1) / (SIGMA * CLIP))


@pytest.mark.parametrize(("rounds", "most", "share"), [(30, 10, 0.55), (80, 10, 0.45), (80, 20, 0.4)])
def test_more_bands_make_prefix_sums_more_accurate_at_the_same_epsilon(rounds, most, share):
    independent = np.sqrt(np.arange(1, rounds + 1))
    assert np.allclose(error(1, rounds), independent)
    errors = [np.linalg.norm(error(bands, rounds)) for bands in (1, 2, 5, most)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < share * np.linalg.norm(independent)
    assert error(most, rounds)[-1] < share * independent[-1]


@pytest.mark.parametrize("rounds", [2, 10, 60])
def test_with_a_band_a_round_the_largest_error_is_landaus_constant(rounds):
    """Brutman 1982: 1 + ln(n + 1) / pi < G_n < 1.0663 + ln(n + 1) / pi, where independent noise has a root."""
    largest = error(rounds, rounds).max()
    assert 1 + math.log(rounds) / math.pi < largest < 1.0663 + math.log(rounds) / math.pi


# ---- state


def test_it_remembers_the_last_rounds_and_replaces_what_it_remembers():
    mechanism = settled(4)
    memory = dict[str, torch.Tensor]()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    expected_TD = noise(mechanism, 8, 5)
    for number in range(1, 9):
        mechanism.on_total(server_job(number, memory), np.zeros(5))
        assert memory.keys() == {"dp_ftrl.noise"}
        kept_HD = memory["dp_ftrl.noise"]
        assert kept_HD.dtype == torch.float64
        assert np.array_equal(kept_HD.numpy(), expected_TD[max(0, number - 3) : number][::-1])
        seen.append((kept_HD, kept_HD.clone()))
    assert all(torch.equal(kept_HD, copy_HD) for kept_HD, copy_HD in seen), "written to after it was stored"


def test_a_run_goes_on_from_its_checkpoint():
    """The resuming process has only the configuration and the checkpoint."""
    memory: dict[str, torch.Tensor] = {}
    for number in range(1, 8):
        settled(4).on_total(server_job(number, memory), np.zeros(5))
    buffer = io.BytesIO()
    torch.save(memory, buffer)
    again = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert len(buffer.getvalue()) < 3 * 5 * 8 + 3000, "the noise of earlier rounds went with it"
    assert np.array_equal(settled(4).on_total(server_job(8, again), np.zeros(5)), noise(settled(4), 8, 5)[7])


def test_without_the_noise_of_the_rounds_before_it_does_not_go_on():
    with pytest.raises(AssertionError, match="noise of another round"):
        settled(4).on_total(server_job(3, {}), np.zeros(5))


def test_what_it_tells_of_itself():
    mechanism = settled()
    job = client_job()
    clipped_D = mechanism.on_update(job, torch.tensor([3.0, 4.0]))
    assert clipped_D.tolist() == pytest.approx([0.6 * CLIP, 0.8 * CLIP])
    assert job.diagnostics == {"dp_ftrl.update_norm": 5.0, "dp_ftrl.clipped_fraction": 1.0}
    mechanism.on_update(job, torch.tensor([0.0, 0.5]))
    assert job.diagnostics == {"dp_ftrl.update_norm": 0.5, "dp_ftrl.clipped_fraction": 0.0}
    with pytest.raises(NonFiniteContribution):
        mechanism.on_update(job, torch.tensor([math.nan, 0.0]))
    memory: dict[str, torch.Tensor] = {}
    rows_T = np.linalg.norm(np.linalg.inv(strategy(10, 30)), axis=1)
    for number in range(1, 31):
        server = server_job(number, memory)
        mechanism.on_total(server, np.full(400, 3.0))
        std = SIGMA * CLIP * np.linalg.norm(strategy(10, 30)[:, 0]) * rows_T[number - 1]
        assert server.diagnostics == {"dp_ftrl.signal_to_noise": pytest.approx(60 / (20 * std))}
        assert server.state == {}, "told to clients"


# ---- refusals


@pytest.mark.parametrize(
    ("bands", "separation", "rounds", "window"),
    [(None, 3, 50, 3), (None, 51, 50, 50), (None, 1, 50, 1), (2, 3, 50, 2), (3, 3, 50, 3), (51, 51, 50, 50)],
)
def test_bands_are_the_separation_unless_fewer_are_wanted(bands, separation, rounds, window):
    mechanism = settled(bands, replace(PLAN, separation=separation, rounds=rounds))
    assert mechanism.window == window
    noise_TD = noise(mechanism, min(rounds, 60), 1)
    std = SIGMA * CLIP * np.linalg.norm(strategy(window, window)[:, 0])
    assert noise_TD[0] == pytest.approx(std * drawn(1, 1)[0])


POSITIVE = "must be a finite number above 0"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"noise_multiplier": None}, "noise_multiplier=None: give it or target_epsilon"),
        ({"target_epsilon": 2.0}, "noise_multiplier=1.0: target_epsilon=2.0 is given as well"),
        ({"noise_multiplier": -1.0}, f"noise_multiplier=-1.0: {POSITIVE}"),
        ({"noise_multiplier": None, "target_epsilon": 0.0}, f"target_epsilon=0.0: {POSITIVE}"),
        ({"clip": 0.0}, f"clip=0.0: {POSITIVE}"),
        ({"clip": 1e-300}, "clip=1e-300: must be from 1.2e-38"),
        ({"bands": 0}, "bands=0: must be at least 1"),
        ({"bands": -3}, "bands=-3: must be at least 1"),
    ],
)
def test_each_parameter_is_refused_in_one_line(arguments: Mapping[str, float | None], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        DpFtrl(**{"noise_multiplier": 1.0, **arguments})  # type: ignore[arg-type]
    assert str(refusal.value).startswith(f"mechanism.dp_ftrl.{line}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"uniform_weights": False}, "training.weighting=examples: dp_ftrl needs training.weighting=uniform"),
        ({"delta": 1 / 200}, r"delta=0.005: must be below 1/clients = 0.005"),
        (
            {"separation": 4},
            r"mechanism.dp_ftrl.bands=5: some client returns after 4 rounds: take at most as many bands, or "
            r"sampler.name=separated and a larger sampler.min_separation",
        ),
    ],
)
def test_a_plan_that_breaks_the_promise_is_refused(changes, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        settled(5, replace(PLAN, **changes))


# ---- in a run


SEEDED = ("noise=seeded", "delta=1e-3", "accountant=rdp", "training.weighting=uniform", "clients=6", "cohort=2")
OWN = ("+mechanism.dp_ftrl._target_=privacy.DpFtrl", "+mechanism.dp_ftrl.noise_multiplier=0.8")
KNOWN = (*PROBE, *OWN, "+mechanism.dp_ftrl.clip=7.0", *SEEDED, "sampler.name=separated", "rounds=7")


def test_the_model_is_the_clipped_updates_and_the_inverse_strategy_on_the_servers_noise(tmp_path):
    work = workspace_of(*KNOWN)
    fresh_TD = np.stack([work.plan.randomness("server", t).generator().standard_normal(650) for t in range(1, 8)])
    std = 0.8 * 7.0 * np.linalg.norm(strategy(3, 3)[:, 0])  # six clients in pairs return after three rounds
    moved_D = np.sum(np.linalg.inv(strategy(3, 7)) @ (std * fresh_TD), axis=0)
    for number in range(1, 8):
        for client in work.plan.cohort(number):
            update_D = known_update(client, number, 650).astype(np.float64)
            moved_D += update_D * 7.0 / np.linalg.norm(update_D)
    weights_D = run(tmp_path, *KNOWN).weights_D
    assert np.allclose(weights_D.numpy(), work.initial_D.numpy() + moved_D / 2, atol=1e-4)
    told = Checkpoints(tmp_path, 2).rows().filter(pl.col("stage") == "dp_ftrl", pl.col("where") == "server")
    assert told.filter(pl.col("metric") == "signal_to_noise")["round"].to_list() == list(range(1, 8))


def test_a_run_that_was_stopped_goes_on_with_its_noise_and_charges_the_window_again(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", *KNOWN)
    stopped = tmp_path / "stopped"
    stopped_in(5, workspace_of(*KNOWN), stopped)
    work = workspace_of(*KNOWN)
    server_of(work, stopped).run()
    state = Checkpoints(stopped, 2).latest()
    assert state is not None
    assert vectors.sha256(state.weights_D) == vectors.sha256(undisturbed.weights_D)
    assert torch.equal(state.secrets["dp_ftrl.noise"], undisturbed.secrets["dp_ftrl.noise"])
    once = [(number, list(work.plan.cohort(number))) for number in range(1, 8)]
    again = (5, sorted(client for number in (3, 4, 5) for client in work.plan.cohort(number)))
    assert charged(tmp_path / "undisturbed") == once
    assert charged(stopped) == [*once[:5], again, *once[5:]]


def test_bands_beyond_what_the_sampler_keeps_are_refused_before_anybody_trains():
    with pytest.raises(ConfigError, match=r"^mechanism.dp_ftrl.bands=2: some client returns after 1 rounds"):
        workspace_of(*OWN, *SEEDED, "rounds=30", "+mechanism.dp_ftrl.bands=2")
    assert workspace_of("mechanism=dp_ftrl", "clients=6", "cohort=2", "rounds=30").plan.backend.window == 3
