#!/bin/sh
# dp-accounting 0.6.0: the PLD accountant at a small delta, for a Gaussian that is composed as Poisson samples are.
#
# Guess: privacy loss distributions are rounded up, so their epsilon never falls below the exact one, at any delta; and at
# a delta of 1e-15 it is a little larger than at 1e-14.
#
# Behaviour: the convolution that composes sampled events adds rounding errors of floating point to every probability.
# A thousand sampled steps give an epsilon below the exact value: by 2e-5 at delta 1e-10, by 0.017 at 1e-14. Each
# composition also moves a fixed mass of 1e-15 to an infinite loss, so at delta 1e-15 epsilon is infinite whatever the
# noise; a search for the noise of a target epsilon then ends at the noise where the loss vanishes in the discretisation.
#
# Seen: delta 1e-05: exact 17.856587, pld 17.856589; 1e-10: exact 24.569659, pld 24.569642;
# 1e-14: exact 28.686163, pld 28.669587; 1e-15: exact 29.613454, pld inf.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dp-accounting==0.6.0 mpmath==1.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import math

import mpmath
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

SIGMA = 10.0
STEPS = 1000
mpmath.mp.dps = 40


def exact(delta: float) -> float:
    """Epsilon of one Gaussian of deviation SIGMA / sqrt(STEPS) (Balle and Wang 2018, Theorem 8)."""
    sigma = mpmath.mpf(SIGMA) / mpmath.sqrt(STEPS)
    low, high = mpmath.mpf(0), mpmath.mpf(500)
    for _ in range(120):
        middle = (low + high) / 2
        half = 1 / (2 * sigma)
        there = mpmath.ncdf(half - middle * sigma) - mpmath.exp(middle) * mpmath.ncdf(-half - middle * sigma)
        low, high = (middle, high) if there > delta else (low, middle)
    return float(high)


accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
accountant.compose(PoissonSampledDpEvent(1.0, GaussianDpEvent(SIGMA)), STEPS)
for delta in (1e-5, 1e-10, 1e-14, 1e-15):
    print(f"delta {delta:g}: exact {exact(delta):.6f}, pld {accountant.get_epsilon(delta):.6f}")
assert accountant.get_epsilon(1e-5) >= exact(1e-5), "at usual deltas it is a bound"
assert accountant.get_epsilon(1e-10) < exact(1e-10)
assert accountant.get_epsilon(1e-14) < exact(1e-14) - 0.01
assert math.isinf(accountant.get_epsilon(1e-15))
print("as stated")
PYTHON
