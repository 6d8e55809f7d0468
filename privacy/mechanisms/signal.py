"""The figure that a mechanism tells of its sum, computed from the noised sum alone.

Shapes: D is the number of values of the model.
"""

import math

import numpy as np
from numpy.typing import NDArray


def signal_to_noise(noised_D: NDArray[np.float64], noise_norm: float) -> float:
    """Return an estimate of the sum's norm over the expected norm of its noise, from the noised sum, shape (D,).

    The squares of both norms add up to that of the noised sum, in expectation. A function of the noised sum alone is
    post-processing, so epsilon covers it (Dwork and Roth 2014, Proposition 2.1); the norm of the exact sum is not. 0
    means that the sum cannot be told from its noise, infinity that there is none.
    """
    if not noise_norm:
        return math.inf
    ratio = float(np.linalg.norm(noised_D)) / noise_norm
    return math.sqrt(max(0.0, ratio * ratio - 1))
