"""DP-FTRL's noise as dense matrices.

The tests derive the mechanism from its noise alone: `whitening` is the matrix M that makes the noise white, so the
release is equivalent to M x + N(0, 1), with x the sums of the rounds. T is rounds, D values of the model.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import toeplitz

from privacy.accounting.charges import Charge
from privacy.mechanisms.contract import Plan, ServerJob
from privacy.mechanisms.dp_ftrl import DpFtrl
from privacy.randomness import SeededRandomness
from tests.privacy.mechanisms.client_jobs import PLAN as CLIENT_PLAN

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


def charge_of(mechanism: DpFtrl) -> Charge:
    charge = mechanism.charge(7)
    assert charge is not None
    return charge
