"""The exact privacy of the Gaussian mechanism, from its formula, without an accountant."""

import math

from scipy.optimize import brentq
from scipy.stats import norm


def gaussian_delta(sigma: float, epsilon: float) -> float:
    """Delta of Gaussian noise `sigma` at sensitivity 1 (Balle and Wang 2018, arXiv:1805.06530, Theorem 8)."""
    half = 0.5 / sigma
    return float(norm.cdf(half - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-half - epsilon * sigma))


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Epsilon where `gaussian_delta` is `delta`."""
    return float(brentq(lambda epsilon: gaussian_delta(sigma, epsilon) - delta, 0, 500, xtol=1e-10))
